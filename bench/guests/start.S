// First code of every benchmark guest: PVH entry in 32-bit mode, identity page tables, long mode, SSE, GDT, TSS, then bench_start in C.
// Also the exception entries that guests install, and the way out through the exit port.

    .section .note.pvh, "a", @note
    .long 4, 4, 18                      // name size, description size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long entry32

    .section .text.start, "ax"
    .code32
    .globl entry32
entry32:
    cld
    movl $stack_top, %esp
    // PML4[0] -> PDPT[0] -> 512 pages of 2 MiB: the first GiB onto itself, open to ring 3 as well.
    movl $pdpt + 7, pml4
    movl $page_directory + 7, pdpt
    movl $0x87, %eax
    xorl %ecx, %ecx
1:  movl %eax, page_directory(, %ecx, 8)
    addl $0x200000, %eax
    incl %ecx
    cmpl $512, %ecx
    jne 1b
    movl %cr4, %eax
    orl $0x620, %eax                    // PAE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0xC0000080, %ecx              // EFER
    rdmsr
    orl $0x101, %eax                    // LME, SCE
    wrmsr
    movl %cr0, %eax
    andl $~0x4, %eax                    // EM off
    orl $0x80010003, %eax               // PG, WP, MP, PE
    movl %eax, %cr0
    movl $tss, %eax                     // base of the TSS descriptor
    movw %ax, gdt_tss + 2
    shrl $16, %eax
    movb %al, gdt_tss + 4
    movb %ah, gdt_tss + 7
    lgdt gdt_pointer
    ljmp $0x08, $entry64

    .code64
entry64:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movl $0x28, %eax
    ltr %ax
    movq $stack_top, %rsp
    movq $stack_top, tss + 4            // RSP0
    call bench_start
    movl %eax, %edi
    .globl leave_guest
leave_guest:                            // leave_guest(value): exit status value * 2 + 1
    movl %edi, %eax
    outl %eax, $0xF4
1:  cli
    hlt
    jmp 1b

    // Vectors that nobody expects: tell the vector and leave.
    .altmacro
    .macro unexpected vector
    pushq $\vector
    jmp unexpected_common
    .balign 16
    .endm
    .balign 16
    .globl unexpected_entries
unexpected_entries:
    .set vector, 0
    .rept 32
    unexpected %vector
    .set vector, vector + 1
    .endr
unexpected_common:
    popq %rdi
    andq $-16, %rsp
    call bench_unexpected

    .section .data
    .balign 16
gdt:
    .quad 0
    .quad 0x00AF9B000000FFFF            // 08 ring 0 code
    .quad 0x00CF93000000FFFF            // 10 ring 0 data
    .quad 0x00CFF3000000FFFF            // 18 ring 3 data
    .quad 0x00AFFB000000FFFF            // 20 ring 3 code
gdt_tss:
    .quad 0x0000890000000067            // 28 TSS, base filled in at start
    .quad 0
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt

    .section .bss
    .balign 4096
pml4:           .skip 4096
    .globl pdpt
pdpt:           .skip 4096
    .globl page_directory
page_directory: .skip 4096
    .globl tss
tss:            .skip 0x68
    .balign 4096
    .skip 65536
stack_top:
