# SHA1RNDS4 with an unaligned m128: #GP(0) on Intel's CPUs, which is a triple fault here: there is no IDT. AMD's go on to HLT.
#   gcc -m64 -nostdlib -static -no-pie -Wl,-Ttext=0x100000,--build-id=none -o sha1rnds4.elf sha1rnds4.S
.section .note,"a",@note
.long 4,4,18
.asciz "Xen"
.long start
.text
.code32
.globl start
start: mov %cr4,%eax; or $0x200,%eax; mov %eax,%cr4
 sha1rnds4 $0, 0x100001, %xmm0
 hlt
