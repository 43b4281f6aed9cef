// Double arithmetic with SSE2: pi by the midpoint rule (divisions, scalar) and a vector of two steps of x = x * a + b; 1024 each a round.
#include "bench.h"

typedef double pair __attribute__((vector_size(16)));

u64 run(u64 rounds, int *ok)
{
    u64 count = rounds * 1024;
    double step = 1.0 / (double)count, sum = 0.0;
    pair x = { 0.0, 1.0 }, a = { 0.5, -0.25 }, b = { 1.0, 5.0 };
    for (u64 index = 0; index < count; index++) {
        double at = ((double)index + 0.5) * step;
        sum += 4.0 / (1.0 + at * at);
        x = x * a + b;
    }
    union {
        double value;
        u64 bits;
    } pi = { sum * step };
    double wrong = pi.value - 3.14159265358979323846;
    *ok = wrong < 1e-9 && wrong > -1e-9 && x[0] == 2.0 && x[1] == 4.0;
    return pi.bits;
}
