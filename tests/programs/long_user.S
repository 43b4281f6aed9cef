# Ring 3 of 64-bit mode: SYSCALL and SYSRET, alignment checks, UMIP, FSGSBASE, SWAPGS, RDTSCP, IRET, TF and NT in frames, I/O rights.
        .include "long.inc"

main:
        # SYSCALL and SYSRET (SDM vol. 2)
        mov     ecx, 0xC0000081
        xor     eax, eax
        mov     edx, 0x00230008
        wrmsr
        mov     ecx, 0xC0000082
        mov     eax, offset entry64
        xor     edx, edx
        wrmsr
        mov     ecx, 0xC0000084
        mov     eax, 0x700              # TF, IF, DF
        wrmsr
        ring3
        std
        mov     r15, rsp
        syscall
0:      pushfq
        pop     rax
        cld
        check   "SYSCALL: RCX is the return address", r12, offset 0b
        check   "SYSRET went there", rcx, offset 0b
        and     eax, 0x400
        check   "SYSRET restored DF from R11", rax, 0x400
        check   "SYSCALL masked DF", r13, 0
        check   "SYSCALL: CS", r14, K64
        check   "SYSCALL: SS", rbx, KDATA
        mov     eax, cs
        check   "SYSRET: CS", rax, U64
        mov     eax, ss
        check   "SYSRET: SS", rax, UDATA
        # rights
        faults  "HLT", 13, 0, hlt
        faults  "CLI", 13, 0, cli
        faults  "STI", 13, 0, sti
        faults  "WRMSR", 13, 0, wrmsr
        faults  "MOV CR3", 13, 0, mov rax, cr3
        faults  "MOV DR7", 13, 0, mov rax, dr7
        faults  "CLTS", 13, 0, clts
        faults  "INVD", 13, 0, invd
        faults  "LGDT", 13, 0, lgdt [gdt_pointer]
        faults  "LLDT", 13, 0, lldt ax
        faults  "LTR", 13, 0, ltr ax
        faults  "SWAPGS", 13, 0, swapgs
        faults  "SYSRET", 13, 0, sysretq
        faults  "STAC outside of CPL 0: #UD", 6, 0, stac
        faults  "XSETBV without OSXSAVE", 6, 0, xsetbv
        faults  "IN", 13, 0, in al, 0x60
        runs    "OUT that the bitmap allows", nop
        faults  "INT of a gate of DPL 0", 13, 0x90*8+2, int 0x90
        faults  "RDFSBASE without CR4.FSGSBASE", 6, 0, rdfsbase rax
        runs    "SGDT without UMIP", sgdt [scratch]
        pushfq
        mov     rax, [rsp]
        or      qword ptr [rsp], 0x3200         # IF and IOPL
        popfq
        pushfq
        pop     rax
        and     eax, 0x3200
        check   "POPF at CPL 3 changes neither IF nor IOPL", rax, 0
        mov     rbx, rsp
        push    KDATA
        push    rbx
        push    2
        push    K64
        push    0
        faults  "IRETQ to ring 0", 13, K64, iretq
        mov     rsp, rbx
        ring0
        # UMIP (APM vol. 2, 3.1.3), FSGSBASE
        mov     rax, cr4
        or      eax, 0x10800
        mov     cr4, rax
        ring3
        faults  "UMIP: SGDT", 13, 0, sgdt [scratch]
        faults  "UMIP: SIDT", 13, 0, sidt [scratch]
        faults  "UMIP: SLDT", 13, 0, sldt ax
        faults  "UMIP: STR", 13, 0, str ax
        faults  "UMIP: SMSW", 13, 0, smsw ax
        mov     rax, 0x123456789A
        wrfsbase rax
        rdfsbase rbx
        check   "WRFSBASE, RDFSBASE", rbx, 0x123456789A
        wrgsbase eax
        rdgsbase rbx
        check   "WRGSBASE of 32 bits", rbx, 0x3456789A
        mov     rax, 0x800000000000
        faults  "WRFSBASE of what is not canonical", 13, 0, wrfsbase rax
        mov     eax, offset scratch
        wrgsbase rax
        mov     dword ptr [scratch + 4], 0x5AA5
        mov     eax, gs:[4]
        check   "an address by GS", rax, 0x5AA5
        mov     rax, 0x800000000000 - 0x1000
        wrgsbase rax
        mov     eax, 0x1000
        faults  "base and offset are not canonical together", 13, 0, mov al, gs:[rax]
        ring0
        runs    "UMIP lets CPL 0 through", sgdt [scratch]
        # SWAPGS, RDTSCP, RDPID
        mov     ecx, 0xC0000102
        mov     eax, 0x1111
        xor     edx, edx
        wrmsr
        rdgsbase rbx
        swapgs
        rdgsbase rax
        check   "SWAPGS", rax, 0x1111
        mov     ecx, 0xC0000102
        rdmsr
        shl     rdx, 32
        or      rax, rdx
        sub     rax, rbx
        check   "SWAPGS, the other half", rax, 0
        mov     ecx, 0xC0000103
        mov     eax, 0x77
        xor     edx, edx
        wrmsr
        rdtscp
        check   "RDTSCP: ECX is TSC_AUX", rcx, 0x77
        mov     rax, cr4
        or      eax, 4                  # TSD
        mov     cr4, rax
        ring3
        faults  "RDTSC under CR4.TSD", 13, 0, rdtsc
        faults  "RDTSCP under CR4.TSD", 13, 0, rdtscp
        faults  "RDPMC without CR4.PCE", 13, 0, rdpmc
        ring0
        # alignment checks: CR0.AM, EFLAGS.AC, CPL 3 (SDM vol. 3, 7.15, #AC)
        mov     rax, cr0
        or      eax, 1 << 18
        mov     cr0, rax
        ring3
        runs    "without AC", mov eax, [scratch + 1]
        call    set_ac
        mov     rbx, offset scratch
        faults  "#AC: dword", 17, 0, mov eax, [rbx + 1]
        call    set_ac
        faults  "#AC: word", 17, 0, mov ax, [rbx + 1]
        call    set_ac
        faults  "#AC: quadword at 4", 17, 0, mov rax, [rbx + 4]
        call    set_ac
        faults  "#AC: store", 17, 0, mov [rbx + 2], eax
        call    set_ac
        faults  "#AC: modify", 17, 0, add dword ptr [rbx + 2], 1
        call    set_ac
        faults  "#AC: locked", 17, 0, lock add dword ptr [rbx + 2], 1
        call    set_ac
        faults  "#AC: XCHG", 17, 0, xchg [rbx + 2], eax
        call    set_ac
        faults  "#AC: FLD of a double", 17, 0, fld qword ptr [rbx + 4]
        call    set_ac
        lea     rsi, [rbx + 4]
        lea     rdi, [rbx + 9]
        mov     ecx, 2
        faults  "#AC: REP MOVSD", 17, 0, rep movsd
        call    set_ac
        runs    "AC: aligned dword", mov eax, [rbx + 4]
        call    set_ac
        runs    "AC: a byte anywhere", mov al, [rbx + 3]
        call    set_ac
        faults  "#AC comes before a page fault", 17, 0, mov eax, [0x60000001]
        call    set_ac
        sub     rsp, 4
        mov     qword ptr [resume], offset 1f
0:      push    rax
1:      add     rsp, 4
        verdict 950, "#AC: the stack", 17, 0, 0b
        call    set_ac
        mov     qword ptr [resume], offset 1f
        syscall                         # in ring 0 AC counts for SMAP alone
1:      mov     eax, [rbx + 8]
        pushfq
        and     dword ptr [rsp], ~(1 << 18)
        popfq
        runs    "AC cleared", mov eax, [rbx + 1]
        ring0
        mov     rax, cr0
        and     eax, ~(1 << 18)
        mov     cr0, rax
        # IRET
        mov     rdx, rsp
        push    KDATA
        push    rdx
        push    2
        push    K64
        mov     rax, 0x800000000000
        push    rax
        faults  "IRETQ to what is not canonical", 13, 0, iretq
        mov     rsp, rdx
        push    KDATA
        push    rdx
        push    2
        push    0
        push    0
        faults  "IRETQ to a null CS", 13, 0, iretq
        mov     rsp, rdx
        push    0
        push    rdx
        push    2
        push    U64
        push    0
        faults  "IRETQ to ring 3 with a null SS", 13, 0, iretq
        mov     rsp, rdx
        push    KDATA
        push    rdx
        push    2
        push    U64
        push    0
        faults  "IRETQ to ring 3 with the SS of ring 0", 13, KDATA, iretq
        mov     rsp, rdx
        push    0
        push    rdx
        push    2
        push    K64
        push    offset 1f
        mov     qword ptr [last_vector], -1
        iretq
1:      verdict 960, "IRETQ with a null SS at CPL 0", -1, 0, 1b
        mov     eax, ss
        check   "SS is null", rax, 0
        mov     eax, KDATA
        mov     ss, eax
        mov     qword ptr [resume], 0
        push    0x4002
        popfq
        faults  "IRETQ with NT: #GP", 13, 0, iretq
        push    2
        popfq
        # EFER.SCE
        mov     ecx, 0xC0000080
        rdmsr
        xor     edx, edx
        and     eax, ~1
        wrmsr
        faults  "SYSCALL without SCE", 6, 0, syscall
        faults  "SYSRET without SCE", 6, 0, sysretq
        ret

entry64:
        mov     r12, rcx
        pushfq
        pop     r13
        and     r13d, 0x700
        mov     r14d, cs
        mov     ebx, ss
        test    r11d, 1 << 18
        jz      1f
        mov     ebx, offset scratch
        mov     eax, [rbx + 1]
1:      sysretq

set_ac: pushfq
        or      dword ptr [rsp], 1 << 18
        popfq
        ret

        .data
        .balign 16
scratch: .fill  64, 1, 0
        .text
