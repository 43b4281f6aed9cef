// Into ring 3 and back. Traps from there use the stack below the present frame: RSP0 of the TSS says where.
#include "ring3.h"

volatile u64 taken;
__attribute__((used)) static u8 user_stack[4096] __attribute__((aligned(16)));

__asm__(".pushsection .text\n"
        "\t.globl run_ring3, back_entry\n"
        "run_ring3:\n\t"
        "pushq %rbx\n\tpushq %rbp\n\tpushq %r12\n\tpushq %r13\n\tpushq %r14\n\tpushq %r15\n\t"
        "movq %rsp, tss + 4\n\t"
        "movq %rsi, %rbx\n\t"
        "leaq user_stack + 4096, %rax\n\t"
        "pushq $0x1B\n\tpushq %rax\n\tpushq $2\n\tpushq $0x23\n\tpushq %rdi\n\tiretq\n"
        "back_entry:\n\t"
        "movl $0x10, %eax\n\tmovl %eax, %ss\n\t"
        "movq tss + 4, %rsp\n\t"
        "popq %r15\n\tpopq %r14\n\tpopq %r13\n\tpopq %r12\n\tpopq %rbp\n\tpopq %rbx\n\tret\n"
        ".popsection");
