# The same for 32-bit mode, with PAE paging: descriptor and page tables; exception stubs; the ways into ring 3 and back.
#ifdef __i386__

        .section .note.pvh, "a", @note
        .balign 4
        .long   4, 4, 18                # XEN_ELFNOTE_PHYS32_ENTRY
        .asciz  "Xen"
        .long   pvh_entry

        .text
        .globl  pvh_entry
pvh_entry:
        cli
        cld
        mov     $driver_stack_top, %esp
        lgdt    gdt_pointer
        ljmp    $0x08, $1f
1:      mov     $0x10, %eax
        mov     %eax, %ss
        mov     $0x1B, %eax             # those of ring 3, for IRET to it makes any other null
        mov     %eax, %ds
        mov     %eax, %es
        xor     %eax, %eax
        mov     %eax, %fs
        mov     %eax, %gs
        mov     $pdpt, %eax
        mov     %eax, %cr3
        mov     %cr4, %eax
        or      $0x28, %eax             # PAE, and DE for I/O breakpoints
        mov     %eax, %cr4
        mov     %cr0, %eax
        and     $0x9FFFFFFF, %eax       # CD and NW off: memory is write-back
        or      $0x80010001, %eax       # PG, WP, PE
        mov     %eax, %cr0

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
        add     $8, %edi
        dec     %ecx
        jnz     1b
        mov     $leave_ring3, %esi      # INT 30h: a ring 3 case has ended
        mov     $idt + 0x30 * 8, %edi
        call    make_gate
        lidt    idt_pointer

        call    guest_main
1:      cli
        hlt
        jmp     1b

make_gate:                              # an interrupt gate at EDI to ESI
        mov     %si, (%edi)
        movw    $0x08, 2(%edi)
        movw    $0xEE00, 4(%edi)        # present, DPL 3, interrupt gate
        mov     %esi, %eax
        shr     $16, %eax
        mov     %ax, 6(%edi)
        ret

        .globl  parked, parked_end, elsewhere
parked: pause                           # until somebody outside has selected a case
        cmpl    $-1, selected
        je      parked
parked_end:
        ret
elsewhere:                              # nobody comes here: a place for breakpoints
        nop
        ret

        .macro  save_driver
        push    %ebx
        push    %ebp
        push    %esi
        push    %edi
        mov     %esp, driver_rsp
        .endm

        .globl  enter_ring3
enter_ring3:                            # (entry, flags) -> ECX and EBX of the case
        save_driver
        mov     20(%esp), %edx
        mov     24(%esp), %eax
        push    $0x1B                   # user data
        push    $user_stack_top
        push    %eax
        push    $0x23                   # user code
        push    %edx
        xor     %ebx, %ebx
        xor     %ecx, %ecx
        iret

        .globl  enter_ring0
enter_ring0:                            # (entry) -> ECX and EBX of the case
        save_driver
        mov     20(%esp), %edx
        xor     %ebx, %ebx
        xor     %ecx, %ecx
        call    *%edx
        .globl  leave_ring3
leave_ring3:
        mov     %ebx, %eax
        mov     %ecx, %edx
        mov     driver_rsp, %esp
        pop     %edi
        pop     %esi
        pop     %ebp
        pop     %ebx
        ret

        .macro  stub vector, has_error
        .balign 16
        .if     \has_error == 0
        push    $0
        .endif
        push    $\vector
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
        pusha
        push    %esp
        cld
        call    on_exception
        add     $4, %esp
        popa
        add     $8, %esp
        iret

        .data
        .balign 16
gdt:    .quad   0
        .quad   0x00CF9A000000FFFF      # 08h kernel code
        .quad   0x00CF92000000FFFF      # 10h kernel data
        .quad   0x00CFF2000000FFFF      # 18h user data
        .quad   0x00CFFA000000FFFF      # 20h user code
        .quad   0x0000890000000067      # 28h TSS, 104 bytes; its base is filled in
gdt_pointer:
        .word   . - gdt - 1
        .long   gdt
idt_pointer:
        .word   49 * 8 - 1
        .long   idt

        .balign 16
tss:    .long   0
        .long   exception_stack_top     # ESP0
        .long   0x10                    # SS0
        .fill   92, 1, 0

# Identity: the first 2 MiB as one page; then the page `line` lies in, one that is absent, and one that is uncacheable. All of it user's.
        .balign 4096
pd:     .quad   0x87
        .long   pt + 7, 0
        .fill   510, 8, 0
pt:     .quad   0x200000 + 7
        .quad   0
        .quad   0x202000 + 0x1F         # PCD and PWT: PAT entry 3, UC
        .fill   509, 8, 0
pdpt:   .long   pd + 1, 0
        .fill   3, 8, 0

        .globl  line, absent_page, uncached
        .set    line, 0x200040          # a cache line (64 bytes) and its successor
        .set    absent_page, 0x201000
        .set    uncached, 0x202000

        .bss
        .balign 16
idt:    .skip   49 * 8
driver_rsp:
        .skip   4
        .balign 16
        .skip   8192
driver_stack_top:
        .skip   8192
exception_stack_top:
        .skip   4096
user_stack_top:
#endif
