/* Two bus locks whose lines of source the reports name. */
#include "rt.h"

static struct __attribute__((packed)) {
    char pad[62];
    volatile unsigned counter;
} record __attribute__((aligned(64)));

__attribute__((noinline)) static void bump(volatile unsigned *counter)
{
    __sync_fetch_and_add(counter, 1); /* FIRST */
}

void kmain(void)
{
    bump(&record.counter); /* CALL */
    __sync_fetch_and_or(&record.counter, 4); /* SECOND */
}
