# What firmware starts of a CD, without emulating a disk: reads block 16 by INT 13h (AH = 42h), 2,048 bytes, and says what it found.
        .code16
        .globl  start
start:  cli
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $0x7C00, %sp
        sti
        mov     $packet, %si
        mov     $0x42, %ah
        int     $0x13                   # DL as the BIOS gave it
        jc      failed
        mov     $0x8001, %si            # CD001, behind the type of the descriptor
        mov     $5, %cx
        mov     $0x3F8, %dx
        rep outsb
        mov     $0x10, %al
        jmp     leave
failed: mov     %ah, %al
leave:  mov     $0xF4, %dx
        out     %al, %dx
        hlt
packet: .byte   16, 0
        .word   1, 0x8000, 0            # blocks, offset, segment
        .quad   16
        .org    2048
