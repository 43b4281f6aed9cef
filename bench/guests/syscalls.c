// System calls: code in ring 3 enters the kernel with SYSCALL, which returns with SYSRETQ; one round is 1024 of them.
#include "bench.h"

static u8 user_stack[4096] __attribute__((aligned(16)));
static volatile u64 taken;
volatile u64 kernel_stack;

// run_ring3(count): enter ring 3 with IRETQ, make `count` calls number 0 and then call number 1, which comes back from here.
void run_ring3(u64 count, void *stack_top);
void syscall_entry(void);
__asm__(".pushsection .text\n"
        "run_ring3:\n\t"
        "pushq %rbx\n\tpushq %rbp\n\tpushq %r12\n\tpushq %r13\n\tpushq %r14\n\tpushq %r15\n\t"
        "movq %rsp, kernel_stack\n\t"
        "movq %rdi, %rbx\n\t"
        "pushq $0x1B\n\tpushq %rsi\n\tpushq $2\n\tpushq $0x23\n\tpushq $ring3\n\tiretq\n"
        "ring3:\n\txorl %eax, %eax\n\tsyscall\n\tdecq %rbx\n\tjnz ring3\n\tmovl $1, %eax\n\tsyscall\n\tud2\n"
        "syscall_entry:\n\t"
        "testl %eax, %eax\n\tjnz 1f\n\tincq taken\n\tsysretq\n"
        "1:\tmovq kernel_stack, %rsp\n\t"
        "popq %r15\n\tpopq %r14\n\tpopq %r13\n\tpopq %r12\n\tpopq %rbp\n\tpopq %rbx\n\tret\n"
        ".popsection");

u64 run(u64 rounds, int *ok)
{
    write_msr(0xC0000081, 0x10UL << 48 | 0x08UL << 32);  // STAR: SYSRET to 18h/20h with RPL 3, SYSCALL to 08h/10h
    write_msr(0xC0000082, (u64)syscall_entry);           // LSTAR
    write_msr(0xC0000084, 0x200);                        // FMASK: IF
    run_ring3(rounds * 1024, user_stack + sizeof user_stack);
    *ok = taken == rounds * 1024;
    return taken;
}
