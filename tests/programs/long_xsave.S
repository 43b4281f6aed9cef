# Extended state at CPL 0 and 3: XSAVES and XRSTORS beside XSAVEC and XRSTOR, IA32_XSS, and what CPUID says of them all
# (SDM vol. 1, 13.2, 13.3, 13.8 to 13.12). EDX:EAX = 3: x87 and SSE.
        .include "long.inc"

        .set    XSTATE_BV, 512
        .set    XCOMP_BV, 520
        .set    COMPACT, 1 << 63
        .set    FIRST_XMM, 160

.macro want components                  # EDX:EAX
        mov     eax, \components
        xor     edx, edx
.endm

.macro good_header                      # of `area`: compacted, both components
        mov     qword ptr [area + XSTATE_BV], 3
        mov     rax, COMPACT + 3
        mov     qword ptr [area + XCOMP_BV], rax
        want    3
.endm

.macro bad name, at, value              # XRSTORS and XRSTOR refuse a header
        mov     r8, qword ptr [area + \at]
        mov     r9, \value
        mov     qword ptr [area + \at], r9
        faults  "XRSTORS: \name", 13, 0, xrstors64 [area]
        faults  "XRSTOR: \name", 13, 0, xrstor64 [area]
        mov     qword ptr [area + \at], r8
.endm

.macro fill at                          # 640 bytes of EEh
        mov     edi, offset \at
        mov     ecx, 640
        mov     al, 0xEE
        rep stosb
.endm

.macro state                            # nothing is as it was initially
        fninit
        fldpi
        mov     word ptr [scratch], 0x27F
        fldcw   [scratch]
        mov     dword ptr [scratch], 0x9F80
        ldmxcsr [scratch]
        mov     rax, 0x1122334455667788
        movq    xmm0, rax
        movq    xmm15, rax
.endm

main:
        # What there is
        mov     eax, 0xD
        mov     ecx, 1
        cpuid
        check   "CPUID: XSAVEOPT, XSAVEC, XGETBV of 1, XSAVES", rax, 0xF
        check   "CPUID: bytes of the compacted area", rbx, 576
        check   "CPUID: IA32_XSS, low", rcx, 0
        check   "CPUID: IA32_XSS, high", rdx, 0
        want    3
        faults  "XSAVES without OSXSAVE", 6, 0, xsaves [area]
        faults  "XRSTORS without OSXSAVE", 6, 0, xrstors [area]
        mov     rax, cr4
        or      eax, 1 << 18
        mov     cr4, rax
        xor     ecx, ecx
        want    3
        xsetbv
        mov     ecx, 1
        xgetbv
        and     eax, ~3                 # of x87 and SSE the CPU tells what is not as initially
        check   "XGETBV of 1", rax, 0
        mov     ecx, 0xDA0
        rdmsr
        check   "IA32_XSS at reset", rax, 0
        want    0
        runs    "WRMSR IA32_XSS: 0", wrmsr
        want    3
        faults  "WRMSR IA32_XSS: what XCR0 has", 13, 0, wrmsr
        want    0x100
        faults  "WRMSR IA32_XSS: PT", 13, 0, wrmsr
        want    0x1800
        faults  "WRMSR IA32_XSS: CET", 13, 0, wrmsr
        xor     eax, eax
        mov     edx, 0x80000000
        faults  "WRMSR IA32_XSS: bit 63", 13, 0, wrmsr

        # XSAVES
        fill    area
        fill    other
        state
        want    -1
        mov     edx, eax
        xsaves64 [area]
        xsavec64 [other]
        check   "XSAVES: XSTATE_BV", [area + XSTATE_BV], 3
        mov     r8, [area + XCOMP_BV]
        check   "XSAVES: XCOMP_BV", r8, COMPACT + 3
        movzx   eax, word ptr [area]
        check   "XSAVES: FCW", rax, 0x27F
        mov     eax, [area + 24]
        check   "XSAVES: MXCSR", rax, 0x9F80
        check   "XSAVES: XMM0", [area + FIRST_XMM], 0x1122334455667788
        check   "XSAVES: the rest of the header stays", [area + 528], 0xEEEEEEEEEEEEEEEE
        check   "XSAVES: behind the area", [area + 576], 0xEEEEEEEEEEEEEEEE
        mov     esi, offset area
        mov     edi, offset other
        mov     ecx, 640
        repe cmpsb
        check   "XSAVES writes what XSAVEC writes", rcx, 0
        fill    area
        want    1
        xsaves  [area]
        check   "XSAVES of x87: XSTATE_BV", [area + XSTATE_BV], 1
        mov     r8, [area + XCOMP_BV]
        check   "XSAVES of x87: XCOMP_BV", r8, COMPACT + 1
        check   "XSAVES of x87: XMM0 stays", [area + FIRST_XMM], 0xEEEEEEEEEEEEEEEE
        fill    area
        want    4
        xsaves  [area]
        check   "XSAVES of nothing: XSTATE_BV", [area + XSTATE_BV], 0
        mov     r8, [area + XCOMP_BV]
        check   "XSAVES of nothing: XCOMP_BV", r8, COMPACT
        check   "XSAVES of nothing: x87 stays", [area], 0xEEEEEEEEEEEEEEEE
        faults  "XSAVES: alignment", 13, 0, xsaves [area + 32]
        faults  "LOCK XSAVES", 6, 0, .byte 0xF0; xsaves [area]

        # XRSTORS
        fill    area
        mov     edi, offset area + 512
        mov     ecx, 64
        mov     al, 0
        rep stosb
        state
        want    3
        xsaves64 [area]
        fninit
        fldz
        mov     dword ptr [scratch], 0x1F80
        ldmxcsr [scratch]
        pxor    xmm0, xmm0
        pxor    xmm15, xmm15
        xrstors64 [area]
        movq    r8, xmm0
        check   "XRSTORS: XMM0", r8, 0x1122334455667788
        movq    r8, xmm15
        check   "XRSTORS: XMM15", r8, 0x1122334455667788
        stmxcsr [scratch]
        mov     r8d, [scratch]
        check   "XRSTORS: MXCSR", r8, 0x9F80
        fnstcw  [scratch]
        movzx   r8d, word ptr [scratch]
        check   "XRSTORS: FCW", r8, 0x27F
        fstp    qword ptr [scratch]
        check   "XRSTORS: ST0", [scratch], 0x400921FB54442D18
        pxor    xmm0, xmm0
        want    1
        xrstors [area]
        movq    r8, xmm0
        check   "XRSTORS of x87: XMM0 stays", r8, 0
        fstp    st(0)
        want    3
        mov     qword ptr [area + XSTATE_BV], 1
        movq    xmm0, rsp
        xrstors [area]
        movq    r8, xmm0
        check   "XRSTORS without SSE in the area: XMM0", r8, 0
        stmxcsr [scratch]
        mov     r8d, [scratch]
        check   "XRSTORS without SSE in the area: MXCSR", r8, 0x1F80
        fstp    st(0)
        mov     qword ptr [area + XSTATE_BV], 2
        xrstors [area]
        fnstcw  [scratch]
        movzx   r8d, word ptr [scratch]
        check   "XRSTORS without x87 in the area: FCW", r8, 0x37F
        good_header
        mov     dword ptr [area + 24], 0x1D80
        xrstors [area]
        stmxcsr [scratch]
        mov     r8d, [scratch]
        check   "XRSTORS that unmasks: MXCSR", r8, 0x1D80
        mov     qword ptr [area + XCOMP_BV], 0
        faults  "XRSTORS of the standard format while unmasked", 13, 0, xrstors64 [area]
        stmxcsr [scratch]
        mov     r8d, [scratch]
        check   "a fault changes nothing", r8, 0x1D80
        good_header
        mov     dword ptr [area + 24], 0x1F80
        runs    "XRSTORS that masks", xrstors [area]
        mov     qword ptr [area + XCOMP_BV], 0
        faults  "XRSTORS of the standard format", 13, 0, xrstors [area]
        runs    "XRSTOR of the standard format", xrstor [area]
        good_header
        bad     "a component that XCR0 has not", XCOMP_BV, COMPACT + 7
        bad     "bit 62", XCOMP_BV, COMPACT + (1 << 62) + 3
        bad     "a component that XCOMP_BV has not", XSTATE_BV, 7
        bad     "XCOMP_BV without x87", XCOMP_BV, COMPACT + 2
        bad     "header byte 16", 528, 1
        bad     "header byte 24", 536, 1
        bad     "header byte 63", 568, 1 << 63
        mov     dword ptr [area + 24], 0x11F80
        faults  "XRSTORS: reserved bits of MXCSR", 13, 0, xrstors [area]
        want    1
        runs    "XRSTORS: reserved bits of an MXCSR that is not asked for", xrstors [area]
        want    3
        mov     dword ptr [area + 24], 0x1F80
        faults  "XRSTORS: alignment", 13, 0, xrstors [area + 16]
        mov     rax, cr0
        or      eax, 8
        mov     cr0, rax
        want    3
        faults  "XSAVES while CR0.TS", 7, 0, xsaves [area]
        faults  "XRSTORS while CR0.TS", 7, 0, xrstors [area]
        clts
        mov     edi, 0x40000000         # the second GiB: nothing there
        faults  "XSAVES, a page that is absent", 14, 2, xsaves [rdi]
        faults  "XRSTORS, a page that is absent", 14, 0, xrstors [rdi]

        # CPL 3
        ring3
        good_header
        faults  "XSAVES at CPL 3", 13, 0, xsaves [area]
        faults  "XSAVES64 at CPL 3", 13, 0, xsaves64 [area]
        faults  "XRSTORS at CPL 3", 13, 0, xrstors [area]
        faults  "XRSTORS64 at CPL 3", 13, 0, xrstors64 [area]
        runs    "XSAVEC at CPL 3", xsavec [area]
        runs    "XRSTOR at CPL 3", xrstor [area]
        ring0
        ret

        .bss
        .balign 64
area:   .skip   704
other:  .skip   704
scratch: .skip  16
