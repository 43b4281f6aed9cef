/* What a Linux program sees of its own debug exceptions, a line an event: the same on a host and in a guest. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/hw_breakpoint.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

static volatile long hits, first, code, number, stop_at;
static sigjmp_buf back;
static void handler(int s, siginfo_t *info, void *p)
{
    asm volatile("pushfq\n andl $~0x40000, (%%rsp)\n popfq" : : : "memory", "cc");
    ucontext_t *u = p;
    if (!hits++) {
        first = u->uc_mcontext.gregs[REG_RIP];
        code = info->si_code;
        number = s;
    }
    if (s != SIGTRAP || hits > 1000)
        siglongjmp(back, 1);
    if (u->uc_mcontext.gregs[REG_RIP] >= stop_at)
        u->uc_mcontext.gregs[REG_EFL] &= ~0x100;
}
#define EVENT(name, text, ...)                                                                                                  \
    do {                                                                                                                        \
        extern char s_##name[], e_##name[];                                                                                     \
        hits = first = code = number = 0;                                                                                       \
        stop_at = (long)e_##name;                                                                                               \
        if (!sigsetjmp(back, 1))                                                                                                \
            asm volatile(".globl s_" #name "\ns_" #name ": " text "\n.globl e_" #name "\ne_" #name ": nop\n nop\n nop"          \
                         : : __VA_ARGS__ : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc"); \
        printf("%-28s signal %ld code %ld at %+ld from its end, %ld in all\n", #name, number, code,                              \
               first ? first - (long)e_##name : 0, hits);                                                                       \
        fflush(stdout);                                                                                                         \
    } while (0)
#define TF "pushfq\n orl $0x100, (%%rsp)\n popfq\n "

char lines[256] __attribute__((aligned(64)));
static char stack_[65536];
static volatile long watched;

static void traced(void (*child)(void), const char *name, int watch)
{
    int status, steps = 0;
    pid_t pid = fork();
    if (!pid) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        child();
        _exit(7);
    }
    waitpid(pid, &status, 0);
    if (watch) {
        errno = 0;
        ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[0]), &watched);
        ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[7]), 0x1 | (watch | 2 << 2) << 16);
        if (errno)
            printf("%-28s POKEUSER: errno %d\n", name, errno);
        ptrace(PTRACE_CONT, pid, 0, 0);
        while (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status)) {
            siginfo_t info;
            ptrace(PTRACE_GETSIGINFO, pid, 0, &info);
            long dr6 = ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user, u_debugreg[6]), 0);
            printf("%-28s signal %d code %d dr6 %lx\n", name, WSTOPSIG(status), info.si_code, dr6 & 0xFFFF);
            ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[6]), 0);
            ptrace(PTRACE_CONT, pid, 0, 0);
            if (++steps > 20)
                break;
        }
    } else {
        ptrace(PTRACE_SINGLESTEP, pid, 0, 0);
        while (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status)) {
            ptrace(PTRACE_SINGLESTEP, pid, 0, WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status));
            if (++steps > 20000)
                break;
        }
    }
    printf("%-28s %s %d\n", name, WIFEXITED(status) ? "exit" : "signal", WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    if (!WIFEXITED(status) && !WIFSIGNALED(status))
        kill(pid, SIGKILL), waitpid(pid, &status, 0);
    fflush(stdout);
}
static void writes(void) { watched = 1; (void)watched; watched = 2; asm volatile("lock incq %0" : "+m"(watched)); }
static void pushes(void) { long f; asm volatile("pushfq\n pop %0" : "=r"(f)); _exit(f & 0x100 ? 1 : 2); }
static void own_tf(void) { long f; asm volatile("pushfq\n orl $0x100, (%%rsp)\n popfq\n nop\n pushfq\n pop %0\n pushfq\n andl $~0x100, (%%rsp)\n popfq" : "=r"(f)); _exit(f & 0x100 ? 3 : 4); }
static void over_syscall(void) { long r; asm volatile("syscall" : "=a"(r) : "a"(SYS_getppid) : "rcx", "r11", "memory"); _exit(r > 0 ? 5 : 6); }
static void r11_flags(void) { long f; asm volatile("syscall\n mov %%r11, %0" : "=r"(f) : "a"(SYS_getppid) : "rcx", "r11", "memory"); _exit(f & 0x100 ? 8 : 9); }
static void rep(void) { char a[40], b[40]; long n = 40; void *d = a; const void *s = b; asm volatile("rep movsb" : "+c"(n), "+D"(d), "+S"(s) : : "memory"); _exit(n ? 1 : 10); }

int main(void)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    stack_t alternate = {.ss_sp = stack_, .ss_size = sizeof stack_};
    sigaltstack(&alternate, 0);
    for (int s = 0; s < 4; s++)
        sigaction((int[]){SIGTRAP, SIGSEGV, SIGBUS, SIGILL}[s], &action, 0);
    EVENT(int3, "int3", "i"(0));
    EVENT(int_3_two_bytes, ".byte 0xCD, 3", "i"(0));
    EVENT(icebp, ".byte 0xF1", "i"(0));
    EVENT(int_1, "int $1", "i"(0));
    EVENT(tf_nop, TF "nop", "i"(0));
    EVENT(tf_cpuid, "xor %%eax, %%eax\n xor %%ecx, %%ecx\n" TF "cpuid", "i"(0));
    EVENT(tf_rdtsc, TF "rdtsc", "i"(0));
    EVENT(tf_syscall, "mov $39, %%eax\n" TF "syscall", "i"(0));
    EVENT(tf_mov_ss, "mov %%ss, %%eax\n" TF "mov %%eax, %%ss\n nop", "i"(0));
    EVENT(tf_rep_movsb, "mov $lines, %%esi\n mov $lines + 64, %%edi\n mov $5, %%ecx\n" TF "rep movsb", "i"(0));
    EVENT(tf_split_lock, TF "lock incq lines + 60", "i"(0));
    EVENT(tf_icebp, TF ".byte 0xF1", "i"(0));
    EVENT(tf_int3, TF "int3", "i"(0));
    EVENT(tf_popf_again, TF "pushfq\n popfq", "i"(0));
    EVENT(split_lock, "lock incq lines + 60", "i"(0));
    EVENT(cmpxchg16b_misaligned, "lock cmpxchg16b lines + 8", "i"(0));
    EVENT(ac_misaligned, "pushfq\n orl $0x40000, (%%rsp)\n popfq\n mov lines + 1, %%eax\n pushfq\n andl $~0x40000, (%%rsp)\n popfq", "i"(0));
    asm volatile("pushfq\n andl $~0x40000, (%rsp)\n popfq");
    EVENT(noncanonical, "mov $0x8000000000000000, %%rax\n mov (%%rax), %%rax", "i"(0));
    EVENT(hlt, "hlt", "i"(0));
    EVENT(mov_dr, "mov %%db7, %%rax", "i"(0));
    EVENT(opcode_8f_r1, ".byte 0x8F, 0xC8", "i"(0));
    EVENT(lock_reg, ".byte 0xF0, 0x01, 0xC0", "i"(0));
    EVENT(ud2_behind_lock_nop, ".byte 0xF0, 0x90", "i"(0));
    EVENT(popcnt_lock, ".byte 0xF0, 0xF3, 0x0F, 0xB8, 0xC0", "i"(0));
    {
        unsigned env[7] = {0};
        extern char fp_here[];
        asm volatile(".globl fp_here\nfp_here: fldz\n fnop\n fnstenv %0\n fstp %%st(0)" : "=m"(env) : : "memory");
        printf("%-28s fip is that of the last FPU instruction: %s\n", "fnstenv", (long)env[3] == (unsigned)(long)fp_here || env[3] == (unsigned)(long)fp_here + 2 ? "yes" : "NO");
    }
    traced(writes, "ptrace watch writes", 1);
    traced(writes, "ptrace watch accesses", 3);
    traced(pushes, "ptrace step over pushf", 0);
    traced(own_tf, "ptrace step, program's TF", 0);
    traced(over_syscall, "ptrace step over syscall", 0);
    traced(r11_flags, "ptrace step, r11 behind", 0);
    traced(rep, "ptrace step over rep movsb", 0);
    {
        struct perf_event_attr attribute = {.type = PERF_TYPE_BREAKPOINT, .size = sizeof attribute, .bp_type = HW_BREAKPOINT_W, .bp_len = HW_BREAKPOINT_LEN_8,
                                            .bp_addr = (long)&watched, .exclude_kernel = 1};
        int fd = syscall(SYS_perf_event_open, &attribute, 0, -1, -1, 0);
        long n = -1;
        if (fd < 0)
            printf("%-28s errno %d\n", "perf breakpoint", errno);
        else {
            writes();
            if (read(fd, &n, sizeof n) != sizeof n)
                n = -2;
            printf("%-28s %ld writes counted\n", "perf breakpoint", n);
        }
    }
    return 0;
}
