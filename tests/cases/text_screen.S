# Prints as most hobby kernels do, into the text screen at B800:0000, reads it back, and leaves with 33 where that was right.
# With AT_COM1 it writes there as well.
        .code16
        .globl  start
start:  xor     %ax, %ax
        mov     %ax, %ds
        mov     $0x0003, %ax            # a text mode, asked of a BIOS that has none
        int     $0x10
        mov     $0xB800, %ax
        mov     %ax, %es
        xor     %di, %di
        mov     $text, %si
        mov     $0x1F, %ah
        cld
next:   lodsb
        test    %al, %al
        jz      shown
        stosw
        jmp     next
shown:
#ifdef AT_COM1
        mov     $0x3F8, %dx
        mov     $'!', %al
        out     %al, %dx
#endif
        mov     %es:2, %ax
        cmp     $0x1F00 + 'e', %ax
        mov     $0x10, %al
        je      leave
        mov     $0x7, %al
leave:  out     %al, $0xF4
        hlt
text:   .asciz  "Hello from the text screen"
        .org    510
        .word   0xAA55
