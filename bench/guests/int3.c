// INT3 through the IDT to our own handler and back with IRETQ; one round is 1024 of them.
#include "bench.h"

static volatile u64 taken;
void int3_entry(void);
__asm__(".pushsection .text\nint3_entry:\n\tincq taken\n\tiretq\n.popsection");

u64 run(u64 rounds, int *ok)
{
    set_gate(3, int3_entry, 0);
    for (u64 count = rounds * 1024; count; count--)
        __asm__ volatile("int3" : : : "memory");
    *ok = taken == rounds * 1024;
    return taken;
}
