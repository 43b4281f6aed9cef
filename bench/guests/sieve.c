// Sieve of Eratosthenes over 1 MiB of bytes; one round finds the 82,025 primes below 2^20.
#include "bench.h"

enum { LIMIT = 1 << 20 };
static u8 composite[LIMIT];

static NOINLINE u64 sieve(void)
{
    u64 primes = 0;
    for (u64 index = 0; index < LIMIT; index += 8)
        *(u64 *)(composite + index) = 0;
    for (u64 number = 2; number < LIMIT; number++) {
        if (composite[number])
            continue;
        primes++;
        for (u64 multiple = number * number; multiple < LIMIT; multiple += number)
            composite[multiple] = 1;
    }
    return primes;
}

u64 run(u64 rounds, int *ok)
{
    u64 total = 0;
    for (u64 round = 0; round < rounds; round++)
        total += sieve();
    *ok = total == rounds * 82025;
    return total;
}
