/* Locks the bus from many places: each /word/ is that of a test. With -DBARE: a function that says nothing of its frame. */
#define _GNU_SOURCE
#include <stdint.h>
void pointed(void (*callback)(void));
#ifdef BARE
__attribute__((noinline)) void pointed(void (*callback)(void))
{
    volatile char room[100];
    room[0] = 1;
    callback();
    room[1] = 2;
}
#else
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>

static struct {
    char before[61];
    uint32_t counter;
} __attribute__((packed, aligned(64))) shared;
static volatile int done;

#define LOCK() __asm__ volatile("lock addl $1, %0" : "+m"(shared.counter))

static inline __attribute__((always_inline)) void innermost(void)
{
    LOCK(); /* inlined */
}

static inline __attribute__((always_inline)) void middle(void)
{
    innermost(); /* call of innermost */
}

__attribute__((noinline)) void outer(int times)
{
    while (times--)
        middle(); /* call of middle */
}

__attribute__((noinline)) void by_pointer(void)
{
    LOCK(); /* frame pointer */
    done = 0;
}

static void handler(int number)
{
    LOCK(); /* signal */
}

__attribute__((noipa)) static void timer(int number, siginfo_t *what, void *context)
{
    uint64_t at = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP], vdso = getauxval(AT_SYSINFO_EHDR);
    if (at >= vdso && at < vdso + 0x2000 && !done) {
        LOCK(); /* vdso */
        done = 1;
    }
}

static int compare(const void *a, const void *b)
{
    LOCK(); /* callback */
    return *(const int *)a - *(const int *)b;
}

__attribute__((noinline)) int deep(int depth)
{
    if (!depth)
        LOCK(); /* deep */
    else
        deep(depth - 1);
    return done + depth; /* no tail call */
}

static void *thread(void *nothing)
{
    LOCK(); /* thread */
    return nothing;
}

int main(void)
{
    outer(100);
    pointed(by_pointer);
    signal(SIGUSR1, handler);
    raise(SIGUSR1);
    int numbers[2] = {2, 1};
    qsort(numbers, 2, sizeof(int), compare);
    deep(300);
    pthread_t one;
    pthread_create(&one, 0, thread, 0);
    pthread_join(one, 0);
    struct sigaction action = {.sa_sigaction = timer, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGALRM, &action, 0);
    struct itimerval often = {{0, 1000}, {0, 1000}};
    setitimer(ITIMER_REAL, &often, 0);
    for (struct timespec now; !done;)
        clock_gettime(CLOCK_MONOTONIC, &now);
    return 0;
}
#endif
