/* A 32-bit kernel of three functions, for backtraces with arguments. */
int value;
__attribute__((noinline)) int inner(int a, int b) { volatile int local = a * b; value = local + 1; return value; }
__attribute__((noinline)) int middle(int a) { return inner(a, a + 1) + 1; }
int kernel_main(unsigned magic, unsigned info)
{
    int r = middle(6);
    asm volatile("outb %%al, %%dx" : : "a"(0x10), "d"(0xF4));
    return r;
}
