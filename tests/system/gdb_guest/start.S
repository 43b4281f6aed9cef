# From the PVH entry to 64-bit C: one large identity map, SSE on, interrupts off.
        .section .note.pvh, "a", @note
        .balign 4
        .long   4, 4, 18                # XEN_ELFNOTE_PHYS32_ENTRY
        .asciz  "Xen"
        .long   pvh_entry
        .code32
        .text
        .globl  pvh_entry
pvh_entry:
        lgdt    gdt_pointer
        movl    $pdpt + 7, pml4
        movl    $directory + 7, pdpt
        movl    $0x87, directory        # 2 MiB from 0
        mov     $pml4, %eax
        mov     %eax, %cr3
        mov     $0x620, %eax            # PAE, OSFXSR, OSXMMEXCPT
        mov     %eax, %cr4
        mov     $0xC0000080, %ecx
        mov     $0x100, %eax
        xor     %edx, %edx
        wrmsr
        mov     $0x80000011, %eax
        mov     %eax, %cr0
        ljmp    $8, $long_mode
        .code64
long_mode:
        mov     $0x10, %eax
        mov     %eax, %ds
        mov     %eax, %ss
        mov     $stack_top, %esp
        xor     %ebp, %ebp
        fninit
        call    guest_main
        mov     $0xF4, %edx
        out     %al, %dx
        hlt
        .data
        .balign 8
gdt:    .quad   0, 0xAF9B000000FFFF, 0xCF93000000FFFF
gdt_pointer:
        .word   . - gdt - 1
        .quad   gdt
        .bss
        .balign 4096
pml4:   .skip   4096
pdpt:   .skip   4096
directory:
        .skip   4096
        .skip   4096
stack_top:
        .section .note.GNU-stack, "", @progbits
