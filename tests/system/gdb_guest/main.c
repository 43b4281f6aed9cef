/* A small program for a debugger: calls, a loop, variables to watch, floating point. */
int counter, rounds;
long table[8];
#ifdef __SSE2__
volatile double half = 0.5;
volatile long double wide = 1.25L;
#endif

int add(int a, int b)
{
    int sum = a + b;
    return sum;
}

int twice(int x)
{
    int first = add(x, x);
    return first;
}

static void round_trip(void)
{
    counter = twice(counter & 0xFF) + 1;
    table[counter & 7]++;
#ifdef __SSE2__
    half = half * 2.0 - 0.5;
    wide = wide + 1.0L;
#endif
}

int guest_main(void)
{
    while (rounds != -1) {
        round_trip();
        rounds++;
    }
    return 3;
}
