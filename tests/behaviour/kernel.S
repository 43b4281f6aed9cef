# The kernel of the behaviour image: boots, and for each row makes the state new, runs it, and compares what came with what is
# expected.
#
# Each row ends with UD2, so a row that runs through is seen as #UD behind it. `seen_*` in low memory is what the handler found.
# To port E9h goes a dot for a row that is as expected, a dash for one that this CPU cannot run, a line for one that differs.

        .include "words.inc"
        .include "fields.inc"           # made by build.py: the layout of `seen` and of a row

        .section .multiboot, "a"
        .balign 4
        .long   0x1BADB002, 0, -0x1BADB002
        .ascii  "ROWS"                  # the rows to run, changed in the image by whoever wants only some
first_row: .long 0
last_row: .long ROWS
        .text

        .globl  start
        .code32
start:
        cli
        cld
        mov     esp, offset kernel_stack
        mov     esi, offset low_image
        mov     edi, 0x2000
        mov     ecx, offset low_end
        sub     ecx, edi
        rep movsb
        mov     edi, offset bss_start
        mov     ecx, offset bss_end
        sub     ecx, edi
        xor     eax, eax
        rep stosb
        mov     al, 0xFF                # both PICs closed
        out     0x21, al
        out     0xA1, al
        call    make_tables
        call    make_legacy_tables
        jmp     enter_long

# Identity maps: the first 8 MiB in pages of 4 KiB, for CPL 3 only where rows of CPL 3 live; the local APIC's, uncached.
make_tables:
        mov     edi, offset pt0
        mov     eax, 3
1:      mov     edx, eax
        cmp     eax, offset user_start
        jb      2f
        cmp     eax, offset user_end
        jb      4f
        cmp     eax, LOW_DATA
        jb      2f
        cmp     eax, LOW_DATA + 0x20000
        jae     2f
4:      or      edx, 4
2:      mov     [edi], edx
        add     edi, 8
        add     eax, 0x1000
        cmp     eax, 0x800003
        jb      1b
        mov     edi, offset pd0
        mov     eax, offset pt0 + 7
        mov     ecx, 4
3:      mov     [edi], eax
        add     edi, 8
        add     eax, 0x1000
        loop    3b
        mov     dword ptr [pdpt0], offset pd0 + 7
        mov     dword ptr [pdpt0 + 24], offset pd3 + 3
        mov     dword ptr [pd3 + 8 * 0x1F7], APIC | 0x9B
        mov     dword ptr [pml4], offset pdpt0 + 7
        ret

enter_long:                             # from 32-bit code without paging; GDT and IDT may be anything
        lgdt    [pristine_gdt_pointer]
        mov     eax, TSS32              # a row may have left a 16-bit TSS, with which long mode cannot be entered
        ltr     ax
        and     byte ptr [tss32_descriptor + 5], ~2
        mov     eax, 0x620              # PAE, OSFXSR, OSXMMEXCPT
        mov     cr4, eax
        mov     eax, offset pml4
        mov     cr3, eax
        mov     ecx, 0xC0000080
        mov     eax, 0x901              # NXE, LME, SCE
        xor     edx, edx
        wrmsr
        mov     eax, 0x80010033         # PG, WP, NE, ET, MP, PE
        mov     cr0, eax
        .byte   0xEA
        .long   1f
        .word   K64
        .code64
1:      mov     eax, KDATA
        mov     ss, eax
        mov     ds, eax
        mov     es, eax
        mov     rsp, offset kernel_stack
        cmp     dword ptr [started], 0
        jne     row_done
        mov     dword ptr [started], 1
        call    find_features
        mov     eax, [first_row]
        mov     [row], eax

next_row:
        mov     eax, [row]
        cmp     eax, [last_row]
        jae     all_done
        imul    rbp, rax, ROW_SIZE
        add     rbp, offset rows
        mov     [current], rbp
        mov     rax, [features]
        not     rax
        test    [rbp + ROW_NEEDS], rax
        jz      1f
        inc     dword ptr [skipped]
        mov     al, '-'
        jmp     print_mark
1:      call    make_new
        mov     rbp, [current]
        cmp     dword ptr [rbp + ROW_MODE], 0
        jne     leave_long

# A row of long mode: the frame first, then its setup, then IRETQ into it.
        mov     rsp, offset entry_stack
        movzx   eax, word ptr [rbp + ROW_SS]
        push    rax
        push    qword ptr [rbp + ROW_RSP]
        push    qword ptr [rbp + ROW_RFLAGS]
        movzx   eax, word ptr [rbp + ROW_CS]
        push    rax
        push    qword ptr [rbp + ROW_CODE]
        mov     rax, [rbp + ROW_SETUP]
        test    rax, rax
        jz      2f
        call    rax
2:      iretq

# --- what every row finds

        .macro  restore name
        mov     esi, offset \name\()_template
        mov     edi, offset \name
        mov     ecx, offset \name\()_size / 8
        rep movsq
        .endm

make_new:
        mov     edi, offset seen_first
        mov     ecx, SEEN_FIELDS
        xor     eax, eax
        rep stosq
        restore gdt
        restore tss
        restore ldt
        lgdt    [gdt_pointer]
        mov     esi, offset idt_template
        mov     edi, offset idt
        mov     ecx, 0x82 * 2
        rep movsq
        lidt    [idt_pointer]
        mov     eax, TSS
        ltr     ax
        xor     eax, eax
        lldt    ax
        mov     edi, offset scratch
        mov     ecx, 32
        rep stosq
        mov     edi, offset win_frames  # the first line of each page
        mov     edx, 8
1:      mov     ecx, 8
        rep stosq
        add     edi, 4096 - 64
        dec     edx
        jnz     1b
        mov     qword ptr [pml4 + 8], offset pdpt_w + 7
        mov     qword ptr [pdpt_w], offset pd_w + 7
        mov     qword ptr [pd_w], offset pt_w + 7
        mov     edi, offset pt_w
        mov     eax, offset win_frames + 7
        mov     ecx, 8
2:      mov     [rdi], rax
        add     eax, 0x1000
        add     edi, 8
        loop    2b
        mov     rax, cr4
        mov     ecx, 0x620
        cmp     rax, rcx
        je      3f
        mov     cr4, rcx
3:      mov     rax, cr3                # nothing of the last row stays in the TLB
        mov     eax, offset pml4
        mov     cr3, rax
        mov     rax, 0x80010033
        mov     rcx, cr0
        cmp     rax, rcx
        je      4f
        mov     cr0, rax
4:      mov     eax, 0x400
        mov     dr7, rax
        mov     ecx, 0xC0000080
        rdmsr
        and     eax, ~0x400
        cmp     eax, 0x901
        je      5f
        mov     eax, 0x901
        wrmsr
5:      mov     eax, UDATA
        mov     ds, eax
        mov     es, eax
        mov     fs, eax
        mov     gs, eax
        xor     eax, eax
        xor     ecx, ecx
        xor     edx, edx
        xor     ebx, ebx
        xor     esi, esi
        xor     edi, edi
        ret

# --- handlers of long mode

        .balign 16
stubs:
        .set    vector, 0
        .rept   0x82
        .balign 16
    .if (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21)
        nop
    .else
        push    -1                      # no error code
    .endif
        .byte   0x68
        .long   vector
        jmp     common64
        .set    vector, vector + 1
        .endr

common64:                               # [rsp]: vector, error code, RIP, CS, RFLAGS, RSP, SS
        .irp    r, rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
        mov     qword ptr [seen_\r], \r
        .endr
        pushfq
        pop     qword ptr [seen_handler_rflags]
        pop     qword ptr [seen_vector]
        pop     qword ptr [seen_error]
        mov     qword ptr [seen_handler_rsp], rsp
        .irp    f, rip, cs, rflags, rsp, ss
        pop     qword ptr [seen_\f]
        .endr
        mov     rax, cr2
        mov     qword ptr [seen_cr2], rax
        .irp    s, ds, es, fs, gs
        mov     eax, \s
        mov     qword ptr [seen_\s], rax
        .endr
        mov     eax, cs
        mov     qword ptr [seen_handler_cs], rax
        mov     eax, ss
        mov     qword ptr [seen_handler_ss], rax
        inc     dword ptr [seen_count]
        cld
        mov     rsp, offset kernel_stack
        lgdt    [pristine_gdt_pointer]
        mov     eax, KDATA
        mov     ss, eax
        mov     ds, eax
        mov     es, eax

row_done:                               # 64-bit code on the kernel's stack
        cld
        push    KDATA                   # IRETQ: the next NMI may come
        push    offset kernel_stack
        push    2
        push    K64
        push    offset 1f
        iretq
1:      mov     rbp, [current]
        mov     rax, [rbp + ROW_AFTER]
        test    rax, rax
        jz      2f
        call    rax
2:      call    compare
        inc     dword ptr [row]
        jmp     next_row

print_mark:                             # AL: what became of the row
        call    put_mark
        inc     dword ptr [row]
        jmp     next_row

# --- comparing

compare:
        mov     rbp, [current]
        mov     rbx, [rbp + ROW_CHECKS]
        mov     r12d, [rbp + ROW_CHECK_COUNT]
        xor     r13d, r13d              # how many differ
1:      test    r12d, r12d
        jz      3f
        mov     rax, [rbx]              # where, mask, value, name
        mov     r14, [rax]
        and     r14, [rbx + 8]
        mov     r15, [rbx + 16]
        and     r15, [rbx + 8]
        cmp     r14, r15
        je      2f
        call    differs
2:      add     rbx, 32
        dec     r12d
        jmp     1b
3:      test    r13d, r13d
        jnz     4f
        inc     dword ptr [passed]
        mov     al, '.'
        jmp     put_mark
4:      inc     dword ptr [failed]
        mov     esi, offset newline
        call    print
        mov     dword ptr [column], 0
        ret

differs:
        test    r13d, r13d
        jnz     1f
        mov     esi, offset fail_text
        call    print
        mov     eax, [row]
        call    print_hex
        mov     esi, offset colon
        call    print
        mov     rsi, [rbp + ROW_NAME]
        call    print
        mov     esi, offset colon
        jmp     2f
1:      mov     esi, offset comma
2:      call    print
        inc     r13d
        mov     rsi, [rbx + 24]
        call    print
        mov     esi, offset is_text
        call    print
        mov     rax, r14
        call    print_hex
        mov     esi, offset not_text
        call    print
        mov     rax, r15
        jmp     print_hex

put_mark:
        out     0xE9, al
        inc     dword ptr [column]
        cmp     dword ptr [column], 100
        jb      1f
        mov     dword ptr [column], 0
        mov     al, 10
        out     0xE9, al
1:      ret

print:                                  # the string at RSI
        mov     rdi, rsi
        xor     eax, eax
        mov     ecx, -1
        repne scasb
        not     ecx
        dec     ecx
        mov     edx, 0xE9
        rep outsb
        ret

print_hex:                              # RAX, without leading zeros
        mov     edi, offset digits_end
1:      dec     edi
        mov     edx, eax
        and     edx, 15
        mov     dl, [hexadecimal + rdx]
        mov     [rdi], dl
        shr     rax, 4
        jnz     1b
        mov     esi, edi
        jmp     print

all_done:
        mov     esi, offset finished_text
        call    print
        mov     eax, [passed]
        call    print_hex
        mov     esi, offset failed_text
        call    print
        mov     eax, [failed]
        call    print_hex
        mov     esi, offset skipped_text
        call    print
        mov     eax, [skipped]
        call    print_hex
        mov     esi, offset newline
        call    print
        xor     eax, eax
        cmp     dword ptr [failed], 0
        setne   al
        out     0xF4, al                # the way out of QEMU and its like
        mov     edx, 0x8900             # and of Bochs
        mov     esi, offset shutdown_text
        mov     ecx, 8
        rep outsb
1:      cli
        hlt
        jmp     1b

find_features:                          # which of FEATURES this CPU has: its vendor, and CPUID bits
        xor     eax, eax
        cpuid
        mov     eax, 1
        cmp     ebx, 0x68747541         # "Auth"
        je      1f
        mov     eax, 2
1:      mov     [features], rax
        mov     esi, offset feature_table
        mov     r8d, 2                  # the bit
2:      cmp     r8d, FEATURE_COUNT
        jae     4f
        mov     eax, [rsi]              # leaf, subleaf, register, bit
        and     eax, 0x80000000
        cpuid
        cmp     eax, [rsi]
        jb      3f
        mov     eax, [rsi]
        mov     ecx, [rsi + 4]
        cpuid
        mov     [leaf], eax
        mov     [leaf + 4], ebx
        mov     [leaf + 8], ecx
        mov     [leaf + 12], edx
        mov     eax, [rsi + 8]
        mov     eax, [leaf + rax * 4]
        mov     ecx, [rsi + 12]
        bt      eax, ecx
        jnc     3f
        bts     [features], r8
3:      add     esi, 16
        inc     r8d
        jmp     2b
4:      ret

drain:                                  # takes and forgets every interrupt that waits or is in service
        lidt    [idt_drain_pointer]
        mov     ebx, APIC
        xor     eax, eax
        mov     cr8, rax
        mov     ecx, 16
1:      call    end_of_interrupt
        loop    1b
        sti
        mov     ecx, 100
2:      pause
        loop    2b
        cli
        lidt    [idt_pointer]
        ret

        .balign 16
drain_stub:
        call    end_of_interrupt
        iretq

end_of_interrupt:                       # in either mode of the local APIC, and to the PIC
        push    rax
        push    rcx
        push    rdx
        mov     ecx, 0x1B
        rdmsr
        and     eax, 0xC00
        cmp     eax, 0xC00
        jne     1f
        mov     ecx, 0x80B
        xor     eax, eax
        xor     edx, edx
        wrmsr
        jmp     2f
1:      mov     ecx, APIC
        mov     dword ptr [rcx + 0xB0], 0
2:      mov     al, 0x20
        out     0x20, al
        pop     rdx
        pop     rcx
        pop     rax
        ret

        .include "legacy.inc"
        .include "tables.inc"
        .include "rows.inc"             # made by build.py
