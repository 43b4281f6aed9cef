/* Programs that lock the bus, or do not, each by its first argument. The library is this file with -DLIBRARY. */
#include <stdint.h>
#ifdef LIBRARY
static uint64_t exchange(void *at, uint64_t value)
{
    __asm__ volatile("xchg %0, (%1)" : "+r"(value) : "r"(at) : "memory");  /* library line */
    return value;
}

uint64_t swap(void *at, uint64_t value)
{
    return exchange(at, value) + 1;
}
#else
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

uint64_t swap(void *at, uint64_t value);

struct record {
    char name[62];
    uint32_t counter;
} __attribute__((packed, aligned(64)));

struct record shared;

static void count(int times)
{
    while (times--)
        __asm__ volatile("lock addl $1, %0" : "+m"(shared.counter));  /* counting line */
}

static void *counting(void *nothing)
{
    count(5);
    return nothing;
}

__attribute__((noinline)) static void add(volatile uint32_t *to)
{
    __asm__ volatile("lock addl $1, %0" : "+m"(*to));  /* line of a local */
}

static void *held(void *nothing)
{
    struct record mine[2];
    memset(mine, 0, sizeof mine);
    {
        struct record inner = mine[0];
        add((void *)((char *)&inner + 62));
        __asm__ volatile("lock addl $2, %0" : "+m"(mine[1].counter));  /* line in its own function */
        __asm__ volatile("" : : "r"(&inner), "r"(mine) : "memory");
    }
    return nothing;
}

int main(int argc, char **argv)
{
    const char *what = argv[1];
    if (!strcmp(what, "forever")) /* who has read its line may end it: all is done by then */
        count(3);
    printf("%s\n", what);
    fflush(stdout);
    if (!strcmp(what, "lock")) {
        count(10);
        return 5;
    }
    if (!strcmp(what, "library")) {
        char *heap = aligned_alloc(64, 128);
        swap(heap + 59, 1);
    } else if (!strcmp(what, "locals")) {
        pthread_t thread;
        pthread_create(&thread, 0, held, 0);
        pthread_join(thread, 0);
        held(0);
        return 0;
    } else if (!strcmp(what, "blocks")) {
        uintptr_t blocks[] = {(uintptr_t)malloc(96), (uintptr_t)malloc(1 << 20), (uintptr_t)malloc(2000)};
        free((void *)blocks[2]);
        for (int n = 0; n < 3; n++) {
            uintptr_t at = blocks[n] + 16;
            at += 60 - at % 64;
            printf("%d\n", (int)(at - blocks[n]));
            switch (n) {
            case 0: __asm__ volatile("lock addl $1, 1(%0)" : : "r"(at) : "memory"); break;  /* small block */
            case 1: __asm__ volatile("lock addl $1, 1(%0)" : : "r"(at) : "memory"); break;  /* large block */
            case 2: __asm__ volatile("lock addl $0, 1(%0)" : : "r"(at) : "memory"); break;  /* freed block */
            }
        }
        return 0;
    } else if (!strcmp(what, "fork")) {
        count(1);
        if (!fork())
            execl(argv[0], argv[0], "lock", (char *)0);
        wait(0);
    } else if (!strcmp(what, "race")) {
        int child = fork();
        count(200000);
        if (child)
            wait(0);
    } else if (!strcmp(what, "threads")) {
        pthread_t threads[3];
        for (int n = 0; n < 3; n++)
            pthread_create(&threads[n], 0, counting, 0);
        for (int n = 0; n < 3; n++)
            pthread_join(threads[n], 0);
    } else if (!strcmp(what, "within")) {
        swap(shared.name, 1);
        kill(getpid(), SIGTERM);
    } else if (!strcmp(what, "forever")) {
        pause();
    }
    return 0;
}
#endif
