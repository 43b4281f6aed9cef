// Runs generated code (bench/growth.py) once, from its first byte to its last; says so before and behind it, and stays.
#include "bench.h"

__asm__(".pushsection .text.grown, \"ax\"\n"
        "grown:\n\t"
        "pushq %rbx\n\tpushq %rbp\n\tpushq %r12\n\tpushq %r13\n\tpushq %r14\n\tpushq %r15\n\t"
        "leaq scratch, %rsi\n\tleaq scratch + 4096, %rdi\n\t"
        ".incbin \"" CODE "\"\n\t"
        "popq %r15\n\tpopq %r14\n\tpopq %r13\n\tpopq %r12\n\tpopq %rbp\n\tpopq %rbx\n\tret\n"
        ".popsection");
void grown(void);
__attribute__((used)) static u8 scratch[8192] __attribute__((aligned(4096)));

u64 run(u64 rounds, int *ok)
{
    *ok = 1;
    say("bench: before\n");
    grown();
    say("bench: behind\n");
    for (;;)
        __asm__ volatile("pause");
    return rounds;
}
