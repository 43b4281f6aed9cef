# A guest that prints 64 KiB and then x86 code (exit_group(42)), 64 times, and leaves by its exit port with 0. A host process that
# lets its output go into memory that holds code executes what the guest prints.
#   gcc -m64 -nostdlib -static -no-pie -Wl,-Ttext=0x100000,-e,start,--build-id=none -o closed_streams.elf closed_streams.S
.section .note,"a",@note
.long 4,4,18
.asciz "Xen"
.long start
.text
.code32
.globl start
start: mov $0x3f8,%dx; mov $65536,%ecx
1: mov $0x90,%al; out %al,%dx; dec %ecx; jnz 1b
 mov $64,%ebx
2: mov $code,%esi; mov $64,%ecx
3: lodsb; out %al,%dx; dec %ecx; jnz 3b; dec %ebx; jnz 2b
 xor %eax,%eax; out %al,$0xf4
4: hlt; jmp 4b
.data
.align 64
code: .skip 52, 0x90
 .byte 0xbf,42,0,0,0, 0xb8,231,0,0,0, 0x0f,0x05
