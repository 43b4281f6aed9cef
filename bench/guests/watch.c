// Loads (WORK 1), stores (2), or pushes and pops (3), 1024 a round, over PAGES pages from FAR, in whose second halves data is watched: by
// the guest itself where DR7 is not 0, with WHERE in DR0, or by a debugger. Nothing hits a breakpoint.
#include "bench.h"

#define FAR ((volatile u32 *)0x2000000)

static NOINLINE u64 work(u64 state)
{
#if WORK == 3
    for (int turn = 0; turn < 512; turn++)
        __asm__ volatile("push %0\n\tadd $3, %0\n\tpop %%rcx\n\txor %%rcx, %0" : "+r"(state) : : "rcx", "memory");
#else
    int page = 0;
    for (int turn = 0; turn < 1024; turn++) {
        volatile u32 *place = FAR + page * 1024 + (turn & 255);
        page = page + 1 < PAGES ? page + 1 : 0;
#if WORK == 1
        state += *place ^ state >> 3;
#else
        *place = (u32)state + turn;
#endif
    }
#endif
    return state;
}

u64 run(u64 rounds, int *ok)
{
    u64 causes, state = 1;
    __asm__ volatile("mov %0, %%dr0\n\tmov %1, %%dr7" : : "r"((u64)(WHERE)), "r"((u64)DR7));
    for (u64 round = 0; round < rounds; round++)
        state = work(state + round);
    __asm__ volatile("mov %%dr6, %0\n\tmov %1, %%dr7" : "=r"(causes) : "r"(0UL));
    *ok = !(causes & 15);
    return state;
}
