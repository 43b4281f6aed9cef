// Nothing: what starting and ending a guest costs.
#include "bench.h"

u64 run(u64 rounds, int *ok)
{
    *ok = rounds == ITERATIONS;
    return 0;
}
