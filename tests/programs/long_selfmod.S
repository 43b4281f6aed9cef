# Self-modifying code (SDM vol. 3, 9.1.3: on one CPU a store is seen by the next jump, on those of today by the next instruction).
# qemu: yes
        .include "long.inc"

        .set    WINDOW, 0x40000000      # pages of `table`
        .set    PAGE, 0x300000
        .set    PLAIN, PAGE              # RAM is mapped at its own address, too

main:
        mov     dword ptr [pdpt + 8], offset window + 7
        mov     dword ptr [window], offset table + 7
        mov     rax, cr3
        mov     cr3, rax
        # the immediate of the next instruction, in the same block
        mov     byte ptr [1f + 1], 7
1:      mov     eax, 1
        check   "the next instruction", rax, 7
        mov     byte ptr [2f + 1], 9
        nop
        nop
2:      mov     eax, 1
        check   "three instructions on", rax, 9
        # an instruction that changes itself is executed as it was
        mov     ecx, 3
        xor     eax, eax
3:      inc     eax
        add     byte ptr [4f + 1], 1
4:      mov     ebx, 0
        dec     ecx
        jnz     3b
        check   "a loop that changes its own immediate", rbx, 3
        # an opcode: INC becomes DEC
        mov     eax, 10
        mov     byte ptr [5f + 1], 0xC8
5:      .byte   0xFF, 0xC0
        check   "INC became DEC", rax, 9
        # a jump's target
        mov     eax, 9
        mov     byte ptr [6f + 1], 2
6:      jmp     7f
        inc     eax
        inc     eax
7:      check   "a jump retargeted", rax, 10
        # other code that was run already, then changed
        mov     rdi, PLAIN
        call    write_constant
        call    rdi
        check   "first version", rax, 1
        mov     dword ptr [PLAIN + 1], 2
        call    rdi
        check   "second version", rax, 2
        # through an alias: the page is executed at one address, written at another
        mov     qword ptr [table], PAGE + 7
        mov     qword ptr [table + 8], PAGE + 7
        mov     rdi, WINDOW
        call    rdi
        check   "at an alias", rax, 2
        mov     dword ptr [WINDOW + 0x1001], 3
        call    rdi
        check   "written through an alias", rax, 3
        mov     rdi, PLAIN
        call    rdi
        check   "and seen at the first address", rax, 3
        # executed at both, written at a third place of the page in between
        mov     ecx, 100
1:      mov     dword ptr [WINDOW + 0x1800], ecx
        mov     dword ptr [PLAIN + 1], ecx
        mov     rdi, WINDOW
        call    rdi
        cmp     eax, ecx
        jne     2f
        loop    1b
2:      check   "a storm of 100 changes", rcx, 0
        # an instruction in two pages that are not neighbours in RAM; each half changed
        mov     qword ptr [table], PAGE + 0x2007
        mov     qword ptr [table + 8], PAGE + 0x5007
        mov     rax, cr3
        mov     cr3, rax
        mov     byte ptr [PLAIN + 0x2FFE], 0xB8
        mov     byte ptr [PLAIN + 0x2FFF], 0x11
        mov     dword ptr [PLAIN + 0x5000], 0xC3000000
        mov     rdi, WINDOW + 0xFFE
        call    rdi
        check   "code in two pages", rax, 0x11
        mov     byte ptr [PLAIN + 0x5001], 0x22
        call    rdi
        check   "the second page changed", rax, 0x220011
        mov     byte ptr [PLAIN + 0x2FFF], 0x33
        call    rdi
        check   "the first page changed", rax, 0x220033
        mov     qword ptr [table + 8], PAGE + 0x6007
        invlpg  [WINDOW + 0x1000]
        mov     dword ptr [PLAIN + 0x6000], 0xC3000044
        call    rdi
        check   "the second page replaced", rax, 0x4433
        mov     qword ptr [table], PAGE + 0x7007
        invlpg  [WINDOW]
        mov     word ptr [PLAIN + 0x7FFE], 0x55B8
        call    rdi
        check   "the first page replaced", rax, 0x4455
        # a store over two pages into code at the end of one and the start of the other
        mov     byte ptr [PLAIN + 0x9000 - 1], 0xB8
        mov     dword ptr [PLAIN + 0x9000], 5
        mov     byte ptr [PLAIN + 0x9004], 0xC3
        mov     rdi, PLAIN + 0x8FFF
        call    rdi
        mov     rbx, 0x0D0C0B0AB8909090
        mov     qword ptr [PLAIN + 0x8FFC], rbx
        call    rdi
        check   "a store over the boundary", rax, 0x0D0C0B0A
        # the stack lies in the page of the code
        mov     rdi, PLAIN + 0xA000
        call    write_constant
        mov     r12, rsp
        mov     rsp, PLAIN + 0xA800
        mov     ecx, 50
1:      push    rcx
        call    rdi
        pop     rcx
        loop    1b
        mov     rsp, r12
        check   "stack in the page of the code", rax, 1
        mov     rsp, PLAIN + 0xA008
        mov     rbx, 0xC300000063B8 
        push    rbx
        mov     rsp, r12
        call    rdi
        check   "PUSH over code", rax, 0x63
        # a routine whose stack runs down into itself: CALL overwrites the bytes behind the target
        mov     rdi, PLAIN + 0xB000
        mov     word ptr [rdi], 0x9090
        mov     word ptr [rdi + 2], 0x9090
        mov     dword ptr [rdi + 4], 0xC3C3C3C3
        call    rdi
        mov     rsp, PLAIN + 0xB018
        call    rdi
        mov     rsp, r12
        # string instructions over code
        mov     rdi, PLAIN + 0xC000
        call    write_constant
        call    rdi
        mov     rdx, rdi
        mov     rsi, offset template
        mov     ecx, 6
        rep movsb
        call    rdx
        check   "REP MOVSB over code", rax, 0x77
        mov     rdi, rdx
        mov     rax, 0x90909090C3C0FF90         # NOP; INC EAX; RET
        mov     ecx, 512
        rep stosq
        mov     eax, 5
        call    rdx
        check   "REP STOSQ over a page of code", rax, 6
        # REP STOSB over its own following bytes
        mov     rdi, offset behind
        mov     ecx, behind_end - behind
        mov     al, 0x90
        xor     ebx, ebx
        rep stosb
behind: inc     ebx
        inc     ebx
        inc     ebx
behind_end:
        check   "REP STOSB over what follows it", rbx, 0
        mov     rdi, offset behind2
        mov     ax, 0x9090
        stosw
behind2: inc    ebx
        check   "STOSW over the next instruction", rbx, 0
        # REP STOSB over itself: it may go on or be fetched anew; nothing says which
        mov     rdi, offset itself
        mov     ecx, 2
        mov     al, 0x90
        mov     edx, 1
itself: rep stosb
        shr     ecx, 1
        check   "REP STOSB over itself", rcx, 0
        # locked, exchange, SSE, x87, CMPXCHG16B stores over code
        mov     rdi, PLAIN + 0xD000
        call    write_constant
        call    rdi
        lock add dword ptr [PLAIN + 0xD001], 4
        call    rdi
        check   "LOCK ADD over code", rax, 5
        mov     eax, 0x31
        xchg    dword ptr [PLAIN + 0xD001], eax
        call    rdi
        check   "XCHG over code", rax, 0x31
        movups  xmm0, [template]
        movups  [PLAIN + 0xD000], xmm0
        call    rdi
        check   "MOVUPS over code", rax, 0x77
        mov     rax, [PLAIN + 0xD000]
        mov     rdx, [PLAIN + 0xD008]
        mov     rbx, 0xC300000066B8
        xor     ecx, ecx
        cmpxchg16b [PLAIN + 0xD000]
        call    rdi
        check   "CMPXCHG16B over code", rax, 0x66
        fninit
        fild    dword ptr [number]
        fistp   dword ptr [PLAIN + 0xD001]
        call    rdi
        check   "FISTP over code", rax, 1234
        sidt    [PLAIN + 0xE001]
        mov     byte ptr [PLAIN + 0xE000], 0xB8
        mov     byte ptr [PLAIN + 0xE005], 0xC3
        mov     rdi, PLAIN + 0xE000
        call    rdi
        mov     r13d, eax
        lidt    [other_idt]
        sidt    [PLAIN + 0xE001]
        lidt    [idt_pointer]
        mov     byte ptr [PLAIN + 0xE005], 0xC3
        call    rdi
        xor     eax, r13d
        check   "SIDT over code", rax, (0xFFF ^ 0x7FF)
        # the page tables give the executed page to other RAM, without a store to code
        mov     rdi, PLAIN + 0xF000
        call    write_constant
        mov     rdi, PLAIN + 0x10000
        call    write_constant
        mov     dword ptr [PLAIN + 0x10001], 88
        mov     qword ptr [table + 16], PAGE + 0xF007
        mov     rdi, WINDOW + 0x2000
        invlpg  [rdi]
        call    rdi
        mov     qword ptr [table + 16], PAGE + 0x10007
        invlpg  [rdi]
        call    rdi
        check   "another page behind the same address", rax, 88
        # the block that runs is dropped by its own store, and the store faults afterwards
        mov     qword ptr [table + 24], 0
        mov     rdi, offset 1f
        faults  "a store over code and an absent page", 14, 2, mov qword ptr [WINDOW + 0x2FFC], rax
        check   "its CR2", [last_cr2], WINDOW + 0x3000
        # many blocks, each changed after each run
        mov     r8d, 40
1:      mov     rdi, PLAIN + 0x11000
        mov     ecx, 64
2:      mov     dword ptr [rdi], 0x0000C0FF     # INC EAX
        mov     byte ptr [rdi + 2], 0xEB        # JMP over the rest
        mov     byte ptr [rdi + 3], 28
        add     rdi, 32
        loop    2b
        mov     byte ptr [rdi], 0xC3
        mov     rdi, PLAIN + 0x11000
        xor     eax, eax
        call    rdi
        cmp     eax, 64
        jne     3f
        mov     word ptr [PLAIN + 0x11000 + 320], 0xC0FF
        mov     byte ptr [PLAIN + 0x11000 + 640 + 1], 0xC8      # one DEC
        xor     eax, eax
        call    rdi
        cmp     eax, 62
        jne     3f
        dec     r8d
        jnz     1b
3:      check   "a storm over 64 blocks", r8, 0
        ret

write_constant:                         # MOV EAX, 1; RET at RDI
        mov     rax, 0xC300000001B8
        mov     [rdi], rax
        ret

        .data
template: .byte 0xB8, 0x77, 0, 0, 0, 0xC3, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90
number: .long   1234
other_idt: .word 0x7FF
        .quad   idt
        .bss
        .balign 4096
window: .skip   4096
table:  .skip   4096
