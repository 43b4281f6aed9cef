/* Counters in a mapped file at odd offsets, and an object at the front of a byte array: which line of which function locks the bus?
   Argument: how often. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
struct statistics { int id; long received, decoded, framed, encoded, bytes_in, bytes_out, sent; } __attribute__((packed));
static char arena[256] __attribute__((aligned(64)));
struct refs { long count; int flag; };
__attribute__((noinline)) static void message_sent(struct statistics *s) { __atomic_fetch_add(&s->sent, 1, __ATOMIC_SEQ_CST); }
__attribute__((noinline)) static void take_reference(struct refs *r) { __atomic_add_fetch(&r->count, 1, __ATOMIC_SEQ_CST); }
__attribute__((noinline)) static int try_lock(int *l) { return __atomic_exchange_n(l, 1, __ATOMIC_ACQUIRE); }
int main(int count, char **arguments)
{
    int n = count > 1 ? atoi(arguments[1]) : 3;
    struct timespec a, b;
    struct statistics *s = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    s = (void *)((char *)s + 9);                                /* sent is at 9 + 52 = 61 */
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int i = 0; i < n; i++)
        message_sent(s);
    take_reference((struct refs *)(arena + 60));
    try_lock((int *)(arena + 126));
    clock_gettime(CLOCK_MONOTONIC, &b);
    printf("sent %ld, references %ld, %s %ld ms\n", s->sent, ((struct refs *)(arena + 60))->count, n > 20 ? "in" : "done;",
           n > 20 ? (b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000 : 0);
    return 0;
}
