# Compatibility mode: far transfers in and out, call gates, 32-bit code with 64-bit handlers, SYSCALL (AMD), address wraps, IRET, 16 bits.
        .include "long.inc"
        with_code32

        .set    GATE, FREE + 3          # call gate, 16 bytes, DPL 3, to 64-bit code of ring 0
        .set    BASED, FREE + 16        # 32-bit code... data with base 300000h
        .set    U16, FREE + 24 + 3      # 16-bit code of ring 3
        .set    GATE32, FREE + 32       # call gate to 32-bit code: not allowed
        .set    BAD, FREE + 48          # code with L and D
        .set    SMALL, FREE + 56 + 3    # data, DPL 3, limit FFFh, base 300000h

main:
        mov     eax, offset gate_entry
        mov     word ptr [gdt + FREE], ax
        mov     dword ptr [gdt + FREE + 2], 0xEC000000 + K64 - 0x00000000
        mov     word ptr [gdt + FREE + 2], K64
        mov     word ptr [gdt + FREE + 4], 0xEC00
        shr     eax, 16
        mov     word ptr [gdt + FREE + 6], ax
        mov     qword ptr [gdt + FREE + 8], 0
        mov     word ptr [gdt + GATE32 + 2], K32
        mov     word ptr [gdt + GATE32 + 4], 0x8C00
        mov     rax, 0x0000FB000000FFFF
        mov     [gdt + U16 - 3], rax
        mov     rax, 0x00EF9B000000FFFF
        mov     [gdt + BAD], rax
        mov     rax, 0x0040F33000000FFF
        mov     [gdt + SMALL - 3], rax
        # at CPL 0
        push    K32
        push    offset 1f
        retfq
        bits    32
1:      mov     eax, 0xFFFFFFFF
        inc     eax
        setz    bl
        movzx   ebx, bl
        check   "opcode 40 is INC in compatibility mode", ebx, 1
        mov     ebx, 0xFFFFFFF0
        mov     eax, [ebx + gdt + 16 + 8]
        check   "addresses wrap at 4 GiB", eax, 0x0000FFFF
        faults  "UD2 in compatibility mode", 6, 0, ud2
        check   "the handler saw CS of the 32-bit code", [last_cs], K32
        faults  "far JMP to code with L and D", 13, BAD, ljmp BAD, 0
        faults  "far CALL through a gate to 32-bit code", 13, K32, lcall GATE32, 0
        mov     ecx, 0xC0000080
        rdmsr
        and     eax, 0x400
        check   "EFER.LMA", eax, 0x400
        push    0
        popfd
        .byte   0xEA
        .long   2f
        .word   K64
        bits    64
2:      mov     eax, 0xFFFFFFFF
        inc     eax
        check   "64-bit code again", rax, 0
        mov     ecx, 0xC0000081
        xor     eax, eax
        mov     edx, 0x00230008
        wrmsr
        mov     ecx, 0xC0000083
        mov     eax, offset compat_entry
        xor     edx, edx
        wrmsr
        mov     ecx, 0xC0000082
        mov     eax, offset long_entry
        wrmsr
        mov     ecx, 0xC0000084
        mov     eax, 0x400
        wrmsr
        # ring 3, 32 bits
        mov     r8, 0x1111222233334444
        ring3   U32
        bits    32
        push    UDATA
        pop     ds
        push    UDATA
        pop     es
        mov     edx, esp
        pushad
        popad
        check   "PUSHAD and POPAD", edx, offset user_top
        push    ebp
        mov     ebp, esp
        mov     esp, ebp
        pop     ebp
        faults  "a page fault at CPL 3", 14, 4, mov eax, [0x60000000]
        faults  "HLT", 13, 0, hlt
        faults  "BOUND", 5, 0, bound edx, [limits]
        mov     eax, SMALL
        mov     fs, eax
        runs    "a segment with a base and a limit", mov eax, fs:[0xFFC]
        faults  "limits count in compatibility mode", 13, 0, mov eax, fs:[0xFFD]
        mov     dword ptr [resume], offset 3f
        mov     dword ptr [last_vector], -1
        mov     al, 0x7F
        inc     al
0:      into
4:      nop
3:      check   "INTO", [last_vector], 4
        mov     dword ptr [last_vector], -1
        # SYSCALL from compatibility mode: AMD only, to CSTAR (APM vol. 3)
        syscall
5:      check   "SYSCALL: ECX", ecx, offset 5b
        check   "SYSCALL came by CSTAR", edi, 0x32
        mov     eax, cs
        check   "SYSRET to 32-bit code", eax, U32
        faults  "SYSENTER in long mode on AMD", 6, 0, sysenter
        # a call gate to 64-bit code of ring 0
        mov     edx, esp
        lcall   GATE, 0
        check   "through the gate: CPL 0, 64 bits", esi, K64
        check   "its frame: CS", ebx, U32
        sub     edx, esp
        check   "and back with RETFQ", edx, 0
        # far JMP to 64-bit code of ring 3 and back
        .byte   0xEA
        .long   6f
        .word   U64
        bits    64
6:      mov     rax, r8
        check   "the upper halves of R8 to R15 survive", rax, 0x1111222233334444
        mov     eax, cs
        check   "64-bit code of ring 3", rax, U64
        mov     dword ptr [pointer], offset 7f
        mov     word ptr [pointer + 4], U32
        jmp     fword ptr [pointer]
        bits    32
7:      mov     eax, cs
        check   "far JMP through memory", eax, U32
        push    offset 8f
        ljmp    U16, offset compat16
8:      check   "16-bit code in long mode", eax, 0x10000
        ring0
        # IRETQ at CPL 0 to compatibility mode of CPL 0 keeps the 32-bit stack
        mov     rdx, rsp
        push    KDATA
        push    rdx
        push    2
        push    K32
        push    offset 9f
        iretq
        bits    32
9:      sub     edx, esp
        check   "IRETQ to 32-bit code of ring 0", edx, 0
        .byte   0xEA
        .long   9f
        .word   K64
        bits    64
9:      push    BAD
        push    0
        faults  "RETFQ to code with L and D", 13, BAD, retfq
        add     rsp, 16
        ret

gate_entry:                             # [rsp]: RIP, CS, RSP, SS
        mov     esi, cs
        mov     ebx, [rsp + 8]
        retfq

compat_entry:
        mov     edi, 0x32
        sysretd
long_entry:
        mov     edi, 0x64
        sysretq

        .section .low.text, "ax"
        bits    16
compat16:
        mov     eax, 0xFFFF
        inc     eax
        pop     ecx
        push    dword ptr U32
        push    ecx
        retfd
        .data
limits: .long   0, 1
pointer: .long  0, 0
