# Real mode: segment wrap and limits, interrupts through the IVT, string operations, far jumps, 32-bit operands, unreal mode.
# Entered from multiboot by way of 16-bit protected mode (SDM vol. 3, 9.9.2). A20 is always on.
        .include "check.inc"
        multiboot_header

        .globl  start
        bits    32
start:
        cli
        cld
        mov     esi, 0x180000
        mov     edi, 0x2000
        mov     ecx, offset low_end - 0x2000
        rep movsb
        lgdt    [gdt_pointer]
        ljmp    8, offset sixteen

        .section .low.text, "ax"
        bits    16
sixteen:
        mov     eax, 0x10
        mov     ds, eax
        mov     es, eax
        mov     fs, eax
        mov     gs, eax
        mov     ss, eax
        mov     esp, 0x1F00
        mov     eax, cr0
        and     eax, ~1
        mov     cr0, eax
        jmp     0:real
real:
        xor     eax, eax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     fs, ax
        mov     gs, ax
        lidt    [ivt_pointer]
        # 256 vectors to stubs of 4 bytes: CALL common16, which finds the vector from the return address
        xor     di, di
        mov     ax, offset stubs16
1:      mov     [di], ax
        mov     word ptr [di + 2], 0
        add     ax, 4
        add     di, 4
        cmp     di, 0x400
        jb      1b
        jmp     main

common16:                               # [sp]: return address of the stub, IP, CS, FLAGS
        pop     word ptr [scratch]
        push    ds
        push    eax
        xor     eax, eax
        mov     ds, ax
        mov     ax, [scratch]
        sub     ax, offset stubs16
        shr     ax, 2
        mov     [last_vector], eax
        mov     dword ptr [last_error], 0
        push    bp
        mov     bp, sp
        movzx   eax, word ptr [bp + 8]
        mov     [last_rip], eax
        movzx   eax, word ptr [bp + 10]
        mov     [last_cs], eax
        movzx   eax, word ptr [bp + 12]
        mov     [last_flags], eax
        movzx   eax, bp
        add     eax, 14
        mov     [last_sp], eax
        mov     eax, [resume]
        test    eax, eax
        jz      2f
        mov     [bp + 8], ax
        mov     word ptr [bp + 10], 0
        pop     bp
        pop     eax
        pop     ds
        iretw
2:      mov     esi, offset unexpected_text
        call    say16
        mov     eax, [last_vector]
        call    hex16
        mov     eax, [last_rip]
        call    hex16
        call    newline16
        mov     al, 0x7F
        out     0xF4, al
        hlt
        .balign 4
stubs16:
        .rept   256
        .byte   0xE8
        .word   common16 - . - 2
        .byte   0x90
        .endr

main:
        # limits (SDM vol. 3, 20.1.1; vol. 2, #GP in real mode)
        faults  "word at FFFFh", 13, 0, mov ax, [0xFFFF]
        faults  "store of a word at FFFFh", 13, 0, mov [0xFFFF], ax
        faults  "dword at FFFDh", 13, 0, mov eax, [0xFFFD]
        runs    "byte at FFFFh", mov al, [0xFFFF]
        runs    "dword at FFFCh", mov eax, [0xFFFC]
        mov     ebx, 0x10000
        faults  "32-bit address beyond 64 KiB", 13, 0, mov al, [ebx]
        mov     bp, 0xFFFF
        faults  "word at SS:FFFFh: #SS", 12, 0, mov ax, [bp]
        faults  "UD2", 6, 0, ud2
        faults  "ARPL in real mode (SDM 2)", 6, 0, .byte 0x63, 0xC8
        faults  "SLDT in real mode", 6, 0, .byte 0x0F, 0x00, 0xC0
        faults  "LAR in real mode", 6, 0, .byte 0x0F, 0x02, 0xC0
        faults  "VERR in real mode", 6, 0, .byte 0x0F, 0x00, 0xE0
        faults  "SYSENTER in real mode", 13, 0, sysenter
        xor     cx, cx
        faults  "DIV by 0", 0, 0, div cx
        mov     eax, [last_flags]
        and     eax, 0x8000
        check   "FLAGS of the frame, bit 15", eax, 0
        mov     ebx, offset bounds
        mov     ax, 5
        faults  "BOUND", 5, 0, bound ax, [bx]
        faults  "MOV to CS", 6, 0, .byte 0x8E, 0xC8
        # addresses wrap at 64 KiB: 16-bit effective addresses
        mov     bx, 0xFFF0
        mov     byte ptr [0x1800], 0x5A
        mov     al, [bx + 0x1810]
        movzx   eax, al
        check   "the effective address wraps", eax, 0x5A
        mov     si, 0x1801
        mov     al, [bx + si + 0xF]
        movzx   eax, al
        check   "BX + SI + displacement wraps", eax, 0x5A
        # A20 on: FFFF:0010 is 100000h
        mov     ax, 0xFFFF
        mov     es, ax
        mov     eax, es:[0x10]
        check   "FFFF:0010 is the multiboot header at 1 MiB", eax, 0x1BADB002
        # segments: base = selector * 16
        mov     ax, 0x180
        mov     es, ax
        mov     al, es:[0]
        movzx   eax, al
        check   "0180:0000", eax, 0x5A
        # strings: wrap of SI, direction, segment override, ES fixed
        mov     dword ptr [0x1900], 0x64636261
        mov     si, 0x1900
        mov     di, 0x1980
        xor     ax, ax
        mov     es, ax
        mov     cx, 4
        rep movsb
        mov     eax, [0x1980]
        check   "REP MOVSB", eax, 0x64636261
        movzx   eax, si
        check   "SI", eax, 0x1904
        std
        mov     si, 0x1902
        mov     di, 0x1982
        mov     cx, 2
        rep movsw
        cld
        movzx   eax, di
        check   "downwards", eax, 0x197E
        mov     di, 0xFFFE
        mov     ecx, 0x00030002
        mov     ax, 0x7777
        mov     edx, [0xFFFC]
        push    word ptr [0]
        rep stosb
        pop     word ptr [0]
        check   "CX counts, not ECX", ecx, 0x00030000
        movzx   eax, di
        check   "DI wraps", eax, 0
        mov     [0xFFFC], edx
        mov     ax, 0x180
        mov     fs, ax
        mov     si, 0
        lods    al, byte ptr fs:[si]
        movzx   eax, al
        check   "LODSB with FS", eax, 0x5A
        mov     al, 'c'
        mov     di, 0x1900
        mov     cx, 10
        repne scasb
        movzx   eax, di
        check   "REPNE SCASB", eax, 0x1903
        # CALL, RET, far CALL and RETF, 16 and 32 bits
        mov     edx, esp
        call    1f
1:      mov     ebx, esp
        pop     ax
        sub     edx, ebx
        check   "CALL pushes 2 bytes", edx, 2
        mov     edx, esp
        call    0x20:offset far_target - 0x200
        check   "far CALL to another CS", eax, 0x20
        mov     ebx, esp
        sub     ebx, edx
        check   "RETF takes 4 bytes", ebx, 0
        .byte   0x66, 0x9A              # far CALL with 32 bits
        .long   far_target32
        .word   0
        check   "far CALL with 32-bit operands", eax, 8
        mov     dword ptr [0x1A00], offset far_target - 0x200 + 0x200000
        call    dword ptr [0x1A00]
        check   "far CALL through memory", eax, 0x20
        jmp     0x10:offset 2f - 0x100
2:      mov     ax, cs
        jmp     0:3f
3:      movzx   eax, ax
        check   "far JMP", eax, 0x10
        mov     ebx, 0x10000
        faults  "near JMP beyond the limit of CS", 13, 0, .byte 0x66, 0xFF, 0xE3
        # INT, IRET, flags
        mov     word ptr [0x60 * 4], offset software
        sti
        stc
        int     0x60
        setc    bl
        cli
        check   "INT cleared IF", eax, 0
        movzx   ebx, bl
        check   "IRET restored CF", ebx, 1
        pushf
        pop     ax
        and     eax, 0x200
        check   "CLI", eax, 0
        mov     word ptr [0x61 * 4], offset software32
        int     0x61
        check   "IRETD of a frame of 12 bytes", eax, 0x4321
        mov     dword ptr [last_vector], -1
        mov     dword ptr [resume], offset 4f
        int3
0:      nop
4:      verdict 940, "INT3 is a trap", 3, 0, 0b
        mov     dword ptr [resume], offset 4f
        mov     al, 0x7F
        inc     al
        into
0:      nop
4:      verdict 941, "INTO is a trap", 4, 0, 0b
        lidt    [short_ivt]
        mov     dword ptr [resume], offset 4f
0:      int     0x50
4:      lidt    [ivt_pointer]
        verdict 942, "INT beyond the limit of the IVT: #GP", 13, 0, 0b
        lidt    [moved_ivt]
        mov     dword ptr [0x1C00 + 0x60 * 4], offset moved
        int     0x60
        lidt    [ivt_pointer]
        check   "a table elsewhere", eax, 0x99
        # stack: SP wraps, SP = 1 faults
        mov     dword ptr [saved_sp], esp
        mov     ax, 0x7000
        mov     ss, ax
        xor     esp, esp
        push    ax
        movzx   ebx, sp
        pop     ax
        xor     ax, ax
        mov     ss, ax
        mov     esp, [saved_sp]
        check   "SP wraps from 0", ebx, 0xFFFE
        pushad
        mov     ebp, esp
        popad
        mov     ax, 0x1234
        pushw   ax
        mov     ebx, 0xAABBCCDD
        push    ebx
        pop     ecx
        popw    dx
        check   "PUSH of 32 bits", ecx, 0xAABBCCDD
        movzx   edx, dx
        check   "PUSH of 16 bits", edx, 0x1234
        enter   6, 0
        leave
        mov     bx, 0
        mov     ds, bx
        # LDS, LES, XLAT, LOOP with ECX
        mov     dword ptr [0x1A00], 0x01801234
        les     di, [0x1A00]
        mov     ax, es
        movzx   eax, ax
        check   "LES: selector", eax, 0x180
        movzx   eax, di
        check   "LES: offset", eax, 0x1234
        mov     ecx, 0x10001
        xor     eax, eax
5:      inc     eax
        loop    5b
        check   "LOOP counts CX", eax, 1
        mov     ecx, 2
        xor     eax, eax
6:      inc     eax
        addr32 loop 6b
        check   "LOOP counts ECX with an address prefix", eax, 2
        # MOV CR0, LMSW, SMSW
        smsw    ax
        and     eax, 1
        check   "SMSW: PE is off", eax, 0
        # unreal mode: limits of protected mode stay behind CR0.PE (SDM vol. 3, 9.9.2)
        lgdtd   [gdt_pointer_low]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     7f
7:      mov     bx, 0x18
        mov     gs, bx
        and     al, ~1
        mov     cr0, eax
        xor     bx, bx
        mov     gs, bx
        mov     es, bx
        mov     ebx, 0x100000
        runs    "unreal mode: a load at 1 MiB through GS", mov eax, gs:[ebx]
        check   "unreal mode: the value", eax, 0x1BADB002
        faults  "DS still ends at 64 KiB", 13, 0, mov eax, [ebx]
        mov     esi, ebx
        mov     edi, 0x1A00
        mov     ecx, 2
        runs    "unreal mode: REP MOVSD with 32-bit addresses", .byte 0x65, 0x66, 0x67, 0xF3, 0xA5
        mov     eax, [0x1A00]
        check   "unreal mode: what was copied", eax, 0x1BADB002
        # 32-bit operands, LEA, MOVZX, shifts by 32-bit addresses
        mov     eax, 0x12345678
        lea     bx, [eax + 8]
        movzx   ebx, bx
        check   "LEA of 16 bits with a 32-bit address", ebx, 0x5680
        lea     ebx, [eax + eax * 2]
        check   "LEA of 32 bits", ebx, 0x369D0368
        # protected mode and back leaves CPL 0 whatever the paragraph (low bits of CS set)
        jmp     0x3:offset 8f - 0x30
8:      mov     eax, cr0
        mov     cr0, eax
        and     eax, 0x7FFFFFFF
        jmp     0:9f
9:      check   "CS with low bits set is no privilege level", eax, 0x10
        # HLT wakes by nothing here; the end
        finish

far_target:
        movzx   eax, word ptr [esp + 2] # CS of the caller is 0
        mov     ax, cs
        retf
far_target32:
        mov     eax, edx
        sub     eax, esp
        retfd
software:
        pushf
        pop     ax
        and     eax, 0x200
        iretw
software32:                             # make a 32-bit frame of the 16-bit one
        pop     ax
        pop     bx
        pop     cx
        pushd   2
        pushd   0
        movzx   eax, ax
        push    eax
        mov     eax, 0x4321
        iretd
moved:  mov     eax, 0x99
        iretw

        reporting esi, eax, edx, ecx, 4, 16, lodsb

        .pushsection .low.data, "aw"
scratch:        .long   0
saved_sp:       .long   0
bounds:         .word   0, 3
ivt_pointer:    .word   0x3FF
                .long   0
short_ivt:      .word   0x50 * 4 + 2
                .long   0
moved_ivt:      .word   0x3FF
                .long   0x1C00
gdt_pointer_low: .word  31
                .long   gdt
        .popsection

        .data
        .balign 16
gdt:    .quad   0, 0x00009B000000FFFF, 0x000093000000FFFF, 0x00CF93000000FFFF
gdt_pointer:
        .word   31
        .long   gdt
