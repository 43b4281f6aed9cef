/* `v3_kernels` in a guest: switches AVX on, and prints the number of each. */
#include "rt.h"

extern u64 (*const v3_kernels[])(void);
extern const char *const v3_names[];
void v3_fill(void);
u64 v3_repeated(int n);

void kmain(void) {
    u64 cr4;
    asm volatile("mov %%cr4, %0; or $0x40000, %0; mov %0, %%cr4" : "=r"(cr4) : : "memory");
    asm volatile("xsetbv" : : "a"(7), "d"(0), "c"(0));
    v3_fill();
    for (int n = 0; v3_kernels[n]; n++)
        line(v3_names[n], v3_repeated(n));
    finish(0);
}
