# A race between a user program and the handler of a timer: both count up `shared`, the program with a load, an addition and a
# store. Each byte at COM1 sets the timer going once, so when the handler runs depends on when bytes come: most runs lose no
# update, and end when `q` comes; one that does says so at once. What was lost, and to whom, says the history of `shared`.
        .include "long.inc"

        .set    APIC, 0xFEE00000
        .set    COM1, 0x3F8
        .set    TIMER, 0x40
        .set    LAG, 25                 # of 25 MHz, from the byte to the tick: 1000 instructions

        .globl  shared, user_store, tick_store, handled
main:
        mov     r15d, APIC
        mov     rax, 0xC000009B
        mov     [pdpt + 24], rax
        mov     rax, cr3
        mov     cr3, rax
        hook    TIMER, tick
        hook    0x24, byte_came
        mov     dword ptr [r15 + 0xF0], 0x1FF
        mov     dword ptr [r15 + 0x3E0], 0xB
        mov     dword ptr [r15 + 0x320], TIMER          # one shot
        mov     al, 0x11                                # PIC: vectors from 20h, COM1 alone
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
        mov     al, 0xEF
        out     0x21, al
        mov     al, 0xFF
        out     0xA1, al
        mov     edx, COM1 + 1
        mov     al, 1
        out     dx, al                                  # an interrupt for each byte
        mov     edx, COM1 + 4
        mov     al, 8
        out     dx, al
        mov     qword ptr [kernel_sp], rsp
        mov     qword ptr [kernel_resume], offset ended
        push    UDATA
        push    offset user_top
        push    0x202
        push    U64
        push    offset user
        iretq

user:   mov     ecx, 100
1:      dec     ecx
        jnz     1b
        mov     rax, [shared]
        lea     rax, [rax + 1]
user_store:
        mov     [shared], rax
        inc     qword ptr [done]
        mov     rbx, [done]
        add     rbx, [handled]
        cmp     [shared], rbx
        jb      2f
        cmp     byte ptr [quit], 0
        je      user
2:      int     0x80

ended:  mov     esi, offset lost_text
        mov     rbx, [done]
        add     rbx, [handled]
        cmp     [shared], rbx
        jb      3f
        mov     esi, offset whole_text
        call    print
        mov     al, 0
        out     0xF4, al
        hlt
3:      call    print
        mov     al, 1
        out     0xF4, al
        hlt

print:  mov     edx, COM1
4:      lodsb
        test    al, al
        jz      5f
        out     dx, al
        jmp     4b
5:      ret

byte_came:
        push    rax
        push    rdx
        mov     edx, COM1
        in      al, dx
        cmp     al, 'q'
        jne     6f
        mov     byte ptr [quit], 1
6:      out     dx, al                                  # an echo
        mov     dword ptr [r15 + 0x380], LAG
        mov     al, 0x20
        out     0x20, al
        pop     rdx
        pop     rax
        add     rsp, 16
        iretq

tick:
tick_store:
        inc     qword ptr [shared]
        inc     qword ptr [handled]
        mov     dword ptr [r15 + 0xB0], 0
        add     rsp, 16
        iretq

        .data
        .balign 8
shared: .quad   0
done:   .quad   0
handled: .quad  0
quit:   .quad   0
lost_text:
        .asciz  "\nlost update\n"
whole_text:
        .asciz  "\nno update was lost\n"
