# Real mode: an interrupt of its own, which a debugger can go into, and one of the BIOS, which it can see the end of.
        .code16
        .globl  start, asked, answered, printed, handler
start:  xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %ss
        mov     $0x7C00, %sp
        movw    $handler, 4 * 0x60
        mov     %ax, 4 * 0x60 + 2
asked:  int     $0x60
answered:
        mov     $0x0E41, %ax            # teletype: "A"
        int     $0x10
printed:
        mov     $0x10, %al
        out     %al, $0xF4
        hlt
handler:
        mov     $0x1234, %bx
        iret
        .org    510
        .word   0xAA55
