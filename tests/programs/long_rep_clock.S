# kvm: no (it is about the instruction clock)
# Repeated string instructions on the instruction clock: each iteration is an instruction, so no timer is held off, and an
# interrupt between two iterations pushes RF = 1 (SDM vol. 3, 18.3.1.1).
        .include "long.inc"

        .set    APIC, 0xFEE00000
        .set    LENGTH, 0x100000
        .set    PERIOD, 20000           # instructions, one a nanosecond: no periodic timer is faster
        .set    COUNT, PERIOD / 40      # of the timer's 25 MHz

.macro repeated name, size, insn:vararg
        mov     rsi, 0x1000000
        mov     rdi, 0x2000000
        mov     ecx, LENGTH / \size
        mov     [last], rcx
        mov     qword ptr [times], 0
        mov     qword ptr [late], 0
        mov     qword ptr [resumable], 0
        mov     qword ptr [expected_rip], offset .Lrep\@
        xor     eax, eax
        mov     dword ptr [r15 + 0x380], COUNT
        sti
.Lrep\@:
        \insn
        cli
        mov     dword ptr [r15 + 0x380], 0
        check   "\name: to its end", rcx, 0
        check   "\name: no interrupt was late", [late], 0
        mov     rax, [times]
        sub     rax, [resumable]
        check   "\name: RF in every one of them", rax, 0
        mov     rax, [times]
        cmp     rax, LENGTH / \size / PERIOD            # the handler takes some of the time
        setb    al
        movzx   eax, al
        check   "\name: as many as there should be", rax, 0
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
        repeated "REP MOVSB", 1, rep movsb
        repeated "REP MOVSQ", 8, rep movsq
        repeated "REP STOSB", 1, rep stosb
        repeated "REP STOSD", 4, rep stosd
        repeated "REP LODSB", 1, rep lodsb
        repeated "REPE SCASB", 1, repe scasb
        repeated "REPE CMPSW", 2, repe cmpsw
        std
        mov     qword ptr [times], 0
        mov     qword ptr [resumable], 0
        mov     qword ptr [expected_rip], offset 3f
        mov     rdi, 0x2000000
        mov     ecx, 90000
        mov     [last], rcx
        mov     dword ptr [r15 + 0x380], COUNT
        sti
3:      rep stosb
        cli
        cld
        mov     dword ptr [r15 + 0x380], 0
        mov     rax, [times]
        check   "downwards: as many as there should be", rax, 4
        check   "downwards: RF in every one of them", [resumable], 4
        ret

tick:   push    rax
        mov     rax, [rsp + 24]
        cmp     rax, [expected_rip]
        jne     2f
        inc     qword ptr [times]
        mov     rax, [last]
        sub     rax, rcx
        mov     [last], rcx
        cmp     rax, PERIOD
        jbe     1f
        inc     qword ptr [late]
1:      mov     rax, [rsp + 40]
        shr     rax, 16
        and     eax, 1
        add     [resumable], rax
2:      mov     dword ptr [r15 + 0xB0], 0
        pop     rax
        add     rsp, 16
        iretq

        .data
        .balign 8
times:  .quad   0
late:   .quad   0
resumable: .quad 0
last:   .quad   0
expected_rip: .quad 0
