# Protected mode, 32 bits: descriptors, limits of every kind, rights, LDT, LAR, LSL, VERR, VERW, ARPL, stack width.
        .include "prot.inc"

        .set    SMALL, FREE             # data, base 300000h, limit FFFh
        .set    DOWN, FREE + 8          # expand-down, base 300000h, limit FFFh, B = 1
        .set    DOWN16, FREE + 16       # the same with B = 0
        .set    READONLY, FREE + 24
        .set    EXECUTE, FREE + 32      # execute-only code
        .set    READABLE, FREE + 40     # readable code
        .set    ABSENT, FREE + 48
        .set    PAGES, FREE + 56        # limit 1 page, granular: FFFh + ...
        .set    CONFORMING, FREE + 64
        .set    LDT, FREE + 72
        .set    USER, FREE + 80 + 3     # data, DPL 3
        .set    STACK16, FREE + 88      # stack segment with B = 0, base 310000h

main:
        descriptor SMALL, 0x00000FFF, 0x00409330
        descriptor DOWN, 0x00000FFF, 0x00409730
        descriptor DOWN16, 0x00000FFF, 0x00009730
        descriptor READONLY, 0x0000FFFF, 0x00CF9130
        descriptor EXECUTE, 0x0000FFFF, 0x00CF9930
        descriptor READABLE, 0x0000FFFF, 0x00CF9B30
        descriptor ABSENT, 0x0000FFFF, 0x00CF1330
        descriptor PAGES, 0x00000000, 0x00C09230
        descriptor CONFORMING, 0x0000FFFF, 0x00CF9F00
        descriptor LDT, 0x0000001F, 0x00008232
        descriptor USER, 0x00000FFF, 0x0040F330
        descriptor STACK16, 0x0000FFFF, 0x00009331
        mov     dword ptr [0x300000], 0x11111111
        mov     dword ptr [0x300FFC], 0x22222222
        mov     dword ptr [0x301000], 0x33333333
        mov     dword ptr [0x2FFFFC], 0x44444444
        # limits (SDM vol. 3, 5.3)
        mov     eax, SMALL
        mov     fs, eax
        runs    "the last doubleword", mov eax, fs:[0xFFC]
        check   "is that of the segment", eax, 0x22222222
        faults  "one byte beyond the limit", 13, 0, mov eax, fs:[0xFFD]
        faults  "store beyond the limit", 13, 0, mov fs:[0xFFD], eax
        faults  "modify beyond the limit", 13, 0, add dword ptr fs:[0xFFD], 1
        faults  "locked, beyond the limit", 13, 0, lock add dword ptr fs:[0xFFE], 1
        faults  "word across the limit", 13, 0, mov ax, fs:[0xFFF]
        runs    "byte at the limit", mov al, fs:[0xFFF]
        faults  "byte behind it", 13, 0, mov al, fs:[0x1000]
        faults  "far behind it", 13, 0, mov al, fs:[-1]
        faults  "wrapping quadword", 13, 0, fld qword ptr fs:[-4]
        faults  "16 bytes across the limit", 13, 0, movups xmm0, fs:[0xFF1]
        runs    "16 bytes inside", movups xmm0, fs:[0xFF0]
        faults  "BT with a register reaches beyond the limit", 13, 0, bt dword ptr fs:[0], esp
        faults  "XCHG beyond", 13, 0, xchg fs:[0x1000], eax
        faults  "CMPXCHG8B across", 13, 0, cmpxchg8b fs:[0xFFC]
        faults  "PUSH of memory beyond", 13, 0, push dword ptr fs:[0xFFD]
        faults  "POP to memory beyond", 13, 0, pop dword ptr fs:[0xFFD]
        faults  "JMP through memory beyond", 13, 0, jmp dword ptr fs:[0xFFD]
        faults  "CALL through memory beyond", 13, 0, call dword ptr fs:[0xFFD]
        faults  "FXSAVE across", 13, 0, fxsave fs:[0xF00]
        faults  "SGDT across", 13, 0, sgdt fs:[0xFFC]
        faults  "LGDT across", 13, 0, lgdt fs:[0xFFC]
        faults  "LDS across (the selector)", 13, 0, lds eax, fs:[0xFFC]
        faults  "BOUND across", 13, 0, bound eax, fs:[0xFFC]
        faults  "FLDENV across", 13, 0, fldenv fs:[0xFF0]
        faults  "IMUL across", 13, 0, imul eax, fs:[0xFFD]
        mov     ebx, 0xFF0
        mov     eax, 15
        runs    "XLAT at the limit", .byte 0x64, 0xD7
        mov     eax, 16
        faults  "XLAT beyond", 13, 0, .byte 0x64, 0xD7
        mov     esi, 0xFFC
        mov     ecx, 4
        faults  "REP LODSD over the limit", 13, 0, rep lodsd eax, fs:[esi]
        check   "one was done", ecx, 3
        check   "ESI stands on the second", esi, 0x1000
        mov     eax, PAGES
        mov     fs, eax
        runs    "a granular limit 0 is FFFh", mov al, fs:[0xFFF]
        faults  "no more", 13, 0, mov al, fs:[0x1000]
        # expand-down: offsets above the limit, up to FFFFFFFFh or FFFFh
        mov     eax, DOWN
        mov     fs, eax
        faults  "expand-down: at the limit", 13, 0, mov al, fs:[0xFFF]
        faults  "expand-down: dword that begins below", 13, 0, mov eax, fs:[0xFFE]
        runs    "expand-down: above the limit", mov eax, fs:[0x1000]
        check   "expand-down: value", eax, 0x33333333
        runs    "expand-down: to the top", mov eax, fs:[-4]
        check   "expand-down: value at the top", eax, 0x44444444
        faults  "expand-down: over the top", 13, 0, mov eax, fs:[-3]
        runs    "expand-down: store", mov fs:[0x1004], eax
        mov     eax, DOWN16
        mov     fs, eax
        runs    "expand-down, B = 0: FFFFh", mov al, fs:[0xFFFF]
        faults  "expand-down, B = 0: 10000h", 13, 0, mov al, fs:[0x10000]
        faults  "expand-down, B = 0: over FFFFh", 13, 0, mov ax, fs:[0xFFFF]
        # rights
        mov     eax, READONLY
        mov     fs, eax
        runs    "read-only: load", mov eax, fs:[0]
        faults  "read-only: store", 13, 0, mov fs:[0], eax
        faults  "read-only: modify", 13, 0, inc dword ptr fs:[0]
        faults  "read-only: BTS", 13, 0, bts dword ptr fs:[0], 1
        faults  "read-only: CMPXCHG", 13, 0, cmpxchg fs:[0], ecx
        mov     eax, READABLE
        mov     fs, eax
        runs    "readable code as data", mov eax, fs:[0]
        faults  "code is never written", 13, 0, mov fs:[0], eax
        faults  "CS is never written", 13, 0, mov cs:[0x300000], eax
        runs    "CS is read", mov eax, cs:[0x300000]
        mov     eax, EXECUTE
        faults  "execute-only code to FS", 13, EXECUTE, mov fs, eax
        mov     eax, READONLY
        faults  "read-only to SS", 13, READONLY, mov ss, eax
        mov     eax, READABLE
        faults  "code to SS", 13, READABLE, mov ss, eax
        mov     eax, ABSENT
        faults  "absent to FS", 11, ABSENT, mov fs, eax
        faults  "absent to SS", 12, ABSENT, mov ss, eax
        mov     eax, TSS_SELECTOR
        faults  "a TSS to FS", 13, TSS_SELECTOR, mov fs, eax
        xor     eax, eax
        faults  "null to SS", 13, 0, mov ss, eax
        mov     eax, 0x1000
        faults  "outside the GDT", 13, 0x1000, mov fs, eax
        mov     eax, KDATA + 1
        faults  "SS with another RPL", 13, KDATA, mov ss, eax
        faults  "FS with RPL 1 of DPL 0", 13, KDATA, mov fs, eax
        xor     eax, eax
        runs    "null to FS", mov fs, eax
        faults  "load through null", 13, 0, mov eax, fs:[0]
        faults  "store through null", 13, 0, mov fs:[0], eax
        mov     al, byte ptr [gdt + PAGES + 5]
        movzx   eax, al
        check   "the accessed bit was set (SDM 3, 3.4.5.1)", eax, 0x93
        # LDT
        mov     dword ptr [0x320000], 0
        mov     dword ptr [0x320008], 0x00000FFF
        mov     dword ptr [0x32000C], 0x00409330
        mov     eax, LDT
        runs    "LLDT", lldt ax
        mov     eax, 0x0C
        runs    "FS from the LDT", mov fs, eax
        mov     eax, fs:[0]
        check   "FS from the LDT: value", eax, 0x11111111
        mov     eax, 0x24
        faults  "outside the LDT", 13, 0x24, mov fs, eax
        mov     eax, 4
        faults  "entry 0 of the LDT is no null selector", 13, 4, mov fs, eax
        mov     eax, KDATA
        faults  "LLDT of data", 13, KDATA, lldt ax
        mov     eax, TSS_SELECTOR
        faults  "LTR of a busy TSS", 13, TSS_SELECTOR, ltr ax
        xor     eax, eax
        faults  "LTR of null", 13, 0, ltr ax
        sldt    ax
        movzx   eax, ax
        check   "SLDT", eax, LDT
        str     eax
        check   "STR", eax, TSS_SELECTOR
        # LAR LSL VERR VERW (SDM vol. 2)
        mov     ecx, DOWN
        lar     eax, ecx
        check   "LAR", eax, 0x00409700
        lsl     eax, ecx
        check   "LSL", eax, 0xFFF
        mov     ecx, KDATA
        lsl     eax, ecx
        check   "LSL granular", eax, 0xFFFFFFFF
        mov     ecx, 0x1000
        mov     eax, 77
        lsl     eax, ecx
        setz    bl
        movzx   ebx, bl
        check   "LSL outside: ZF", ebx, 0
        check   "LSL outside: unchanged", eax, 77
        mov     ecx, TSS_SELECTOR
        lsl     eax, ecx
        check   "LSL of a TSS", eax, offset tss_end - tss - 1
.macro zf name, expected, insn:vararg
        \insn
        setz    al
        movzx   eax, al
        check   "\name", eax, \expected
.endm
        mov     ecx, READONLY
        zf      "VERR read-only", 1, verr cx
        zf      "VERW read-only", 0, verw cx
        mov     ecx, EXECUTE
        zf      "VERR execute-only", 0, verr cx
        mov     ecx, READABLE
        zf      "VERR readable code", 1, verr cx
        zf      "VERW code", 0, verw cx
        mov     ecx, SMALL + 3
        zf      "VERR with RPL 3", 0, verr cx
        mov     ecx, CONFORMING + 3
        zf      "VERR conforming with RPL 3", 1, verr cx
        mov     ecx, LDT
        zf      "VERR system", 0, verr cx
        xor     ecx, ecx
        zf      "VERR null", 0, verr cx
        mov     eax, 0x20
        mov     ecx, 3
        arpl    ax, cx
        check   "ARPL", eax, 0x23
        mov     eax, 0x23
        mov     ecx, 1
        zf      "ARPL leaves alone", 0, arpl ax, cx
        # privilege: data segments at CPL 3
        mov     eax, SMALL
        mov     fs, eax
        mov     eax, USER
        mov     gs, eax
        ring3
        mov     eax, fs
        check   "FS of ring 0 was cleared on the way out (SDM 3, 5.8.6)", eax, 0
        mov     eax, gs
        check   "GS of ring 3 was kept", eax, USER
        mov     eax, SMALL
        faults  "DPL 0 data at CPL 3", 13, SMALL, mov fs, eax
        faults  "HLT at CPL 3", 13, 0, hlt
        faults  "CLI at CPL 3", 13, 0, cli
        faults  "LGDT at CPL 3", 13, 0, lgdt [gdt_pointer]
        faults  "MOV CR0 at CPL 3", 13, 0, mov eax, cr0
        faults  "LMSW at CPL 3", 13, 0, lmsw ax
        faults  "RDMSR at CPL 3", 13, 0, rdmsr
        faults  "INVLPG at CPL 3", 13, 0, invlpg [0]
        faults  "IN of a port that the bitmap forbids", 13, 0, in al, 0x60
        faults  "OUT of 2 bytes of which one is forbidden", 13, 0, out 0xE9, ax
        faults  "INT of a gate of DPL 0", 13, 0x81*8+2, int 0x81
        faults  "INT 8 from ring 3", 13, 8*8+2, int 8
        runs    "SMSW at CPL 3 without UMIP", smsw ax
        mov     edx, 0x1000
        faults  "OUT to a port beyond the limit of the TSS", 13, 0, out dx, al
        ring0
        # 16-bit stack: B = 0 (SDM vol. 3, 6.2.3): only SP moves
        mov     edx, esp
        mov     ecx, ss
        mov     eax, STACK16
        mov     ss, eax
        mov     esp, 0x12340004
        push    0x55667788
        mov     ebx, esp
        pop     esi
        mov     edi, esp
        mov     ss, ecx
        mov     esp, edx
        check   "PUSH with a 16-bit stack", ebx, 0x12340000
        check   "POP", esi, 0x55667788
        check   "and back", edi, 0x12340004
        mov     eax, [0x310000]
        check   "it lay at SP, not ESP", eax, 0x55667788
        mov     eax, STACK16
        mov     ss, eax
        mov     esp, 0x12340000
        push    0x0A0B0C0D
        mov     ebx, esp
        mov     ss, ecx
        mov     esp, edx
        check   "SP wraps", ebx, 0x1234FFFC
        mov     eax, [0x31FFFC]
        check   "to the top of the segment", eax, 0x0A0B0C0D
        mov     eax, STACK16
        mov     ss, eax
        mov     esp, 0x43210100
        call    2f
        mov     edi, esp
        jmp     3f
2:      mov     ebx, esp
        enter   8, 0
        mov     esi, esp
        leave
        ret
3:      mov     ss, ecx
        mov     esp, edx
        check   "CALL with a 16-bit stack", ebx, 0x432100FC
        check   "ENTER", esi, 0x432100F0
        check   "RET", edi, 0x43210100
        mov     eax, STACK16
        mov     ss, eax
        mov     esp, 0x00020008
        pushad
        mov     dword ptr [0x330000], esp
        popad
        mov     edi, esp
        mov     ss, ecx
        mov     esp, edx
        mov     esi, [0x330000]
        check   "PUSHAD wraps, too", esi, 0x0002FFE8
        check   "POPAD", edi, 0x00020008
        ret
