# A 32-bit multiboot kernel: its entry, for guest32.c.
        .text
        .long   0x1BADB002, 3, -(0x1BADB002 + 3)
        .globl  _start
_start: mov     $stack_end, %esp
        push    %ebx
        push    %eax
        call    kernel_main
1:      hlt
        jmp     1b
        .bss
        .skip   4096
stack_end:
