# From the PVH entry (32-bit, paging off) to 64-bit C; descriptor and page tables; exception stubs; the ways into ring 3 and back.
#ifdef __x86_64__

        .section .note.pvh, "a", @note
        .balign 4
        .long   4, 4, 18                # XEN_ELFNOTE_PHYS32_ENTRY
        .asciz  "Xen"
        .long   pvh_entry

        .code32
        .text
        .globl  pvh_entry
pvh_entry:
        cli
        cld
        mov     $driver_stack_top, %esp
        lgdt    gdt_pointer
        mov     $pml4, %eax
        mov     %eax, %cr3
        mov     %cr4, %eax
        or      $0x28, %eax             # PAE, and DE for I/O breakpoints
        mov     %eax, %cr4
        mov     $0xC0000080, %ecx       # EFER.LME
        rdmsr
        or      $0x100, %eax
        wrmsr
        mov     %cr0, %eax
        and     $0x9FFFFFFF, %eax       # CD and NW off: memory is write-back
        or      $0x80010001, %eax       # PG, WP, PE
        mov     %eax, %cr0
        ljmp    $0x08, $long_mode

        .code64
long_mode:
        mov     $0x10, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        xor     %eax, %eax
        mov     %eax, %fs
        mov     %eax, %gs

        mov     $tss, %eax              # the TSS descriptor's base is scattered: bits 15:0, 23:16, 31:24
        mov     %ax, gdt + 0x28 + 2
        shr     $16, %eax
        mov     %al, gdt + 0x28 + 4
        mov     %ah, gdt + 0x28 + 7
        mov     $0x28, %eax
        ltr     %ax

        mov     $stubs, %esi            # 32 exception gates, DPL 3, each stub 16 bytes
        mov     $idt, %edi
        mov     $32, %ecx
1:      call    make_gate
        add     $16, %esi
        add     $16, %edi
        dec     %ecx
        jnz     1b
        mov     $leave_ring3, %esi      # INT 30h: a ring 3 case has ended
        mov     $idt + 0x30 * 16, %edi
        call    make_gate
        lidt    idt_pointer

        call    guest_main
1:      cli
        hlt
        jmp     1b

make_gate:                              # a 64-bit interrupt gate at EDI to ESI (below 4 GiB)
        mov     %si, (%rdi)
        movw    $0x08, 2(%rdi)
        movw    $0xEE00, 4(%rdi)        # present, DPL 3, interrupt gate, no IST
        mov     %esi, %eax
        shr     $16, %eax
        mov     %ax, 6(%rdi)
        movq    $0, 8(%rdi)
        ret

        .globl  parked, parked_end, elsewhere
parked: pause                           # until somebody outside has selected a case
        cmpq    $-1, selected
        je      parked
parked_end:
        ret
elsewhere:                              # nobody comes here: a place for breakpoints
        nop
        ret

        .macro  save_driver
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        mov     %rsp, driver_rsp
        .endm

        .globl  enter_ring3
enter_ring3:                            # (RDI entry, RSI rflags) -> RBX of the case
        save_driver
        pushq   $0x1B                   # user data
        pushq   $user_stack_top
        push    %rsi
        pushq   $0x23                   # user code
        push    %rdi
        xor     %ebx, %ebx
        iretq

        .globl  enter_ring0
enter_ring0:                            # (RDI entry) -> RBX of the case
        save_driver
        xor     %ebx, %ebx
        call    *%rdi
        .globl  leave_ring3
leave_ring3:
        mov     %rbx, %rax
        mov     driver_rsp, %rsp
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret

        .macro  stub vector, has_error
        .balign 16
        .if     \has_error == 0
        pushq   $0
        .endif
        pushq   $\vector
        jmp     common
        .endm

        .balign 16
stubs:
        .altmacro
        .set    v, 0
        .rept   32
        .if     (v == 8) || (v >= 10 && v <= 14) || (v == 17) || (v == 21)
        stub    %v, 1
        .else
        stub    %v, 0
        .endif
        .set    v, v + 1
        .endr

common:
        push    %rax
        push    %rbx
        push    %rcx
        push    %rdx
        push    %rsi
        push    %rdi
        push    %rbp
        push    %r8
        push    %r9
        push    %r10
        push    %r11
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        mov     %rsp, %rdi
        cld
        call    on_exception
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %r11
        pop     %r10
        pop     %r9
        pop     %r8
        pop     %rbp
        pop     %rdi
        pop     %rsi
        pop     %rdx
        pop     %rcx
        pop     %rbx
        pop     %rax
        add     $16, %rsp
        iretq

        .data
        .balign 16
gdt:    .quad   0
        .quad   0x00AF9A000000FFFF      # 08h kernel code, 64-bit
        .quad   0x00CF92000000FFFF      # 10h kernel data
        .quad   0x00CFF2000000FFFF      # 18h user data
        .quad   0x00AFFA000000FFFF      # 20h user code, 64-bit
        .quad   0x0000890000000067      # 28h TSS, 104 bytes; its base is filled in
        .quad   0
gdt_pointer:
        .word   . - gdt - 1
        .quad   gdt
idt_pointer:
        .word   49 * 16 - 1
        .quad   idt

        .balign 16
tss:    .long   0
        .quad   exception_stack_top     # RSP0
        .fill   92, 1, 0

# Identity: the first 2 MiB as one page; then the page `line` lies in, one that is absent, and one that is uncacheable. All of it user's.
        .balign 4096
pml4:   .quad   pdpt + 7
        .fill   511, 8, 0
pdpt:   .quad   pd + 7
        .fill   511, 8, 0
pd:     .quad   0x87
        .quad   pt + 7
        .fill   510, 8, 0
pt:     .quad   0x200000 + 7
        .quad   0
        .quad   0x202000 + 0x1F         # PCD and PWT: PAT entry 3, UC
        .fill   509, 8, 0

        .globl  line, absent_page, uncached
        .set    line, 0x200040          # a cache line (64 bytes) and its successor
        .set    absent_page, 0x201000
        .set    uncached, 0x202000

        .bss
        .balign 16
idt:    .skip   49 * 16
driver_rsp:
        .skip   8
        .balign 16
        .skip   8192
driver_stack_top:
        .skip   8192
exception_stack_top:
        .skip   4096
user_stack_top:
#endif
