# A boot sector for machines that boot disks only: brings SECTORS sectors behind it to 1 MiB and enters the kernel.

        .intel_syntax noprefix
        .code16
        .globl  start
start:  xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, 0x7C00
        mov     [drive], dl
        mov     ax, 0x2401              # A20
        int     0x15
next:   mov     si, offset packet
        mov     ah, 0x42
        mov     dl, [drive]
        int     0x13
        jc      failed
        cli
        lgdt    [gdt_pointer]           # ES with a limit of 4 GiB ("unreal"), for the copy alone
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        mov     bx, 8
        mov     es, bx
        and     al, 0xFE
        mov     cr0, eax
        xor     ax, ax
        mov     es, ax
        mov     edi, [target]
        mov     esi, 0x8000
        mov     ecx, 16 * 512 / 4
        cld
        addr32 rep movsd
        mov     [target], edi
        sti
        add     dword ptr [sector], 16
        cmp     dword ptr [sector], SECTORS
        jb      next
        cli
        lgdt    [gdt_pointer]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        mov     ax, 8
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        .byte   0x66, 0xEA
        .long   ENTRY
        .word   0x10
failed: mov     al, '!'
        out     0xE9, al
        hlt

        .balign 4
packet: .word   16, 16, 0x8000, 0       # 16 sectors to 0:8000h
sector: .quad   1
target: .long   0x100000
drive:  .byte   0
        .balign 4
gdt:    .quad   0, 0x00CF93000000FFFF, 0x00CF9B000000FFFF
gdt_pointer: .word 23
        .long   gdt
        .org    510
        .word   0xAA55
