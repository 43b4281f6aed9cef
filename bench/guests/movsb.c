// REP MOVSB: one round copies 32 KiB, once in one piece and once in pieces of 64 bytes.
#include "bench.h"

static u8 from[32768], to[32768 + 1];

static void copy(u8 *target, const u8 *source, u64 count)
{
    __asm__ volatile("rep movsb" : "+D"(target), "+S"(source), "+c"(count) : : "memory");
}

u64 run(u64 rounds, int *ok)
{
    u64 state = 1, checksum = 0;
    for (u64 index = 0; index < sizeof from; index++)
        from[index] = (u8)(next_random(&state) >> 56);
    for (u64 round = 0; round < rounds; round++) {
        from[round % sizeof from] ^= 0x55;
        copy(to, from, sizeof from);
        for (u64 at = 0; at < sizeof from; at += 64)
            copy(to + 1 + at, from + at, 64);
    }
    for (u64 index = 0; index < sizeof from; index++) {
        *ok &= to[index + 1] == from[index];
        checksum = checksum * 31 + to[index + 1];
    }
    *ok &= to[0] == from[0];
    return checksum;
}
