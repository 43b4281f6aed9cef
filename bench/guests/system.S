// System instructions in loops, a function each: the table `operations` has name, function and mode of every one. The first of a mode is
// the empty loop. Functions of 64-bit mode are called with RDI = turns, those of other modes with EBP = turns: `in_mode` goes there.

    .set LONG, 0
    .set COMPATIBILITY, 1
    .set PROTECTED32, 2
    .set PROTECTED16, 3
    .set REAL, 4
    .set VIRTUAL8086, 5
    .set LOW, 0x10000                   // where the 16-bit code is copied to, for real mode reaches no farther
    .set CODE32, 0x38
    .set CODE16, 0x40
    .set DATA16, 0x48
    .set IN_LDT, 0x0C                   // a data segment in the LDT

    .macro in_table text, mode, code
    .pushsection .rodata
70: .asciz "\text"
    .section .operations, "a"
    .quad 70b, \code, \mode
    .popsection
    .endm

    // operation "name"; setup; turns; instructions; done
    .macro operation text
    in_table "\text", LONG, 71f
71: pushq %rbx
    pushq %rbp
    pushq %r15
    movq %rdi, %r15
    .endm
    .macro turns
72:
    .endm
    .macro done
    decq %r15
    jnz 72b
    popq %r15
    popq %rbp
    popq %rbx
    ret
    .endm

    .section .operations, "a"
    .globl operations
operations:

    .text
    operation "empty loop"
    turns
    done
    operation "MOV FS, r"
    xorl %eax, %eax
    turns
    movl %eax, %fs
    done
    operation "MOV GS, r"
    movl $0x10, %eax
    turns
    movl %eax, %gs
    done
    operation "MOV DS, r"
    movl $0x10, %eax
    turns
    movl %eax, %ds
    done
    operation "MOV SS, r; NOP"
    movl $0x10, %eax
    turns
    movl %eax, %ss
    nop
    done
    operation "PUSH FS; POP FS"
    turns
    pushq %fs
    popq %fs
    done
    operation "LFS r, m"
    turns
    lfsl far_null, %eax
    done
    operation "LGDT"
    turns
    lgdt system_gdt_pointer
    done
    operation "LIDT"
    sidt saved_idt
    turns
    lidt saved_idt
    done
    operation "SGDT"
    turns
    sgdt scratch
    done
    operation "SIDT"
    turns
    sidt scratch
    done
    operation "SLDT r"
    turns
    sldt %eax
    done
    operation "STR r"
    turns
    str %eax
    done
    operation "SMSW r"
    turns
    smsw %eax
    done
    operation "LLDT"
    movl $0x50, %eax
    turns
    lldt %ax
    done
    operation "LTR of a TSS made available"
    movl $0x28, %eax
    turns
    movb $0x89, system_gdt + 0x28 + 5
    ltr %ax
    done
    operation "CPUID, leaf 1"
    turns
    movl $1, %eax
    cpuid
    done
    operation "CPUID, leaf 80000008h"
    turns
    movl $0x80000008, %eax
    cpuid
    done
    operation "RDMSR EFER"
    movl $0xC0000080, %ecx
    turns
    rdmsr
    done
    operation "RDMSR PAT"
    movl $0x277, %ecx
    turns
    rdmsr
    done
    operation "WRMSR FS_BASE"
    movl $0xC0000100, %ecx
    xorl %eax, %eax
    xorl %edx, %edx
    turns
    wrmsr
    done
    operation "WRMSR PAT"
    movl $0x277, %ecx
    rdmsr
    turns
    wrmsr
    done
    operation "WRMSR EFER"
    movl $0xC0000080, %ecx
    rdmsr
    turns
    wrmsr
    done
    operation "WRMSR STAR"
    movl $0xC0000081, %ecx
    rdmsr
    turns
    wrmsr
    done
    operation "CLTS"
    turns
    clts
    done
    operation "LMSW"
    smsw %eax
    turns
    lmsw %ax
    done
    operation "VERR"
    movl $0x10, %eax
    turns
    verr %ax
    done
    operation "VERW"
    movl $0x10, %eax
    turns
    verw %ax
    done
    operation "LAR"
    movl $0x10, %eax
    turns
    larl %eax, %edx
    done
    operation "LSL"
    movl $0x10, %eax
    turns
    lsll %eax, %edx
    done
    operation "RETF"
    turns
    pushq $0x08
    pushq $73f
    lretq
73: done
    operation "JMPF m"
    turns
    ljmpl *far_here
    .globl far_target
far_target:
    done
    operation "CALLF m; RETF"
    turns
    lcalll *far_back
    done
    operation "CALLF of a call gate; RETF"
    turns
    lcalll *far_gate
    done
    operation "INT n; IRETQ"
    turns
    int $0x40
    done
    operation "IRETQ"
    turns
    movq %rsp, %rdx
    pushq $0x10
    pushq %rdx
    pushfq
    pushq $0x08
    pushq $73f
    iretq
73: done
    operation "#UD; IRETQ"
    turns
    ud2
    done
    operation "MOV r, CR0"
    turns
    movq %cr0, %rax
    done
    operation "MOV CR0, r, the same"
    movq %cr0, %rax
    turns
    movq %rax, %cr0
    done
    operation "MOV CR0, r: WP off and on"
    movq %cr0, %rax
    movq %rax, %rdx
    andl $~0x10000, %edx
    turns
    movq %rdx, %cr0
    movq %rax, %cr0
    done
    operation "MOV CR0, r: TS on; CLTS"
    movq %cr0, %rax
    orl $8, %eax
    turns
    movq %rax, %cr0
    clts
    done
    operation "MOV CR3, r"
    movq %cr3, %rax
    turns
    movq %rax, %cr3
    done
    operation "MOV CR4, r: PGE off and on"
    movq %cr4, %rax
    movq %rax, %rdx
    xorl $0x80, %edx
    turns
    movq %rdx, %cr4
    movq %rax, %cr4
    done
    operation "MOV CR8, r"
    xorl %eax, %eax
    turns
    movq %rax, %cr8
    done
    operation "MOV r, CR8"
    turns
    movq %cr8, %rax
    done
    operation "MOV DR0, r"
    xorl %eax, %eax
    turns
    movq %rax, %dr0
    done
    operation "MOV r, DR0"
    turns
    movq %dr0, %rax
    done
    operation "MOV DR7, r"
    movl $0x400, %eax
    turns
    movq %rax, %dr7
    done
    operation "MOV r, DR7"
    turns
    movq %dr7, %rax
    done
    operation "MOV r, DR6"
    turns
    movq %dr6, %rax
    done
    operation "INVLPG of a page in use"
    turns
    movl pages, %eax
    invlpg pages
    done
    operation "INVLPG of a page not in use"
    turns
    invlpg 0x30000000
    done
    operation "FXSAVE"
    turns
    fxsave area
    done
    operation "FXSAVE; FXRSTOR"
    turns
    fxsave area
    fxrstor area
    done
    operation "XSAVE; XRSTOR"
    turns
    movl $3, %eax
    xorl %edx, %edx
    xsave area
    xrstor area
    done
    operation "FLDPI; FSIN; FSTP, unmasked"
    fninit
    fldcw unmasked
    turns
    fldpi
    fsin
    fstp %st(0)
    done
    operation "ADDSD, unmasked"
    ldmxcsr unmasked_sse
    xorps %xmm0, %xmm0
    turns
    addsd %xmm0, %xmm0
    done
    operation "LOCK ADD across two pages"
    turns
    lock addl $1, pages + 4094
    done
    operation "ADD across two pages"
    ldmxcsr masked_sse                  // what ADDSD has left
    turns
    addl $1, pages + 4094
    done
    operation "load across two pages"
    turns
    movl pages + 4094, %eax
    done
    operation "store across two pages"
    turns
    movl %eax, pages + 4094
    done
    operation "MOVUPS across two pages"
    turns
    movups pages + 4090, %xmm0
    done
    operation "IN from an unmapped port"
    movl $0x5678, %edx
    turns
    inb %dx, %al
    done
    operation "PUSHF; POPF"
    turns
    pushfq
    popfq
    done
    operation "STI; NOP; CLI"
    turns
    sti
    nop
    cli
    done
    operation "SWAPGS"
    turns
    swapgs
    done
    operation "RDTSC"
    turns
    rdtsc
    done
    operation "XGETBV"
    xorl %ecx, %ecx
    turns
    xgetbv
    done
    operation "XSETBV"
    xorl %ecx, %ecx
    xgetbv
    turns
    xsetbv
    done
    operation "WBINVD"
    turns
    wbinvd
    done

far_code:
    lretl
    .globl int_entry, ud_entry
ud_entry:
    addq $2, (%rsp)
int_entry:
    iretq

    // --- 32-bit code: in long mode, and as it always was

    .macro operation32 text, mode
    in_table "\text", \mode, 71f
71:
    .endm
    .macro done32
    decl %ebp
    jnz 72b
    ret
    .endm
    .macro in_both mode                 // rows of compatibility and of protected mode
    operation32 "empty loop", \mode
    turns
    done32
    operation32 "MOV ES, r", \mode
    movl $0x10, %eax
    turns
    movl %eax, %es
    done32
    operation32 "MOV FS, r: LDT", \mode
    movl $0x50, %eax
    lldt %ax
    movl $IN_LDT, %eax
    turns
    movl %eax, %fs
    done32
    operation32 "MOV SS, r; NOP", \mode
    movl $0x10, %eax
    turns
    movl %eax, %ss
    nop
    done32
    operation32 "PUSH ES; POP ES", \mode
    turns
    pushl %es
    popl %es
    done32
    operation32 "LES r, m", \mode
    turns
    lesl far_data, %eax
    done32
    operation32 "LGDT", \mode
    turns
    lgdt system_gdt_pointer
    done32
    operation32 "SIDT", \mode
    turns
    sidt scratch
    done32
    operation32 "VERW", \mode
    movl $0x10, %eax
    turns
    verw %ax
    done32
    operation32 "LAR", \mode
    movl $0x10, %eax
    turns
    larl %eax, %edx
    done32
    operation32 "CPUID, leaf 1", \mode
    turns
    movl $1, %eax
    cpuid
    done32
    operation32 "RDMSR EFER", \mode
    movl $0xC0000080, %ecx
    turns
    rdmsr
    done32
    operation32 "MOV CR0, r: TS on; CLTS", \mode
    movl %cr0, %eax
    orl $8, %eax
    turns
    movl %eax, %cr0
    clts
    done32
    operation32 "MOV DR0, r", \mode
    xorl %eax, %eax
    turns
    movl %eax, %dr0
    done32
    operation32 "MOV r, DR7", \mode
    turns
    movl %dr7, %eax
    done32
    operation32 "RETF", \mode
    turns
    pushl $CODE32
    pushl $73f
    lretl
73: done32
    operation32 "CALLF; RETF", \mode
    turns
    lcall $CODE32, $far_code
    done32
    operation32 "JMPF", \mode
    turns
    ljmp $CODE32, $73f
73: done32
    operation32 "INT n; IRET", \mode
    turns
    int $0x40
    done32
    operation32 "#UD; IRET", \mode
    turns
    ud2
    done32
    operation32 "PUSHF; POPF", \mode
    turns
    pushfl
    popfl
    done32
    operation32 "load across two pages", \mode
    turns
    movl pages + 4094, %eax
    done32
    .endm

    .code32
    in_both COMPATIBILITY
    in_both PROTECTED32
    operation32 "MOV CR3, r", PROTECTED32
    movl %cr3, %eax
    turns
    movl %eax, %cr3
    done32

ud_entry32:
    addl $2, (%esp)
int_entry32:
    iret

    // --- 16-bit code, copied to LOW; its addresses count from `low`

    .section .low, "ax"
    .code16
    .globl low, low_end
low:
    .macro operation16 text, mode
    in_table "\text", \mode, 71f-low
71:
    .endm
    .macro in_all mode, code, data      // rows of every mode of 16-bit code; selectors of its code and of data
    operation16 "empty loop", \mode
    turns
    done32
    operation16 "MOV ES, r", \mode
    movw $\data, %ax
    turns
    movw %ax, %es
    done32
    operation16 "MOV SS, r; NOP", \mode
    movw %ss, %ax
    turns
    movw %ax, %ss
    nop
    done32
    operation16 "PUSH ES; POP ES", \mode
    turns
    pushw %es
    popw %es
    done32
    operation16 "CALLF; RETF", \mode
    turns
    lcallw $\code, $far_code16-low
    done32
    operation16 "JMPF", \mode
    turns
    ljmpw $\code, $(73f-low)
73: done32
    operation16 "INT n; IRET", \mode
    turns
    int $0x40
    done32
    operation16 "PUSHF; POPF", \mode
    turns
    pushfw
    popfw
    done32
    operation16 "load of two bytes across two pages", \mode
    turns
    movw %cs:0x1FFF, %ax
    done32
    .endm
    in_all PROTECTED16, CODE16, DATA16
    in_all REAL, LOW/16, 0x2000
    operation16 "SGDT", REAL
    turns
    sgdtw 0x3000
    done32
    operation16 "MOV CR0, r, the same", REAL
    movl %cr0, %eax
    turns
    movl %eax, %cr0
    done32
    operation16 "RDMSR EFER", REAL
    movl $0xC0000080, %ecx
    turns
    rdmsr
    done32
    in_all VIRTUAL8086, LOW/16, 0x2000
far_code16:
    lretw
int_entry16:
    iretw

    // --- there and back: EBX is the mode, EAX the function, EBP the turns

in_16:
    movw $DATA16, %cx
    movw %cx, %ds
    movw %cx, %es
    movw %cx, %ss
    movl $0xE000, %esp
    cmpw $REAL, %bx
    je 1f
    callw *%ax
    jmp 3f
1:  movl %cr0, %ecx
    decl %ecx
    movl %ecx, %cr0
    ljmpw $LOW/16, $(2f-low)
2:  movw $LOW/16, %cx
    movw %cx, %ds
    movw %cx, %es
    movw %cx, %ss
    lidtl idt_real-low
    callw *%ax
    movl %cr0, %ecx
    incl %ecx
    movl %ecx, %cr0
3:  ljmpl $CODE32, $back_in_32
in_v86:
    callw *%ax
    int $0x41                           // back_from_v86
idt_real:
    .word 0x3FF
    .long 0
low_end:

    .text
    .code32
in_32:
    cmpl $COMPATIBILITY, %ebx
    jne 1f
    calll *%eax
    movl $0x10, %ecx
    movl %ecx, %es
    ljmp $0x08, $back
1:  movl %eax, %esi
    movl %cr0, %eax
    andl $0x7FFFFFFF, %eax
    movl %eax, %cr0
    movl $0xC0000080, %ecx
    rdmsr
    andl $~0x100, %eax
    wrmsr
    lidt idt32_pointer
    movb $0x89, system_gdt + 0x60 + 5
    movl $0x60, %eax
    ltr %ax
    movl %esi, %eax
    cmpl $PROTECTED32, %ebx
    jne 2f
    calll *%eax
    jmp in_32_again
2:  movl %esp, legacy_stack
    cmpl $VIRTUAL8086, %ebx
    je 3f
    ljmp $CODE16, $(in_16-low)
3:  movl $LOW/16, %ecx
    pushl $0
    pushl $0
    pushl %ecx
    pushl %ecx
    pushl %ecx                          // SS
    pushl $0xE000
    pushl $0x23002                      // VM, IOPL 3
    pushl %ecx
    pushl $(in_v86-low)
    movl %esp, tss32 + 4
    subl $64, tss32 + 4
    iret
back_from_v86:
back_in_32:
    movl $0x10, %ecx
    movl %ecx, %ds
    movl %ecx, %es
    movl %ecx, %ss
    movl legacy_stack, %esp
in_32_again:
    movl $0x10, %ecx
    movl %ecx, %es
    movl $0xC0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    lidt saved_idt
    movb $0x89, system_gdt + 0x28 + 5
    movl $0x28, %eax
    ltr %ax
    ljmp $0x08, $back

    .code64
    .globl in_mode
in_mode:                                // in_mode(function, turns, mode)
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movl %edi, %eax
    movl %esi, %ebp
    movl %edx, %ebx
    sidt saved_idt
    ljmpl *far_32
back:
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

    .section .operations, "a"
    .globl operations_end
operations_end:

    .section .data
    .balign 16
    .globl system_gdt, system_gdt_pointer
system_gdt:                             // as the common one, then more
    .quad 0
    .quad 0x00AF9B000000FFFF            // 08 ring 0 code
    .quad 0x00CF93000000FFFF            // 10 ring 0 data
    .quad 0x00CFF3000000FFFF            // 18 ring 3 data
    .quad 0x00AFFB000000FFFF            // 20 ring 3 code
    .quad 0x0000890000000067, 0         // 28 TSS
    .quad 0x00CF9B000000FFFF            // 38 code of 32 bits
    .quad 0x00009B010000FFFF            // 40 code of 16 bits at LOW
    .quad 0x000093010000FFFF            // 48 data there
    .quad 0x000082000000000F, 0         // 50 LDT
    .quad 0x0000890000000067, 0         // 60 TSS of 32 bits
    .quad 0, 0                          // 70 call gate
system_gdt_end:
system_gdt_pointer:
    .word system_gdt_end - system_gdt - 1
    .quad system_gdt
    .balign 8
    .globl system_ldt
system_ldt:
    .quad 0, 0x00CF93000000FFFF         // IN_LDT (less the bits of the selector) is the second
far_null:
    .long 0
    .word 0
far_data:
    .long 0
    .word 0x10
far_here:
    .long far_target
    .word 0x08
far_back:
    .long far_code
    .word 0x08
far_gate:
    .long 0
    .word 0x70
far_32:
    .long in_32
    .word CODE32
unmasked:
    .word 0x372                         // invalid, zero divide and overflow
    .balign 4
unmasked_sse:
    .long 0x1D00                        // the same
masked_sse:
    .long 0x1F80
idt32_pointer:
    .word 0x42 * 8 - 1
    .long idt32
    .globl entries32
entries32:                              // of vectors 6, 40h, 41h
    .long ud_entry32, int_entry32, back_from_v86

    .section .rodata
    .globl gate_target, int_entry16_at
int_entry16_at:
    .long int_entry16-low
    .balign 8
gate_target:
    .quad far_code_of_gate
    .text
far_code_of_gate:
    lretq

    .section .bss
    .balign 4096
pages:          .skip 8192
    .balign 64
area:           .skip 4096
    .globl tss32, idt32
tss32:          .skip 0x68
    .balign 8
idt32:          .skip 0x42 * 8
saved_idt:      .skip 16
scratch:        .skip 16
legacy_stack:   .skip 4
