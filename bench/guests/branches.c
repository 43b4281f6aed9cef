// Branches that nothing predicts: three a number, on bits of a random number; one round is 1024 numbers.
#include "bench.h"

u64 run(u64 rounds, int *ok)
{
    u64 state = 1, first = 0, second = 0, third = 0, none = 0, mix = 0;
    for (u64 count = rounds * 1024; count; count--) {
        u64 bits = next_random(&state) >> 56;
        // The empty statements keep the branches: without them the compiler counts by arithmetic.
        if (bits & 1) {
            first++;
            mix ^= count;
            __asm__ volatile("" : "+r"(mix));
        } else if (bits & 2) {
            second++;
            mix += bits;
            __asm__ volatile("" : "+r"(mix));
        } else if (bits & 4) {
            third++;
            mix -= count;
            __asm__ volatile("" : "+r"(mix));
        } else {
            none++;
            __asm__ volatile("" : "+r"(none));
        }
    }
    u64 whole = first + second + third + none;
    *ok = whole == rounds * 1024 && first * 2 > whole - whole / 10 && first * 2 < whole + whole / 10;
    return mix + first * 3 + second * 5 + third * 7;
}
