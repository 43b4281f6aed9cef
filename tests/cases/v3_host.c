/* `v3_kernels` on the host: prints what the guest does. */
#include <stdio.h>

extern unsigned long (*const v3_kernels[])(void);
extern const char *const v3_names[];
void v3_fill(void);
unsigned long v3_repeated(int n);

int main(void) {
    v3_fill();
    for (int n = 0; v3_kernels[n]; n++)
        printf("%s=%lx\n", v3_names[n], v3_repeated(n));
    return 0;
}
