// Recursive calls: Fibonacci number 22 the slow way, 57,313 calls a round.
#include "bench.h"

static NOINLINE u64 fibonacci(u64 n)
{
    if (n < 2)
        return n;
    u64 left = fibonacci(n - 1);
    __asm__ volatile("" : "+r"(left));  // both calls are calls: no loop made of the second
    return left + fibonacci(n - 2);
}

u64 run(u64 rounds, int *ok)
{
    u64 total = 0;
    for (u64 round = 0; round < rounds; round++)
        total += fibonacci(22);
    *ok = total == rounds * 17711;
    return total;
}
