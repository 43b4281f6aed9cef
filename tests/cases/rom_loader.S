# Runs a 64 KiB ROM image that expects to be a BIOS: copies what follows this sector to F000:0000 and jumps to F000:FFF0, where a CPU
# starts. `cat sector rom > image`, and test ROMs for CPUs run (test386.asm, assembled with POST_PORT 3F8h).
        .code16
        .globl  start
start:  cli
        cld
        xor     %ax, %ax
        mov     %ax, %ss
        mov     $0x7C00, %sp
        mov     $0x7E0, %ax
        mov     %ax, %ds
        mov     $0xF000, %ax
        mov     %ax, %es
        xor     %si, %si
        xor     %di, %di
        mov     $0x8000, %cx
        rep movsw
        ljmp    $0xF000, $0xFFF0
        .org    510
        .word   0xAA55
