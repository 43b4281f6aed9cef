# The instructions of the cases. NAME starts one, NAME_at is the instruction that matters, NAME_rip is where the exception must point.

#ifdef __x86_64__
#define A %rax
#define B %rbx
#define SP %rsp
#else
#define A %eax
#define B %ebx
#define SP %esp
#endif

        .macro  labels name, suffix
        .globl  \name\suffix
\name\suffix:
        .endm
        .macro  start name
        labels  \name
        .endm
        .macro  at name
        labels  \name, _at
        .endm
        .macro  rip name
        labels  \name, _rip
        .endm
        .macro  finish                  # back to the driver
        int     $0x30
        .endm

        .text
start step
at step
        mov     $1, %eax
rip step
        nop
        finish

start exec
        nop
at exec
rip exec
        nop
        finish

start write
at write
        movl    $1, line
rip write
        nop
        finish

start access
at access
        mov     line + 4, %eax
rip access
        nop
        finish

start io
        xor     %eax, %eax
at io
        outb    %al, $0x80
rip io
        nop
        finish

start detect                            # ring 0
at detect
rip detect
        mov     %dr0, A
        ret

start icebp
at icebp
        .byte   0xF1
rip icebp
        nop
        finish

start lock_add
at lock_add
        lock addl $1, line + 62
rip lock_add
        nop
        finish

start lock_xchg
        mov     $1, %eax
at lock_xchg
        xchg    %eax, line + 61         # XCHG with memory locks without a prefix
rip lock_xchg
        nop
        finish

start lock_uncached
at lock_uncached
        lock incl uncached
rip lock_uncached
        nop
        finish

start lock_step
at lock_step
        lock addl $1, line + 62
rip lock_step
        nop
        finish

start lock_data
at lock_data
        lock addl $1, line + 62
rip lock_data
        nop
        finish

start lock_data_step
at lock_data_step
        lock addl $1, line + 62
rip lock_data_step
        nop
        finish

start mov_ss
at mov_ss
        mov     stack_selector, %ss               # its data breakpoint waits for the instruction after it
        nop
rip mov_ss
        nop
        finish

start mov_ss_lock
at mov_ss_lock
        mov     stack_selector, %ss               # its data breakpoint and the bus lock after it are one #DB
        lock addl $1, line + 62
rip mov_ss_lock
        nop
        finish

start int3_
at int3_
        int3
rip int3_
        nop
        finish

start branch
        nop
        nop
at branch
        jmp     1f
        ud2
1:
rip branch
        nop
        finish

start aligned
at aligned
        lock addl $1, line
        nop
        finish

start within
at within
        lock addl $1, line + 57         # misaligned, but inside its line
        nop
        finish

start kernel_lock                       # ring 0
at kernel_lock
        lock addl $1, line + 62
        nop
        ret

start plain_move
at plain_move
        mov     line + 62, %eax
        mov     %eax, line + 62
        nop
        finish

start disabled
at disabled
        lock addl $1, line + 62
        nop
        finish

start fault
at fault
rip fault
        lock addl $1, absent_page - 2   # the second page is absent: no access, no trap
        .globl  fault_resume
fault_resume:
        nop
        finish

start stale
at stale
        lock addl $1, line + 62
rip stale
        nop
        pushf
        orl     $0x100, (SP)
        popf
        .globl  stale_step
        nop
stale_step:
        nop
        finish

start pushf
        nop
at pushf
        pushf
        pop     B
        nop
        finish

start read_debug                        # ring 0
at read_debug
#ifdef __x86_64__
        mov     %dr6, %rbx
        shl     $32, %rbx
        mov     %dr7, %rax
        or      %rax, %rbx
#else
        mov     %dr6, %ecx
        mov     %dr7, %ebx
#endif
        ret

start read_code
        nop
        movzbl  read_code_at, %ebx
at read_code
        nop
        nop
        finish

        .data
        .balign 8
        .globl  stack_selector
stack_selector:
        .word   0x1B                    # user data
