/* Counts and sums the primes below a million: the program that the soaked guest compiles for itself. */

#include <stdio.h>

static char crossed[1000000];

int main(void)
{
    unsigned long long sum = 0;
    int count = 0;
    for (int number = 2; number < 1000000; number++) {
        if (crossed[number])
            continue;
        count++;
        sum += number;
        for (int multiple = number; multiple < 1000000; multiple += number)
            crossed[multiple] = 1;
    }
    printf("%d primes, sum %llu\n", count, sum);
    return 0;
}
