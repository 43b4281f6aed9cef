/* Children that sleep in the kernel, each in another call; prints what the kernel says of their stacks, then locks the bus. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct { char before[62]; uint32_t value; } __attribute__((packed, aligned(64))) shared;

static void sleeping(int how)
{
    int ends[2];
    uint32_t word = 0;
    char byte;
    struct pollfd one;
    switch (how) {
    case 0: nanosleep(&(struct timespec){100, 0}, 0); break;
    case 1: pipe(ends); read(ends[0], &byte, 1); break;
    case 2: pause(); break;
    case 3: syscall(SYS_futex, &word, FUTEX_WAIT, 0, 0, 0, 0); break;
    case 4: pipe(ends); one = (struct pollfd){ends[0], POLLIN, 0}; poll(&one, 1, -1); break;
    case 5: if (!fork()) { sleep(100); _exit(0); } wait(0); break;
    }
    _exit(0);
}

static void show(int child, const char *what)
{
    char name[64], text[8192];
    snprintf(name, sizeof name, "/proc/%d/%s", child, what);
    FILE *file = fopen(name, "r");
    text[file ? fread(text, 1, sizeof text - 1, file) : 0] = 0;
    printf("%d %s\n%s", child, what, text);
}

int main(void)
{
    int children[6];
    for (int how = 0; how < 6; how++)
        if (!(children[how] = fork()))
            sleeping(how);
    nanosleep(&(struct timespec){1, 0}, 0);
    for (int how = 0; how < 6; how++)
        show(children[how], "stack"), show(children[how], "syscall");
    fflush(stdout);
    __asm__ volatile("lock incl %0" : "+m"(shared.value));
    return 0;
}
