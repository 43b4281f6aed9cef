# Protected mode: the limit of CS for fetches, one after the other or across it, and for near branches; EIP in 16-bit code.
# SDM vol. 3, 6.3 and 6.15 (#GP); vol. 2, JMP, CALL, Jcc, LOOP, RET.
# qemu: no (it does not look at the limit of CS)
        .include "prot.inc"

        .set    PLACE, 0x300000         # base of the segments, where the code is copied to
        .set    LIMITED, FREE
        .set    CODE32, 0x00409B00
        .set    CODE16, 0x00009B00
        .set    RETURNED, 0x600D

# beyond TEXT, CODE, KIND, LIMIT, ENTRY, EIP: the code raises #GP(0) at EIP
.macro beyond text, code, kind, limit, entry, rip
        try     \code, \kind, \limit, \entry
        check   "\text", [seen_rip], \rip
        check   "\text: error code", [seen_error], 0
.endm

.macro within text, code, kind, limit, entry
        try     \code, \kind, \limit, \entry
        check   "\text", [seen_rip], RETURNED
.endm

.macro try code, kind, limit, entry
        pushad
        mov     esi, offset \code
        mov     edi, PLACE
        mov     ecx, \code\()_end - \code
        rep movsb
        mov     eax, (\kind) | PLACE >> 16
        mov     dword ptr [gdt + LIMITED + 4], eax
        mov     eax, (PLACE & 0xFFFF) << 16 | ((\limit) & 0xFFFF)
        mov     dword ptr [gdt + LIMITED], eax
        mov     eax, ((\limit) & 0xF0000)
        or      dword ptr [gdt + LIMITED + 4], eax
        popad
        mov     dword ptr [kernel_sp], esp
        mov     dword ptr [go_on], offset .Lbehind\@
        mov     dword ptr [seen_error], -1
        test    eax, eax
        ljmp    LIMITED, \entry
.Lbehind\@:
.endm

.macro back                             # from 32-bit code
        .byte   0xEA
        .long   returned
        .word   K32
.endm

main:
        hook    13, caught
        # fetches
        beyond  "one after the other", nops, CODE32, 3, 0, 4
        beyond  "across the limit", straddles, CODE32, 4, 0, 2
        beyond  "across the limit by one byte", straddles, CODE32, 5, 0, 2
        within  "the last byte at the limit", straddles, CODE32, straddles_end-straddles-1, 0
        beyond  "the way back, one byte too long", straddles, CODE32, straddles_end-straddles-2, 0, 7
        beyond  "the same code again, its segment smaller", nops, CODE32, 2, 0, 3
        within  "and as large as it is", nops, CODE32, nops_end-nops-1, 0
        beyond  "and smaller", nops, CODE32, 1, 0, 2
        # near branches fault where they are
        beyond  "JMP", jumps, CODE32, 0xFF, 0, 1
        within  "JMP to the limit", jumps, CODE32, jumps_end-jumps-1, 0
        beyond  "JMP below 0", jumps_below, CODE32, 0xFFF, 0, 1
        beyond  "JMP with a 16-bit operand size", jumps_cut, CODE32, 0xFF, 0, 1
        within  "the same within", jumps_cut, CODE32, 0xFFF, 0
        xor     eax, eax
        beyond  "JE that is taken", branches, CODE32, 0xFF, 0, 2
        inc     eax
        within  "JE that is not", branches, CODE32, 0xFF, 0
        xor     eax, eax
        beyond  "JE with a 16-bit operand size, taken", branches_cut, CODE32, 0xFF, 0, 2
        inc     eax
        within  "and not", branches_cut, CODE32, 0xFF, 0
        mov     ecx, 2
        beyond  "LOOP that is taken", loops, CODE32, 0x20, 0, 1
        check   "ECX is as it was", ecx, 2
        mov     ecx, 1
        within  "LOOP that is not", loops, CODE32, 0x20, 0
        check   "ECX is counted", ecx, 0
        mov     ecx, 0
        beyond  "JECXZ that is taken", jumps_at_zero, CODE32, 0x20, 0, 1
        mov     ecx, 1
        within  "JECXZ that is not", jumps_at_zero, CODE32, 0x20, 0
        beyond  "CALL", calls, CODE32, 0xFF, 0, 1
        mov     eax, dword ptr [seen_sp]
        sub     eax, dword ptr [kernel_sp]
        check   "nothing was pushed", eax, 0
        beyond  "CALL with a 16-bit operand size", calls_cut, CODE32, 0xFF, 0, 1
        mov     eax, dword ptr [seen_sp]
        sub     eax, dword ptr [kernel_sp]
        check   "nothing was pushed by that", eax, 0
        mov     eax, 0x100
        beyond  "JMP EAX", indirect, CODE32, 0xFF, 0, 1
        mov     eax, 0x40000
        beyond  "RET", returns, CODE32, 0x3FFFF, 0, 1
        # all sixteen conditions, taken and not
        .irp    number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        call    condition\number
        .endr
        # a loop, hot or not, ends where its segment was cut
        mov     ecx, 300000
        within  "a loop", long_loop, CODE32, 0x20, 0
        mov     ecx, 300000
        beyond  "the loop, the way on cut off", long_loop, CODE32, 4, 0, 5
        mov     ecx, 3
        beyond  "the loop, its end cut off", long_loop, CODE32, 3, 0, 3
        # 16-bit code: EIP goes on behind FFFFh
        mov     byte ptr [PLACE + 0xFFFE], 0x43
        mov     byte ptr [PLACE + 0xFFFF], 0x43
        mov     byte ptr [PLACE + 0x10000], 0x43
        xor     ebx, ebx
        beyond  "16-bit code at FFFFh", back16, CODE16, 0xFFFF, 0xFFFE, 0x10000
        check   "both were executed", ebx, 2
        mov     esi, offset back16
        mov     edi, PLACE + 0x10001
        mov     ecx, back16_end - back16
        rep movsb
        xor     ebx, ebx
        within  "16-bit code in a larger segment", back16, CODE16|0x10000, 0xFFFF, 0xFFFE
        check   "all three were", ebx, 3
        beyond  "JMP with a 32-bit operand size", jumps_wide, CODE16, 0xFFFF, 0, 1
        within  "the same in a larger segment", jumps_wide, CODE16|0x10000, 0xFFFF, 0
        mov     dword ptr [PLACE + 0xFFFE], 0xFEEB0074  # JE +0, then nothing
        or      eax, 1
        beyond  "JE at the end, not taken", back16, CODE16, 0xFFFF, 0xFFFE, 0x10000
        finish

caught:                                 # (esp): error code, EIP, CS, EFLAGS
        pop     dword ptr [seen_error]
        pop     dword ptr [seen_rip]
        add     esp, 8
        mov     dword ptr [seen_sp], esp
        mov     esp, dword ptr [kernel_sp]
        jmp     dword ptr [go_on]

returned:
        mov     dword ptr [seen_rip], RETURNED
        jmp     dword ptr [go_on]

nops:           .fill   8, 1, 0x90
                back
nops_end:
straddles:      nop
                nop
                mov     eax, 0x12345678
                back
straddles_end:
jumps:          nop
                .byte   0xE9
                .long   0x200 - 6
                .skip   0x200 - 6, 0xCC
                back
jumps_end:
jumps_below:    nop
                .byte   0xE9
                .long   -0x100
jumps_below_end:
jumps_cut:      nop
                .byte   0x66, 0xE9
                .word   0x200 - 5
                .skip   0x200 - 5, 0xCC
                back
jumps_cut_end:
branches:       test    eax, eax
                .byte   0x0F, 0x84
                .long   0x200
                back
branches_end:
branches_cut:   test    eax, eax
                .byte   0x66, 0x0F, 0x84
                .word   0x200
                back
branches_cut_end:
loops:          nop
                .byte   0xE2, 0x40
                back
loops_end:
jumps_at_zero:  nop
                .byte   0xE3, 0x40
                back
jumps_at_zero_end:
calls:          nop
                .byte   0xE8
                .long   0x200
calls_end:
calls_cut:      nop
                .byte   0x66, 0xE8
                .word   0x200
calls_cut_end:
indirect:       nop
                jmp     eax
indirect_end:
returns:        push    eax
                ret
returns_end:
long_loop:      dec     ecx
                nop
                nop
                jnz     long_loop
                back
long_loop_end:
back16:         .byte   0x66, 0xEA
                .long   returned
                .word   K32
back16_end:
jumps_wide:     nop
                .byte   0x66, 0xE9
                .long   0x10001 - 7
jumps_wide_end:

# Condition N on flags that it holds for, then on those it does not.
        .irp    number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
taken\number:   push    edx
                popfd
                .byte   0x0F, 0x80 + \number
                .long   0x200
                back
taken\number\()_end:
condition\number:
        .irp    flags, 0x002, 0x803, 0x042, 0x086, 0x882, 0x0C7
        mov     edx, \flags
        push    edx
        popfd
        .byte   0x0F, 0x80 + \number
        .long   3f - . - 4
        jmp     1f
3:      beyond  "condition \number, flags \flags, holds", taken\number, CODE32, 0xFF, 0, 2
        jmp     2f
1:      within  "condition \number, flags \flags, does not", taken\number, CODE32, 0xFF, 0
2:
        .endr
        ret
        .endr

        .data
        .balign 4
go_on:          .long   0
seen_error:     .long   0
seen_rip:       .long   0
seen_sp:        .long   0
