# Real mode, there also in a segment with a base, protected mode, long mode in one sector: a label in each.
        .code16
        .globl  start, prot, long, compat, finished, in_segment
start:  cli
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $0x7C00, %sp
        ljmp    $0x7C0, $in_segment - start     # the same code, another CS: IP is small now
in_segment:
        mov     %cs, %bx
        ljmp    $0, $1f
1:      mov     $0x1000, %edi           # page tables at 1000h to 3FFFh: 2 MiB, one to one
        mov     %edi, %cr3
        xor     %eax, %eax
        mov     $0xC00, %ecx
        rep stosl
        movl    $0x2003, 0x1000
        movl    $0x3003, 0x2000
        movl    $0x0083, 0x3000
        lgdtl   pointer
        mov     %cr0, %eax
        or      $1, %al
        mov     %eax, %cr0
        ljmp    $0x08, $prot
        .code32
prot:   mov     $0x10, %eax
        mov     %eax, %ds
        mov     %eax, %ss
        mov     %cr4, %eax
        or      $0x20, %eax
        mov     %eax, %cr4
        mov     $0xC0000080, %ecx
        rdmsr
        or      $0x100, %eax
        wrmsr
        mov     %cr0, %eax
        or      $0x80000000, %eax
        mov     %eax, %cr0
compat: ljmp    $0x18, $long
        .code64
long:   movabs  $0x1122334455667788, %rax
        mov     $0x7000, %esp
        push    %rax
        mov     $0x3F8, %edx
        mov     $'L', %al
        out     %al, %dx
finished:
        mov     $0xF4, %edx
        mov     $0x10, %al
        out     %al, %dx
        hlt
        .balign 8
gdt:    .quad   0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00AF9B000000FFFF
pointer: .word  . - gdt - 1
        .long   gdt
        .org    510
        .word   0xAA55
