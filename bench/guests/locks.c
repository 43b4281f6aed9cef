// Locked additions inside a cache line, in ring 3, with Bus Lock Detect on or off (DETECT); one round is 1024 of them.
#include "ring3.h"

__attribute__((used)) static volatile u64 counter __attribute__((aligned(64)));
void ring3(void);
__asm__(".pushsection .text\n"
        "ring3:\n\tlock addq $1, counter\n\tlock addq $1, counter\n\tlock addq $1, counter\n\tlock addq $1, counter\n\t"
        "subq $4, %rbx\n\tjnz ring3\n\tint $0x80\n"
        ".popsection");
void debug_entry(void);
__asm__(".pushsection .text\ndebug_entry:\n\tincq taken\n\tiretq\n.popsection");

u64 run(u64 rounds, int *ok)
{
    set_gate(0x80, back_entry, 3);
    set_gate(1, debug_entry, 0);
    detect_bus_locks(DETECT);
    run_ring3(ring3, rounds * 1024);
    *ok = counter == rounds * 1024 && !taken;
    return counter;
}
