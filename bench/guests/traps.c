// Traps from ring 3 to a handler that counts them: a bus lock (TRAP 1), the same with a handler that reads DR6 and puts it back (2),
// or INT3 (3). One round is 1000 of them.
#include "ring3.h"

__attribute__((used)) static struct {
    u8 before[62];
    u32 split;
} __attribute__((packed, aligned(64))) lines;

#if TRAP == 3
#define LOOP "int3\n\t"
#else
#define LOOP "lock addl $1, lines + 62\n\t"
#endif
#if TRAP == 2
#define HANDLER "pushq %rax\n\tmovq %dr6, %rax\n\torl $0x800, %eax\n\tmovq %rax, %dr6\n\tpopq %rax\n\t"
#else
#define HANDLER
#endif

void ring3(void);
void trap_entry(void);
__asm__(".pushsection .text\n"
        "ring3:\n\t" LOOP "decq %rbx\n\tjnz ring3\n\tint $0x80\n"
        "trap_entry:\n\t" HANDLER "incq taken\n\tiretq\n"
        ".popsection");

u64 run(u64 rounds, int *ok)
{
    set_gate(0x80, back_entry, 3);
    set_gate(TRAP == 3 ? 3 : 1, trap_entry, 3);
    detect_bus_locks(TRAP != 3);
    run_ring3(ring3, rounds * 1000);
    *ok = taken == rounds * 1000;
    return taken + lines.split;
}
