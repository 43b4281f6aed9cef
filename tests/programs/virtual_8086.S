# Virtual-8086 mode (SDM vol. 3, 20.2, 20.3): entry by IRETD, the frame of nine doublewords, IOPL, VME, redirected interrupts, ports.
        .include "prot.inc"

        .set    STACK, 0x1F00

main:
        mov     dword ptr [tss + 4], offset ring0_top
        hook    13, monitor
        hook    6, monitor
        hook    0x61, monitor
        or      byte ptr [idt + 0x61*8 + 5], 0x60
        or      byte ptr [idt + 0x60*8 + 5], 0x60
        # 1: what it sees; HLT is #GP(0)
        mov     eax, 0x20002
        mov     edx, offset first
        call    virtual
        check   "1: vector", [last_vector], 13
        check   "1: error", [last_error], 0
        check   "1: IP is on HLT", [last_rip], offset first_end
        check   "1: CS", [frame_cs], 0
        mov     eax, [frame_flags]
        and     eax, 0x20000
        check   "1: VM in the frame", eax, 0x20000
        check   "1: SS", [frame_ss], 0x10
        check   "1: SP", [frame_sp], STACK - 0x100
        check   "1: ES", [frame_es], 0x40
        check   "1: DS", [frame_ds], 0x180
        check   "1: FS", [frame_fs], 0x60
        check   "1: GS", [frame_gs], 0x70
        check   "1: DS is null in the handler", [handler_ds], 0
        movzx   eax, word ptr [frame_eax]
        check   "1: base of DS = selector * 16", eax, 0x5A5A
        # 2: limits of 64 KiB
        mov     eax, 0x20002
        mov     edx, offset second
        call    virtual
        check   "2: word at FFFFh", [last_rip], offset second
        # 3: IOPL 0: CLI, INT n, PUSHF are the monitor's
.macro sensitive n, label
        mov     eax, 0x20002
        mov     edx, offset \label
        call    virtual
        check   "\n", [last_rip], offset \label
        check   "\n: vector", [last_vector], 13
.endm
        sensitive "CLI at IOPL 0", do_cli
        sensitive "STI at IOPL 0", do_sti
        sensitive "PUSHF at IOPL 0", do_pushf
        sensitive "POPF at IOPL 0", do_popf
        sensitive "INT n at IOPL 0", do_int
        sensitive "IRET at IOPL 0", do_iret
        sensitive "MOV CR0", do_cr0
        sensitive "IN of a port that the bitmap forbids", do_in
        # 4: IOPL 3: they run
        mov     eax, 0x23002
        mov     edx, offset do_all
        call    virtual
        check   "IOPL 3: CLI, PUSHF, POPF run up to HLT", [last_rip], offset do_all_end
        mov     eax, 0x23002
        mov     edx, offset do_in
        call    virtual
        check   "IOPL does not open ports: the bitmap decides", [last_rip], offset do_in
        mov     eax, 0x23002
        mov     edx, offset do_int
        call    virtual
        check   "IOPL 3: INT n through the IDT", [last_vector], 0x61
        check   "IOPL 3: IP behind it", [last_rip], offset do_int + 2
        # 5: #UD for what real mode does not have
        mov     eax, 0x20002
        mov     edx, offset do_lldt
        call    virtual
        check   "LLDT is #UD", [last_vector], 6
        # 6: VME: CLI and STI on VIF, INT n redirected to the IVT (SDM vol. 3, 20.3.3)
        mov     eax, cr4
        or      eax, 1
        mov     cr4, eax
        mov     word ptr [tss + 102], 136       # 32 bytes of redirection bits below the I/O bitmap
        mov     edi, offset tss + 104
        mov     ecx, 32
        xor     eax, eax
        rep stosb
        mov     dword ptr [0x61 * 4], offset redirected
        mov     eax, 0x20002
        mov     edx, offset do_vme
        call    virtual
        check   "VME: ended at HLT", [last_rip], offset do_vme_end
        mov     eax, [frame_flags]
        and     eax, 0x80200
        check   "VME: STI set VIF, not IF", eax, 0x80000
        mov     eax, [frame_eax]
        and     eax, 0xFFFF
        check   "VME: INT 61h went to the table at 0", eax, 0x1234
        mov     eax, [frame_ebx]
        and     eax, 0x3200
        check   "VME: it saw VIF as IF and IOPL 3", eax, 0x3200
        mov     eax, 0x120002                   # VIP is set
        mov     edx, offset do_sti
        call    virtual
        check   "VME: STI with VIP is #GP", [last_rip], offset do_sti
        mov     eax, cr4
        and     eax, ~1
        mov     cr4, eax
        ret

virtual:                                        # run at 0:EDX with EFLAGS = EAX until a hooked exception
        mov     dword ptr [kernel_sp], esp
        push    0x70                            # GS FS DS ES SS SP
        push    0x60
        push    0x180
        push    0x40
        push    0x10
        push    STACK - 0x100
        push    eax
        push    0
        push    edx
        mov     word ptr [0x1800], 0x5A5A
        iretd

monitor:                                        # [esp]: error code (or 0), EIP, CS, EFLAGS, ESP, SS, ES, DS, FS, GS
        push    eax
        mov     eax, ds
        push    KDATA
        pop     ds
        mov     [handler_ds], eax
        pop     eax
        mov     [frame_eax], eax
        mov     [frame_ebx], ebx
        push    KDATA
        pop     es
        pop     dword ptr [last_error]
        pop     dword ptr [last_rip]
        pop     dword ptr [frame_cs]
        pop     dword ptr [frame_flags]
        pop     dword ptr [frame_sp]
        pop     dword ptr [frame_ss]
        pop     dword ptr [frame_es]
        pop     dword ptr [frame_ds]
        pop     dword ptr [frame_fs]
        pop     dword ptr [frame_gs]
        mov     esp, [kernel_sp]
        ret

        .section .low.text, "ax"
        bits    16
first:  mov     ax, [0]
first_end:
        hlt
second: mov     ax, [0xFFFF]
do_cli: cli
        hlt
do_sti: sti
        hlt
do_pushf: pushf
        hlt
do_popf: popf
        hlt
do_int: int     0x61
        hlt
do_iret: iretw
do_cr0: mov     eax, cr0
do_in:  in      al, 0x60
do_lldt: .byte  0x0F, 0x00, 0xD0
do_all: cli
        sti
        pushf
        popf
do_all_end:
        hlt
do_vme: sti
        mov     ax, 0
        int     0x61
do_vme_end:
        hlt
redirected:
        mov     ax, 0x1234
        push    bp
        mov     bp, sp
        mov     bx, [bp + 6]
        pop     bp
        iretw
        bits    32

        .data
frame_cs:       .long   0
frame_flags:    .long   0
frame_sp:       .long   0
frame_ss:       .long   0
frame_es:       .long   0
frame_ds:       .long   0
frame_fs:       .long   0
frame_gs:       .long   0
frame_eax:      .long   0
frame_ebx:      .long   0
handler_ds:     .long   0
