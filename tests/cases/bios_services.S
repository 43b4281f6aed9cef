# Real mode: what boot loaders ask of a BIOS and of the A20 line. A letter on COM1 for each that is there, a dot for each that is not.
        .code16
        .globl  start

        .macro  ask letter, number, ax  # there: CF = 0
        mov     $\ax, %eax
        clc
        int     $\number
        mov     $\letter, %al
        call    tell
        .endm

start:  cli
        cld
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $0x7C00, %sp
        mov     $0x0E00 + 'o', %ax      # teletype: prints its letter itself
        int     $0x10
        mov     $0x0F00, %ax            # video mode: AH = columns
        int     $0x10
        cmp     $80, %ah
        mov     $'v', %al
        call    tell_if_zero
        int     $0x11                   # equipment: a serial port
        test    $0x200, %ax
        mov     $'q', %al
        call    tell_if_not_zero
        int     $0x12                   # memory below 640 KiB
        cmp     $1, %ax
        mov     $'m', %al
        call    tell
        mov     $0x55AA, %bx
        mov     $0x80, %dl
        ask     'd', 0x13, 0x4100       # disk extensions
        xor     %dx, %dx
        ask     'r', 0x13, 0x0000       # disk reset
        xor     %ebx, %ebx
        mov     $0x534D4150, %edx
        mov     $24, %ecx
        mov     $0x600, %di
        ask     'E', 0x15, 0xE820       # memory map
        ask     'e', 0x15, 0xE801
        ask     'x', 0x15, 0x8800
        ask     'a', 0x15, 0x2401       # A20 on
        ask     'k', 0x16, 0x0100       # key
        ask     't', 0x1A, 0x0000       # time of day
        in      $0x92, %al              # fast A20
        or      $2, %al
        and     $0xFE, %al
        out     %al, $0x92
        in      $0x92, %al
        test    $2, %al
        mov     $'P', %al
        call    tell_if_not_zero
        mov     $0xFFFF, %ax            # A20 is open: FFFF:0510 is not 0000:0500
        mov     %ax, %es
        movw    $0x1111, 0x500
        movw    $0x2222, %es:0x510
        cmpw    $0x2222, 0x500
        mov     $'L', %al
        call    tell_if_not_zero
        mov     $0x10, %al
        out     %al, $0xF4
        hlt

tell_if_not_zero:
        clc
        jnz     tell
        stc
        jmp     tell
tell_if_zero:
        clc
        jz      tell
        stc
tell:   jnc     1f
        mov     $'.', %al
1:      mov     $0x3F8, %dx
        out     %al, %dx
        ret
        .org    510
        .word   0xAA55
