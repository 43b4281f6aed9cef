// Calls through a table of eight functions, in pseudo-random order; one round is 1024 calls.
#include "bench.h"

static u64 calls[8];

#define TARGET(n)                                   \
    static NOINLINE u64 target_##n(u64 total)       \
    {                                               \
        calls[n]++;                                 \
        return total + n * 7 + 1;                   \
    }
TARGET(0) TARGET(1) TARGET(2) TARGET(3) TARGET(4) TARGET(5) TARGET(6) TARGET(7)

static u64 (*const targets[8])(u64) = { target_0, target_1, target_2, target_3, target_4, target_5, target_6, target_7 };

u64 run(u64 rounds, int *ok)
{
    u64 total = 0, state = 1, seen = 0, expected = 0;
    for (u64 count = rounds * 1024; count; count--)
        total = targets[next_random(&state) >> 61](total);
    for (u64 index = 0; index < 8; index++) {
        seen += calls[index];
        expected += calls[index] * (index * 7 + 1);
    }
    *ok = seen == rounds * 1024 && total == expected;
    return total;
}
