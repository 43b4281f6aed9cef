# clock: host
# Interrupts inside repeated string instructions, whenever the host's clock brings them: RIP stays on them, RCX, RSI and RDI are
# exact (SDM vol. 2, REP). How many come depends on how busy the host is: long_rep_clock.S counts them, and looks at RF.
        .include "long.inc"

        .set    APIC, 0xFEE00000
        .set    LENGTH, 0x300000

.macro interrupted name, sum, insn:vararg       # SUM: RDI + RCX * size stays
        mov     qword ptr [wrong], 0
        mov     qword ptr [expected_rip], offset .Lrep\@
        mov     qword ptr [expected_sum], \sum
        mov     dword ptr [r15 + 0x380], 20000
        sti
.Lrep\@:
        \insn
        cli
        mov     dword ptr [r15 + 0x380], 0
        check   "\name: to its end", rcx, 0
        check   "\name: every interruption was exact", [wrong], 0
.endm

main:
        mov     r15d, APIC
        mov     rax, 0xC000009B
        mov     [pdpt + 24], rax
        mov     rax, cr3
        mov     cr3, rax
        hook    0x40, tick
        mov     dword ptr [r15 + 0xF0], 0x1FF
        mov     dword ptr [r15 + 0x3E0], 0xB
        mov     dword ptr [r15 + 0x320], 0x20040        # periodic
        xor     eax, eax
        mov     rdi, 0x1000000
        mov     ecx, LENGTH
        interrupted "REPE SCASB", 0x1000000 + LENGTH, repe scasb
        mov     rsi, 0x1000000
        mov     rdi, 0x2000000
        mov     ecx, LENGTH
        interrupted "REPE CMPSB", 0x2000000 + LENGTH, repe cmpsb
        check   "CMPSB moved RSI", rsi, 0x1000000 + LENGTH
        mov     al, 0x5A
        mov     rdi, 0x1000000
        mov     ecx, LENGTH
        rep stosb
        mov     rsi, 0x1000000
        mov     rdi, 0x1000001
        mov     ecx, LENGTH
        interrupted "REP MOVSB over itself", 0x1000001 + LENGTH, rep movsb
        check   "REP MOVSB: the last byte", [0x1000000 + LENGTH - 7], 0x5A5A5A5A5A5A5A5A
        ret

tick:   push    rax
        mov     rax, [rsp + 24]
        cmp     rax, [expected_rip]
        je      1f
        test    rcx, rcx                                # behind it is as good
        jz      2f
        inc     qword ptr [wrong]
1:      lea     rax, [rdi + rcx]
        cmp     rax, [expected_sum]
        je      2f
        inc     qword ptr [wrong]
2:      mov     dword ptr [r15 + 0xB0], 0
        pop     rax
        add     rsp, 16
        iretq

        .data
        .balign 8
wrong:  .quad   0
expected_rip: .quad 0
expected_sum: .quad 0
