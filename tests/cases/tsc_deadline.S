# Four WRMSRs put the TSC-deadline timer as far away as a guest can: TSC = 0, TSC_ADJUST = 0, TSC_DEADLINE all ones.
# Then it halts; with -DSPINS it runs on.
#   gcc -m64 -nostdlib -static -no-pie -Wl,-Ttext=0x100000,-e,start,--build-id=none -o tsc_deadline.elf tsc_deadline.S
.section .note,"a",@note
.long 4,4,18
.asciz "Xen"
.long start
.text
.code32
.globl start
start: mov $stack,%esp
 movl $0x1ff,0xfee000f0; movl $0x40020,0xfee00320     # software enable; LVT timer: TSC-deadline mode
 mov $0x10,%ecx; xor %eax,%eax; xor %edx,%edx; wrmsr   # TSC = 0: TSC_ADJUST becomes -t, as 64 bits
 mov $0x3b,%ecx; xor %eax,%eax; xor %edx,%edx; wrmsr   # TSC_ADJUST = 0: the offset becomes -2^64
 mov $0x6e0,%ecx; mov $-1,%eax; mov $-1,%edx; wrmsr    # deadline 2^64-1: due in 1.8e10 s
 sti
1:
#ifndef SPINS
 hlt
#endif
 jmp 1b
.bss
 .skip 4096
stack:
