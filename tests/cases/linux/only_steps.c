/* A program that never locks the bus and steps itself by TF: kernels before 6.16 write 0 to DR6 at start-up; on a CPU whose DR6.BLD is
   writable (Intel with bus-lock detection) the first step then reads as a bus lock (Linux 5f465c148c61). */
#include <signal.h>
#include <stdio.h>
static volatile int hits;
static void handler(int s) { hits++; }
int main(void)
{
    signal(SIGTRAP, handler);
    for (int i = 0; i < 3; i++)
        asm volatile("pushfq\n orl $0x100, (%%rsp)\n popfq\n nop\n pushfq\n andl $~0x100, (%%rsp)\n popfq" : : : "memory", "cc");
    printf("steps %d\n", hits);
    return 0;
}
