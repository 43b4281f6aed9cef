/* splitlock [N]: lock-add N times (default 5) to a counter that lies across two cache lines, in user space, and tell what happened.
 *
 * No C library: the program is one page, and every instruction that locks the bus is the one at `split_lock_here`.
 * Exit status: 0 all done, 1 the kernel sent SIGBUS (split_lock_detect=fatal), 2 bad argument. */

typedef unsigned long word;

#ifdef __i386__
enum { SYS_EXIT = 1, SYS_WRITE = 4, SYS_RT_SIGACTION = 174 };
#define RESTORE "movl $173, %eax\n\tint $0x80"
#define START "movl %esp, %eax\n\txorl %ebp, %ebp\n\tandl $-16, %esp\n\tsubl $12, %esp\n\tpushl %eax\n\tcall start"
#else
enum { SYS_WRITE = 1, SYS_RT_SIGACTION = 13, SYS_EXIT = 60 };
#define RESTORE "movl $15, %eax\n\tsyscall"
#define START "movq %rsp, %rdi\n\txorl %ebp, %ebp\n\tandq $-16, %rsp\n\tcall start"
#endif
enum { SIGBUS = 7, SA_RESTORER = 0x04000000 };

static struct {
    unsigned char lines[192];
} __attribute__((aligned(64))) buffer;

static word done;

static word system_call(word number, word a, word b, word c, word d)
{
#ifdef __i386__
    __asm__ volatile("int $0x80" : "+a"(number) : "b"(a), "c"(b), "d"(c), "S"(d) : "memory");
#else
    register word r10 __asm__("r10") = d;
    __asm__ volatile("syscall" : "+a"(number) : "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
#endif
    return number;
}

static void say(const char *text)
{
    word length = 0;
    while (text[length])
        length++;
    system_call(SYS_WRITE, 1, (word)text, length, 0);
}

static void say_number(word value, word base)
{
    char digits[24];
    char *next = digits + sizeof digits - 1;
    *next = 0;
    do
        *--next = "0123456789abcdef"[value % base];
    while (value /= base);
    say(next);
}

static void leave(word status)
{
    for (;;)
        system_call(SYS_EXIT, status, 0, 0, 0);
}

static void on_sigbus(int signal)
{
    (void)signal;
    say("splitlock: SIGBUS after ");
    say_number(done, 10);
    say(" split locks\n");
    leave(1);
}

__attribute__((naked)) static void restorer(void)
{
    __asm__(RESTORE);
}

extern const char split_lock_here[];

__attribute__((noinline)) static void lock_once(volatile unsigned *counter)
{
    __asm__ volatile(".globl split_lock_here\nsplit_lock_here:\n\tlock addl $1, %0" : "+m"(*counter) : : "memory", "cc");
}

__attribute__((used)) static void start(word *stack)
{
    word count = 5;
    if (stack[0] > 1) {
        count = 0;
        for (const char *digit = (const char *)stack[2]; *digit; digit++) {
            if (*digit < '0' || *digit > '9' || count > 100000000) {
                say("usage: splitlock [N]\n");
                leave(2);
            }
            count = count * 10 + (word)(*digit - '0');
        }
    }
    struct {
        void (*handler)(int);
        word flags;
        void (*restorer)(void);
        word mask[8 / sizeof(word)];
    } action = { on_sigbus, SA_RESTORER, restorer, { 0 } };
    system_call(SYS_RT_SIGACTION, SIGBUS, (word)&action, 0, 8);
    volatile unsigned *counter = (volatile unsigned *)(buffer.lines + 62);
    say("splitlock: instruction at 0x");
    say_number((word)split_lock_here, 16);
    say(", operand at 0x");
    say_number((word)counter, 16);
    say("\n");
    for (; done < count; done++)
        lock_once(counter);
    say("splitlock: ");
    say_number(done, 10);
    say(" split locks done, counter ");
    say_number(*counter, 10);
    say("\n");
    leave(*counter == count ? 0 : 3);
}

__attribute__((naked)) void _start(void)
{
    __asm__(START);
}
