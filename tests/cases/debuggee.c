/* A guest for debuggers: calls to go into and out of, data to watch in every width, an INT3 of its own, a loop to interrupt. */
#include "rt.h"

struct { u64 first, second; u8 bytes[5000]; } large;
volatile u64 result, turns, breaks;
u8 block[64] __attribute__((aligned(64)));
char words[64] = "a needle in a stack of hay";

__attribute__((noinline)) u64 plus(u64 a, u64 b)
{
    u64 both = a;
    both += b;
    result = both;
    return both;
}

__attribute__((noinline)) u64 series(u64 count)
{
    u64 sum = 0;
    for (u64 term = 0; term < count; term++)
        sum = plus(sum, term);
    return sum;
}

__attribute__((noinline)) void change(void)
{
    ((volatile u8 *)large.bytes)[4000] = 1;
    ((volatile u8 *)large.bytes)[4000] = 2;
    u8 *to = block;
    u64 count = 64;
    asm volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(3) : "memory");
    const char *from = words;
    asm volatile("lodsq\n lodsq" : "+S"(from) : : "rax", "memory");
}

__attribute__((noinline)) void own_breakpoint(void) { asm volatile("int3\n nop"); }

__attribute__((noinline)) void turn(void)
{
    for (u64 left = 200000; left; left--)
        turns++;
}

static void trap(struct frame *frame)
{
    if (frame->vector == 3)
        breaks++;
    else
        finish(3);
}

void kmain(void)
{
    on_trap = trap;
    line("series", series(5));
    change();
    own_breakpoint();
    line("breaks", breaks);
    turn();
    line("turns", turns);
}
