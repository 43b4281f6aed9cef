// Accesses that a device answers, one by one; one round is 1000 of them. ACCESS: 1 IN from COM1's line status, 2 OUT to its scratch
// register, 3 a load from the I/O APIC's window, 4 a store to its index register.
#include "bench.h"

static inline u32 once(u64 turn)
{
#if ACCESS == 1
    u8 value;
    (void)turn;
    __asm__ volatile("inb %w1, %b0" : "=a"(value) : "d"(0x3FD));
    return value;
#elif ACCESS == 2
    __asm__ volatile("outb %b0, %w1" : : "a"((u8)turn), "d"(0x3FF));
    return 0;
#elif ACCESS == 3
    (void)turn;
    return *(volatile u32 *)0xFEC00010UL;
#else
    *(volatile u32 *)0xFEC00000UL = (u32)turn & 1;
    return 0;
#endif
}

// The last GiB below 4 GiB onto itself, uncached.
static u64 high_pages[512] __attribute__((aligned(4096)));
extern u64 pdpt[];

u64 run(u64 rounds, int *ok)
{
    for (u64 page = 0; page < 512; page++)
        high_pages[page] = (3UL << 30 | page << 21) + 0x9B;
    pdpt[3] = (u64)high_pages + 3;
    __asm__ volatile("mov %%cr3, %%rax\n\tmov %%rax, %%cr3" : : : "rax", "memory");
#if ACCESS == 3
    *(volatile u32 *)0xFEC00000UL = 1;  // the version register
#endif
    u64 all = 0;
    for (u64 turn = rounds * 1000; turn; turn--)
        all |= once(turn);
    *ok = ACCESS == 1 ? (all & 0x60) == 0x60 : ACCESS == 3 ? (all & 0xFF) >= 0x11 : 1;
    return rounds;
}
