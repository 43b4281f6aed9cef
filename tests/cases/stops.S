# One of each that a debugger may stop on: switches of mode, CR3, MSRs, INT3, a system call, exceptions, and a triple fault last.
        .code16
        .globl  start, prot, long, met, called, entry, last, locks, handler, odd
start:  cli
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $0x7C00, %sp
        mov     $0x1000, %edi           # page tables at 1000h to 3FFFh: 2 MiB, one to one; another PML4 at 4000h
        xor     %eax, %eax
        mov     $0x1000, %ecx
        rep stosl
        movl    $0x2003, 0x1000
        movl    $0x2003, 0x4000
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
        mov     $0x1000, %edi
        mov     %edi, %cr3
        mov     %cr4, %eax
        or      $0x20, %eax
        mov     %eax, %cr4
        mov     $0xC0000080, %ecx
        rdmsr
        or      $0x101, %eax            # LME, SCE
        wrmsr
        mov     %cr0, %eax
        or      $0x80000000, %eax
        mov     %eax, %cr0
        ljmp    $0x18, $long
        .code64
long:   mov     $table, %esi
        lidt    (%rsi)
        mov     $0x7000, %esp
        mov     $gates, %ebx
        mov     $0xC0000082, %ecx       # LSTAR
        mov     $entry, %eax
        xor     %edx, %edx
        wrmsr
        mov     $0xC0000081, %ecx       # STAR: CS 18h, SS 20h
        mov     $0x18, %edx
        wrmsr
        mov     $0x4000, %eax
        mov     %rax, %cr3
        int3
met:    ud2                             # its handler skips it
        mov     $0x27, %eax
        syscall
called: nop
entry:  mov     $0x1234, %edx
        mov     0x40000000, %eax        # not mapped: its handler skips it
        mov     $odd, %esi
locks:  lock incl (%rsi)
        mov     $nothing, %esi
        lidt    (%rsi)
last:   ud2
handler:
        addq    $2, (%rsp)              # #UD, and #BP
        iretq
fault:  add     $8, %rsp
        addq    $7, (%rsp)
        iretq
        .balign 8
gdt:    .quad   0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00AF9B000000FFFF, 0x00CF93000000FFFF
pointer: .word  . - gdt - 1
        .long   gdt
table:  .word   16 * 15 - 1
        .long   gates, 0
nothing: .word  0
        .quad   0
        .org    510
        .word   0xAA55
        .macro  gate to
        .word   \to, 0x18, 0x8E00, 0
        .quad   0
        .endm
gates:  .skip   16 * 6
        gate    handler                 # 6
        .skip   16 * 7
        gate    fault                   # 14
        .balign 64
        .skip   62
odd:    .long   0
        .org    1024
