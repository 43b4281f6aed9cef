# Protected mode, 32 bits: call gates, conforming code, far transfers, interrupt and trap gates, 16-bit code, task gates, SYSENTER,
# BOUND, INTO, BCD, PUSHA, ENTER with levels; addresses that wrap in flat segments.
        .include "prot.inc"

        .set    GATE0, FREE + 3         # call gate to ring 0, DPL 3, two parameters
        .set    GATE3, FREE + 8 + 3     # call gate to ring 3 code (from ring 3)
        .set    CONFORMING, FREE + 16
        .set    GATE16, FREE + 24 + 3   # 16-bit call gate
        .set    TASKGATE, FREE + 32 + 3
        .set    TSS2, FREE + 40
        .set    ABSENT_GATE, FREE + 48 + 3
        .set    GATE_NULL, FREE + 56 + 3
        .set    C32, FREE + 64          # K32 SS CS.. for SYSENTER: code, data, user code, user data
        .set    U16, FREE + 96 + 3      # 16-bit code, DPL 3
        .set    LITTLE, FREE + 104       # code with limit FFFh
        .set    GATE_C, FREE + 112 + 3  # call gate to conforming code

.macro gate selector, target, offset, attributes
        mov     eax, offset \offset
        mov     word ptr [gdt + (\selector & ~7)], ax
        mov     word ptr [gdt + (\selector & ~7) + 2], \target
        mov     word ptr [gdt + (\selector & ~7) + 4], \attributes
        shr     eax, 16
        mov     word ptr [gdt + (\selector & ~7) + 6], ax
.endm

main:
        gate    GATE0, K32, through_gate, 0xEC02
        gate    GATE3, U32, through_gate3, 0xEC00
        gate    GATE16, K32, 0, 0xE401
        gate    TASKGATE, TSS2, 0, 0xE500
        gate    ABSENT_GATE, K32, 0, 0x6C00
        gate    GATE_NULL, 0, 0, 0xEC00
        gate    GATE_C, CONFORMING, conforming, 0xEC00
        descriptor CONFORMING, 0x0000FFFF, 0x00CF9F00
        descriptor TSS2, 0x00000067, 0x00008933
        descriptor C32, 0x0000FFFF, 0x00CF9B00
        descriptor C32 + 8, 0x0000FFFF, 0x00CF9300
        descriptor C32 + 16, 0x0000FFFF, 0x00CFFB00
        descriptor C32 + 24, 0x0000FFFF, 0x00CFF300
        descriptor U16, 0x0000FFFF, 0x0000FB00
        descriptor LITTLE, 0x00000FFF, 0x00409B33
        # far transfers at one level
        mov     edx, esp
        call    K32, offset 1f
0:      mov     ebx, esp
        jmp     2f
1:      mov     eax, [esp]
        mov     ecx, [esp + 4]
        retf
2:      check   "far CALL pushed the offset", eax, offset 0b
        movzx   ecx, cx
        check   "far CALL pushed CS", ecx, K32
        check   "RETF took both", ebx, edx
        faults  "far JMP to data", 13, KDATA, ljmp KDATA, 0
        faults  "far JMP to null", 13, 0, ljmp 0, 0
        faults  "far JMP to ring 3 code", 13, U32-3, ljmp U32, 0
        faults  "far JMP with RPL above DPL", 13, K32, ljmp K32 + 3, 0
        faults  "far JMP beyond the limit of the code", 13, 0, ljmp LITTLE, 0x1000
        faults  "far CALL beyond the limit of the code", 13, 0, lcall LITTLE, 0x1000
        faults  "far JMP to a TSS: no task switch", 13, TSS2, ljmp TSS2, 0
        faults  "far JMP to a task gate: no task switch", 13, TASKGATE-3, ljmp TASKGATE, 0
        faults  "far CALL through an absent gate", 11, ABSENT_GATE-3, lcall ABSENT_GATE, 0
        faults  "far CALL through a gate to null", 13, 0, lcall GATE_NULL, 0
        faults  "far CALL from ring 0 through a gate to ring 3", 13, U32-3, lcall GATE3, 0
        push    0x44
        push    0x33
        mov     edx, esp
        call    GATE0, 0                # the same level: no parameters are copied, no stack switch
        check   "a call gate at one level", eax, 0x44332211
        check   "RETF 8 released the parameters", ebx, 8
        # ring 3
        ring3
        mov     edx, esp
        push    0x44
        push    0x33
        call    GATE0, 0
        mov     ecx, esp
        check   "CPL 0 behind the gate", esi, K32
        check   "the stack came from the TSS", edi, offset ring0_top - 24
        check   "parameters were copied", eax, 0x44332211
        check   "RETF 8 released them on both stacks", ecx, edx
        mov     eax, cs
        check   "ring 3 again", eax, U32
        mov     eax, ss
        check   "with its stack segment", eax, UDATA
        faults  "far JMP through a gate to more privilege", 13, K32, ljmp GATE0, 0
        faults  "far CALL to ring 0 code without a gate", 13, K32, lcall K32, 0
        call    GATE3, 0
        check   "a gate to the same level", eax, U32
        call    CONFORMING, offset conforming
        check   "conforming code keeps CPL", eax, CONFORMING + 3
        call    GATE_C, 0
        check   "and through a gate", eax, CONFORMING + 3
        mov     eax, cs
        check   "back from it", eax, U32
        # 16-bit code
        push    offset 3f
        ljmp    U16, offset low_code
3:      check   "16-bit code ran: 16-bit operand", eax, 0x12345679
        check   "CALL pushes 16 bits", ebx, 2
        mov     ebx, esp
        push    K32
        push    0
        faults  "RETF to more privilege", 13, K32, retf
        mov     esp, ebx
        ring0
        # interrupt and trap gates
        mov     byte ptr [idt + 0x90*8 + 5], 0x8F
        hook    0x90, take_flags
        hook    0x91, take_flags
        sti
        int     0x90
        check   "a trap gate keeps IF", eax, 0x200
        int     0x91
        check   "an interrupt gate clears IF", eax, 0
        cli
        mov     byte ptr [idt + 0x92*8 + 5], 0x85
        faults  "INT through a task gate: no task switch", 13, 0x92*8+2, int 0x92
        mov     byte ptr [idt + 0x92*8 + 5], 0x0E
        faults  "INT through an absent gate", 11, 0x92*8+2, int 0x92
        mov     byte ptr [idt + 0x92*8 + 5], 0x8C
        faults  "INT through a call gate", 13, 0x92*8+2, int 0x92
        mov     word ptr [idt + 0x93*8 + 2], KDATA
        faults  "INT to data", 13, KDATA, int 0x93
        mov     word ptr [idt + 0x93*8 + 2], U32
        faults  "INT to an outer level", 13, U32-3, int 0x93
        mov     word ptr [idt + 0x93*8 + 2], 0
        faults  "INT to null", 13, 0, int 0x93
        mov     word ptr [idt + 0x93*8 + 2], LITTLE
        faults  "INT beyond the limit of the code", 13, 0, int 0x93
        lidt    [short_idt]
        faults  "INT beyond the IDT", 13, 0x40*8+2, int 0x40
        lidt    [idt_pointer]
        # 16-bit interrupt gate: 16-bit frame
        mov     byte ptr [idt + 0x94*8 + 5], 0x86
        mov     word ptr [idt + 0x94*8], offset low_gate
        mov     word ptr [idt + 0x94*8 + 2], K16
        mov     edx, esp
        call    low_caller
        check   "a 16-bit gate pushes 6 bytes", ebx, 6
        sub     edx, esp
        check   "and IRET takes them", edx, 0
        # double fault, NT
        mov     byte ptr [idt + 13*8 + 5], 0x0E
        faults  "#GP whose delivery raises #NP: double fault", 8, 0, ljmp 0, 0
        mov     byte ptr [idt + 13*8 + 5], 0x8E
        push    0x4002
        popfd
        faults  "IRET with NT: no task switch, #GP", 13, 0, iretd
        pushfd
        pop     eax
        and     eax, 0x4000
        check   "NT stands", eax, 0x4000
        push    2
        popfd
        # BOUND, INTO, BCD
        mov     eax, 5
        runs    "BOUND inside", bound eax, [bounds]
        mov     eax, -2
        faults  "BOUND below", 5, 0, bound eax, [bounds]
        mov     eax, 11
        faults  "BOUND above", 5, 0, bound eax, [bounds]
        mov     al, 0x7F
        add     al, 1
        mov     dword ptr [resume], offset 1f
        mov     dword ptr [last_vector], -1
        into
0:      nop
1:      verdict 930, "INTO is a trap", 4, 0, 0b
        xor     eax, eax
        runs    "INTO without OF", into
        faults  "AAM 0", 0, 0, aam 0
        mov     eax, 0x79
        add     al, 0x35
        daa
        movzx   eax, al
        check   "DAA", eax, 0x14
        mov     eax, 0x25
        sub     al, 0x36
        das
        movzx   eax, al
        check   "DAS", eax, 0x89
        mov     eax, 0x0A
        aaa
        check   "AAA", eax, 0x100
        mov     eax, 0x205
        sub     al, 6
        aas
        check   "AAS", eax, 0x109
        mov     eax, 63
        aam
        check   "AAM", eax, 0x603
        aad
        check   "AAD", eax, 63
        .byte   0xD6
        movzx   eax, al
        check   "SALC without carry", eax, 0
        # PUSHAD order, ENTER with levels
        mov     eax, 0x11
        mov     ecx, 0x22
        mov     edx, esp
        mov     ebx, 0x44
        mov     ebp, 0x66
        mov     esi, 0x77
        mov     edi, 0x88
        pushad
        mov     eax, [esp + 12]
        sub     eax, edx
        check   "PUSHAD pushes ESP as it was", eax, 0
        mov     eax, [esp]
        check   "PUSHAD ends with EDI", eax, 0x88
        mov     dword ptr [esp + 12], 0
        popad
        mov     ebx, esp
        check   "POPAD skips ESP", ebx, edx
        check   "POPAD takes EAX", eax, 0x11
        mov     ebp, offset frame_top
        mov     dword ptr [ebp - 4], 0xAAAA
        enter   4, 2
        mov     eax, [ebp - 4]
        check   "ENTER copies the frame pointer of level 1", eax, 0xAAAA
        mov     eax, [ebp - 8]
        check   "ENTER pushes its own", eax, ebp
        mov     eax, ebp
        sub     eax, esp
        check   "ENTER reserves", eax, 12
        leave
        mov     ebx, 0xFFFFFFFF
        mov     eax, [ebx + gdt + 9]
        check   "addresses wrap", eax, 0x0000FFFF
        # SYSENTER, SYSEXIT (SDM vol. 2)
        mov     ecx, 0x174
        xor     eax, eax
        xor     edx, edx
        wrmsr
        faults  "SYSENTER with a null CS", 13, 0, sysenter
        faults  "SYSEXIT with a null CS", 13, 0, sysexit
        mov     eax, C32
        wrmsr
        mov     ecx, 0x175
        mov     eax, offset ring0_top
        wrmsr
        mov     ecx, 0x176
        mov     eax, offset entered
        wrmsr
        mov     dword ptr [kernel_sp], esp
        mov     edx, offset 1f
        mov     ecx, offset user_top
        sysexit
1:      mov     ebx, cs
        mov     edi, ss
        mov     ebp, esp
        push    UDATA
        pop     ds
        faults  "SYSEXIT at CPL 3", 13, 0, sysexit
        sysenter
entered:
        mov     esi, esp
        mov     eax, cs
        mov     edx, ss
        mov     esp, dword ptr ss:[kernel_sp]
        push    KDATA
        pop     ds
        check   "SYSEXIT: CS", ebx, C32 + 16 + 3
        check   "SYSEXIT: SS", edi, C32 + 24 + 3
        check   "SYSEXIT: ESP", ebp, offset user_top
        check   "SYSENTER: ESP", esi, offset ring0_top
        check   "SYSENTER: CS", eax, C32
        check   "SYSENTER: SS", edx, C32 + 8
        ljmp    K32, offset 1f
1:      mov     eax, KDATA
        mov     ss, eax
        ret

through_gate:                           # [esp]: EIP, CS, two parameters, (ESP, SS)
        mov     esi, cs
        mov     edi, esp
        mov     eax, [esp + 12]
        shl     eax, 8
        or      eax, [esp + 8]
        shl     eax, 16
        or      eax, 0x2211
        mov     ebx, 8
        retf    8

through_gate3:
        mov     eax, cs
        retf

conforming:
        mov     eax, cs
        retf

take_flags:                             # behind an error code of 0
        add     esp, 4
        pushfd
        pop     eax
        and     eax, 0x200
        iretd

        .data
bounds: .long   -1, 10
short_idt: .word 0x1FF
        .long   idt
        .bss
        .balign 16
        .skip   64
frame_top:
        .skip   16

        .section .low.text, "ax"
        bits    16
low_code:
        mov     eax, 0x12345678
        inc     ax
        mov     ebx, esp
        call    1f
1:      sub     ebx, esp
        pop     cx
        pop     ecx
        push    dword ptr U32
        push    ecx
        retfd
        bits    32
low_caller:                             # 32-bit code below 64 KiB, so that a 16-bit return address holds it
        mov     ecx, esp
        int     0x94
        ret
        bits    16
low_gate:
        mov     ebx, ecx
        sub     ebx, esp
        iretw
        bits    32
        .text
