/* Programs that lock the bus, or nearly do, each by its first argument: what an emulator of another make sees as well. */
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static struct { char before[60]; sem_t semaphore; } __attribute__((packed, aligned(64))) header;
static struct { char before[62]; pthread_mutex_t mutex; } __attribute__((packed, aligned(64))) guarded;
static struct { char before[60]; uint64_t value; } __attribute__((packed, aligned(64))) counter;

static void *post(void *nothing)
{
    for (int n = 0; n < 5; n++)
        sem_post(&header.semaphore);
    return nothing;
}

static void *take(void *nothing)
{
    for (int n = 0; n < 7; n++) {
        pthread_mutex_lock(&guarded.mutex);
        pthread_mutex_unlock(&guarded.mutex);
    }
    return nothing;
}

static void *nothing(void *given)
{
    return given;
}

static void in_a_thread(void *(*what)(void *))
{
    pthread_t one;
    pthread_create(&one, 0, what, 0);
    pthread_join(one, 0);
}

static void records(void)
{
    struct record { char name[28]; uint64_t hits; } __attribute__((packed)) *all = aligned_alloc(64, 64 * 36);
    for (int n = 0; n < 64; n++) {
        __atomic_fetch_add(&all[n].hits, 1, __ATOMIC_SEQ_CST);
        __atomic_store_n(&all[n].hits, 5, __ATOMIC_SEQ_CST);
        if ((uintptr_t)&all[n].hits % 64 > 56)
            printf("%d ", n);
    }
    printf("\n");
}

static void widths(void)
{
    char *page = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int at = 4096 - 16; at < 4096 + 16; at++) {
        __asm__ volatile("lock incb %0" : "+m"(page[at]));
        __asm__ volatile("lock incw %0" : "+m"(*(uint16_t *)(page + at)));
        __asm__ volatile("lock incl %0" : "+m"(*(uint32_t *)(page + at)));
        __asm__ volatile("lock incq %0" : "+m"(*(uint64_t *)(page + at)));
        uint16_t value = 1;
        __asm__ volatile("xchgw %0, %1" : "+r"(value), "+m"(*(uint16_t *)(page + at)));
        uint64_t old = 3, new = 4;
        __asm__ volatile("lock cmpxchgq %2, %1" : "+a"(old), "+m"(*(uint64_t *)(page + at)) : "r"(new));
        __asm__ volatile("lock btsq $5, %0" : "+m"(*(uint64_t *)(page + at)));
        __asm__ volatile("incq %0" : "+m"(*(uint64_t *)(page + at)));
    }
}

int main(int argc, char **argv)
{
    const char *what = argv[1];
    if (!strcmp(what, "counter"))
        for (int n = 0; n < 300; n++)
            __atomic_fetch_add(&counter.value, 1, __ATOMIC_SEQ_CST);
    else if (!strcmp(what, "semaphore"))
        in_a_thread(post);
    else if (!strcmp(what, "mutex in threads"))
        in_a_thread(nothing), in_a_thread(take);
    else if (!strcmp(what, "mutex alone"))
        take(0);
    else if (!strcmp(what, "records"))
        records();
    else if (!strcmp(what, "widths"))
        widths();
    else
        return 2;
    return 0;
}
