// Sum of an array of 4096 64-bit numbers that fits the first-level cache; one round is one pass.
#include "bench.h"

static u64 numbers[4096];

static NOINLINE u64 sum(const u64 *from, u64 count)
{
    u64 total = 0;
    for (u64 index = 0; index < count; index++)
        total += from[index];
    return total;
}

u64 run(u64 rounds, int *ok)
{
    u64 total = 0;
    for (u64 index = 0; index < 4096; index++)
        numbers[index] = index * 3 + 1;
    for (u64 round = 0; round < rounds; round++) {
        __asm__ volatile("" : : : "memory");
        total += sum(numbers, 4096);
    }
    *ok = total == rounds * (3UL * 4095 * 4096 / 2 + 4096);
    return total;
}
