/* Where Linux starts the program, with argc, argv and envp on the stack, and its way into the kernel. */
    .text
    .globl _start
_start:
    xor %ebp, %ebp
    mov %rsp, %rdi
    and $-16, %rsp
    call main
    mov %eax, %edi
    mov $231, %eax                  /* exit_group */
    syscall

/* long call5(long number, long a, long b, long c, long d, long e): a system call of up to five arguments */
    .globl call5
call5:
    mov %rdi, %rax
    mov %rsi, %rdi
    mov %rdx, %rsi
    mov %rcx, %rdx
    mov %r8, %r10
    mov %r9, %r8
    syscall
    ret
