# cpu: SapphireRapids
# kvm: no (its timers run against counted instructions)
# Interrupts in 64-bit mode: shadows of STI and MOV SS, HLT, REP, PIC and PIT, local APIC and x2APIC, timers, IPIs, TPR, NMI blocking.
        .include "long.inc"

        .set    APIC, 0xFEE00000
        .set    SPURIOUS, 0xF0
        .set    LVT_TIMER, 0x320
        .set    INITIAL, 0x380
        .set    CURRENT, 0x390
        .set    DIVIDE, 0x3E0
        .set    ICR, 0x300
        .set    EOI, 0xB0

main:
        mov     r15d, APIC
        mov     rax, 0xC0000000 + 0x9B                # the fourth GiB, uncached
        mov     [pdpt + 24], rax
        mov     rax, cr3
        mov     cr3, rax
        hook    0x40, count
        hook    0x41, count
        hook    0x50, high
        hook    2, non_maskable
        hook    0x20, pic0
        # PIC: remap to 20h and 28h, mask all but IRQ 0
        mov     al, 0x11
        out     0x20, al
        out     0xA0, al
        mov     al, 0x20
        out     0x21, al
        mov     al, 0x28
        out     0xA1, al
        mov     al, 4
        out     0x21, al
        mov     al, 2
        out     0xA1, al
        mov     al, 1
        out     0x21, al
        out     0xA1, al
        mov     al, 0xFE
        out     0x21, al
        mov     al, 0xFF
        out     0xA1, al
        # PIT channel 0, mode 0 (one shot), 1 ms
        mov     al, 0x30
        out     0x43, al
        mov     al, 0xA9
        out     0x40, al
        mov     al, 4
        out     0x40, al
        sti
        hlt
        cli
        check   "PIT through the PIC wakes HLT", [pic_count], 1
        mov     rax, [seen_rip]
        mov     al, 0xFF
        out     0x21, al
        # local APIC on
        mov     dword ptr [r15 + SPURIOUS], 0x1FF
        # an IPI to itself waits for IF; STI's shadow (SDM vol. 2, STI)
        mov     dword ptr [r15 + ICR], 0x44040
        check   "IF = 0: nothing came", [counted], 0
        sti
        nop
0:      cli
        check   "STI: one instruction, then the interrupt", [counted], 1
        check   "STI: RIP behind NOP", [seen_rip], offset 0b
        mov     dword ptr [r15 + ICR], 0x44040
        sti
        cli
        nop
        check   "STI; CLI lets nothing in", [counted], 1
        # MOV SS shadow: nothing between it and the next instruction
        mov     eax, KDATA
        sti
        mov     ss, eax                                 # in STI's shadow itself
        mov     rbx, rsp
1:      cli
        check   "MOV SS behind STI", [counted], 2
        check   "MOV SS: RIP behind the next instruction", [seen_rip], offset 1b
        # POPF and IRET have no shadow
        mov     dword ptr [r15 + ICR], 0x44040
        push    0x202
        popfq
2:      cli
        check   "POPF: at once", [seen_rip], offset 2b
        # TPR and CR8
        mov     eax, 5
        mov     cr8, rax
        mov     eax, [r15 + 0x80]
        check   "CR8 is TPR[7:4]", rax, 0x50
        mov     dword ptr [r15 + ICR], 0x44041
        sti
        nop
        nop
        cli
        check   "class 4 waits below priority 5", [counted], 3
        mov     dword ptr [r15 + ICR], 0x44060 - 0x10
        sti
        nop
        nop
        cli
        check   "class 5 waits, too", [counted], 3
        sti
        xor     eax, eax
        mov     cr8, rax
        nop
        nop
        cli
        check   "both come when the priority falls", [counted], 5
        movzx   eax, word ptr [order]
        check   "the higher one first", rax, 0x5041
        # HLT with the APIC timer, one shot
        mov     dword ptr [r15 + DIVIDE], 0xB
        mov     dword ptr [r15 + LVT_TIMER], 0x40
        mov     dword ptr [r15 + INITIAL], 20000
        mov     qword ptr [counted], 0
        sti
        hlt
3:      cli
        check   "APIC timer", [counted], 1
        check   "HLT: RIP behind it", [seen_rip], offset 3b
        mov     eax, [r15 + CURRENT]
        check   "one shot: the count is 0", rax, 0
        # periodic
        mov     dword ptr [r15 + LVT_TIMER], 0x20040
        mov     dword ptr [r15 + INITIAL], 20000
        sti
        hlt
        hlt
        hlt
        cli
        mov     dword ptr [r15 + INITIAL], 0
        check   "periodic", [counted], 4
        # TSC deadline
        mov     dword ptr [r15 + LVT_TIMER], 0x40040
        rdtsc
        shl     rdx, 32
        or      rax, rdx
        add     rax, 100000
        mov     rdx, rax
        shr     rdx, 32
        mov     ecx, 0x6E0
        wrmsr
        sti
        hlt
        cli
        check   "TSC deadline", [counted], 5
        mov     ecx, 0x6E0
        rdmsr
        check   "the deadline is 0 behind it", rax, 0
        mov     dword ptr [r15 + LVT_TIMER], 0x10000
        # NMI: blocked until IRET, one is kept (SDM vol. 3, 7.7.1)
        mov     dword ptr [r15 + ICR], 0x44400
        jmp     4f                      # an IPI takes a moment
4:      jmp     5f
5:      check   "NMIs: the second waited for the IRET of the first", [nmis], 2
        check   "NMIs: never nested", [nested], 0
        # x2APIC (SDM vol. 3, 11.12)
        mov     ecx, 0x803
        faults  "x2APIC MSRs outside of x2APIC mode", 13, 0, rdmsr
        mov     ecx, 0x1B
        rdmsr
        mov     ebx, eax
        or      eax, 0x400
        wrmsr
        mov     ecx, 0x802
        rdmsr
        check   "x2APIC: ID", rax, 0
        mov     qword ptr [counted], 0
        mov     ecx, 0x83F                              # self IPI
        mov     eax, 0x40
        xor     edx, edx
        mov     dword ptr [x2], 1
        wrmsr
        sti
        nop
        cli
        check   "x2APIC: self IPI", [counted], 1
        mov     ecx, 0x830
        mov     eax, 0x44040
        wrmsr
        sti
        nop
        cli
        check   "x2APIC: ICR is one MSR", [counted], 2
        mov     ecx, 0x80E
        faults  "x2APIC: no DFR", 13, 0, rdmsr
        mov     ecx, 0x80B
        mov     eax, 1
        faults  "x2APIC: EOI of not 0", 13, 0, wrmsr
        mov     ecx, 0x1B
        mov     eax, ebx
        faults  "x2APIC straight to xAPIC", 13, 0, wrmsr
        and     eax, ~0xC00
        wrmsr
        rdmsr
        and     eax, 0xC00
        check   "APIC off", rax, 0
        mov     ecx, 0x1B
        mov     eax, ebx
        wrmsr
        mov     dword ptr [x2], 0
        mov     eax, [r15 + SPURIOUS]
        and     eax, 0x1FF
        check   "and on: as after reset", rax, 0xFF
        ret

count:                                  # the frame of the CPU, error code of 0 and vector below it
        push    rax
        mov     rax, [rsp + 24]
        mov     [seen_rip], rax
        inc     qword ptr [counted]
        shl     qword ptr [order], 8
        mov     al, [rsp + 8]
        or      byte ptr [order], al
end_of_interrupt:
        cmp     dword ptr [x2], 0
        je      1f
        push    rcx
        push    rdx
        mov     ecx, 0x80B
        xor     eax, eax
        xor     edx, edx
        wrmsr
        pop     rdx
        pop     rcx
        jmp     2f
1:      mov     dword ptr [r15 + EOI], 0
2:      pop     rax
        add     rsp, 16
        iretq

high:   push    rax
        inc     qword ptr [counted]
        shl     qword ptr [order], 8
        or      qword ptr [order], 0x50
        jmp     end_of_interrupt

pic0:   push    rax
        mov     rax, [rsp + 24]
        mov     [seen_rip], rax
        inc     qword ptr [pic_count]
        mov     al, 0x20
        out     0x20, al
        pop     rax
        add     rsp, 16
        iretq

non_maskable:
        push    rax
        inc     qword ptr [nmis]
        cmp     qword ptr [inside], 0
        je      1f
        inc     qword ptr [nested]
1:      inc     qword ptr [inside]
        cmp     qword ptr [nmis], 1
        jne     2f
        mov     dword ptr [r15 + ICR], 0x44400         # two more while blocked: one is kept
        mov     dword ptr [r15 + ICR], 0x44400
        nop
        nop
2:      dec     qword ptr [inside]
        pop     rax
        add     rsp, 16
        iretq

        .data
        .balign 8
counted:        .quad   0
order:          .quad   0
pic_count:      .quad   0
seen_rip:       .quad   0
nmis:           .quad   0
nested:         .quad   0
inside:         .quad   0
x2:             .quad   0
