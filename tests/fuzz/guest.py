"""A guest of the length of a sector for the target `debugger`: what it prints tells whether a debugger was seen.

Three times an INT3 of its own, then single steps of its own over a store; each handler prints, the second what DR6 says.
"""

SOURCE = """
    .code16
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %ss
    mov $0x7C00, %sp
    movw $step, 4
    mov %ax, 6
    movw $point, 12
    mov %ax, 14
    mov $0x3F8, %dx
    mov $3, %bx
again:
    int3
    pushf
    pop %ax
    or $1, %ah
    push %ax
    popf
    nop
    incl 0x500
    pushf
    pop %ax
    and $0xFE, %ah
    push %ax
    popf
    dec %bx
    jnz again
    mov $0, %al
    out %al, $0xF4
step:
    push %eax
    mov %db6, %eax
    shr $12, %eax
    and $15, %al
    add $'a', %al
    out %al, %dx
    xor %eax, %eax
    mov %eax, %db6
    pop %eax
    iret
point:
    push %ax
    mov $'3', %al
    out %al, %dx
    pop %ax
    iret
"""
CODE = bytes.fromhex(
    "31c08ed88ed0bc007cc7060400"
    "3d7ca30600c7060c00547ca30e00baf803bb0300cc9c5880cc01509d9066ff0600059c5880e4fe509d4b75e8b000e6f4665"
    "00f21f066c1e80c240f0461ee6631c00f23f06658cf50b033ee58cf"
)
PRINTED = b"3eeeeeee" * 3
