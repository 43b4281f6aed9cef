# Exceptions of 64-bit code: vectors, error codes, pushed flags, priorities, IST, double fault.
        .include "long.inc"

main:
        # SDM vol. 3, 7.15; vol. 2 under each instruction
        faults  "UD2", 6, 0, ud2
        faults  "DIV by 0", 0, 0, div qword ptr [zero]
        mov     rax, [last_flags]
        and     eax, 0x10000
        check   "RF is pushed with a fault (SDM 3, 18.3.1.1)", rax, 0x10000
        faults  "opcode D6 (SALC) in 64-bit mode", 6, 0, .byte 0xD6
        faults  "opcode 27 (DAA) in 64-bit mode", 6, 0, .byte 0x27
        faults  "opcode 9A in 64-bit mode", 6, 0, .byte 0x9A, 0, 0, 0, 0, 8, 0
        faults  "PUSH ES in 64-bit mode", 6, 0, .byte 0x06
        faults  "LOCK with a register (SDM 2, LOCK)", 6, 0, .byte 0xF0, 0x01, 0xC0
        faults  "LOCK NOP", 6, 0, .byte 0xF0, 0x90
        faults  "LOCK MOV to memory", 6, 0, .byte 0xF0, 0x89, 0x04, 0x25, 0, 0, 0x20, 0
        faults  "LOCK ADD of memory to a register", 6, 0, .byte 0xF0, 0x03, 0x04, 0x25, 0, 0, 0x20, 0
        faults  "LOCK CMP", 6, 0, .byte 0xF0, 0x39, 0x04, 0x25, 0, 0, 0x20, 0
        faults  "MOV to CS", 6, 0, .byte 0x8E, 0xC8
        faults  "MOV CR1", 6, 0, .byte 0x0F, 0x22, 0xC8
        faults  "RSM outside of SMM", 6, 0, rsm
        faults  "15 bytes and one more (SDM 3, 7.15 #GP)", 13, 0, .byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90
        runs    "15 bytes", .byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90

        # general protection
        mov     rbx, 0x800000000000
        faults  "not canonical, DS (SDM 1, 3.3.7.1)", 13, 0, mov rax, [rbx]
        faults  "not canonical store", 13, 0, mov [rbx], rax
        mov     rbp, 0x800000000000
        faults  "not canonical, SS by RBP", 12, 0, mov rax, [rbp]
        faults  "not canonical, RBP with a DS prefix is SS still (APM 2, 4.5)", 12, 0, .byte 0x3E, 0x48, 0x8B, 0x45, 0x00
        mov     r12, rsp
        # #SS with IST 1: the stack pointer itself is bad
        mov     eax, offset stubs + 12*16
        mov     word ptr [idt + 12*16], ax
        mov     word ptr [idt + 12*16 + 2], K64
        mov     word ptr [idt + 12*16 + 4], 0x8E01
        shr     eax, 16
        mov     word ptr [idt + 12*16 + 6], ax
        mov     qword ptr [resume], offset 1f
        mov     rsp, 0x900000000000
0:      push    rax
1:      mov     rsp, r12
        verdict 900, "PUSH with a non-canonical RSP: #SS", 12, 0, 0b
        check   "IST 1 (SDM 3, 7.14.5)", [handler_sp], offset ist1_top - 48
        mov     qword ptr [resume], offset 1f
        mov     rsp, 0x800000000000
0:      pop     rax
1:      mov     rsp, r12
        verdict 901, "POP with a non-canonical RSP: #SS", 12, 0, 0b
        mov     byte ptr [idt + 12*16 + 4], 0

        faults  "null selector to SS at CPL 0 with RPL 3", 13, 0, mov ss, [three]
        faults  "selector outside the GDT", 13, 0xFFF8, mov ds, [outside]
        faults  "LDT selector without an LDT", 13, 0x0C, mov ds, [in_ldt]
        faults  "code segment that is not readable... as SS", 13, 8, mov ss, [code_selector]
        mov     eax, 0x23
        faults  "SS of another privilege", 13, 0x28, mov ss, [user_data]
        movabs  r15, 0x00CF13000000FFFF
        mov     qword ptr [gdt + FREE], r15
        faults  "DS not present", 11, FREE, mov ds, [free_selector]
        faults  "SS not present", 12, FREE, mov ss, [free_selector]
        mov     r15, cr0
        and     r15, ~1
        faults  "CR0.PG without PE", 13, 0, mov cr0, r15
        mov     rax, 1 << 40
        faults  "CR4 reserved", 13, 0, mov cr4, rax
        mov     ecx, 0x12345
        faults  "RDMSR of an unknown MSR", 13, 0, rdmsr
        mov     rax, 16
        faults  "CR8 above 15", 13, 0, mov cr8, rax
        mov     eax, 5
        mov     cr8, rax
        mov     rbx, cr8
        check   "CR8 holds the priority", rbx, 5
        xor     eax, eax
        mov     cr8, rax
        mov     byte ptr [idt + 0x90*16 + 5], 0x0E
        faults  "INT n of a gate that is not present", 11, 0x90*8+2, int 0x90

        # double faults (SDM vol. 3, 7.15, table 7-5)
        mov     byte ptr [idt + 13*16 + 5], 0x0E         # #GP: not present
        mov     rbx, 0x800000000000
        faults  "#GP whose delivery raises #NP: double fault", 8, 0, mov rax, [rbx]
        mov     byte ptr [idt + 13*16 + 5], 0x8E
        mov     byte ptr [idt + 6*16 + 5], 0x0E
        faults  "#UD whose delivery raises #NP: #NP (IDT, EXT)", 11, 6*8+3, ud2
        mov     byte ptr [idt + 6*16 + 5], 0x8E
        mov     byte ptr [idt + 14*16 + 5], 0x0E
        faults  "#PF whose delivery raises #NP: double fault", 8, 0, mov al, [0x7FFFFFFF]
        mov     byte ptr [idt + 14*16 + 5], 0x8E
        mov     byte ptr [idt + 11*16 + 5], 0x0E
        faults  "#NP whose delivery raises #NP: double fault", 8, 0, mov ds, [free_selector]
        mov     byte ptr [idt + 11*16 + 5], 0x8E
        mov     word ptr [idt + 6*16 + 2], 0
        faults  "a gate with a null selector: #GP(EXT)", 13, 1, ud2
        mov     word ptr [idt + 6*16 + 2], KDATA
        faults  "a gate to data: #GP(selector, EXT)", 13, KDATA+1, ud2
        mov     word ptr [idt + 6*16 + 2], K32
        faults  "a gate to 32-bit code: #GP(selector, EXT)", 13, K32+1, ud2
        mov     word ptr [idt + 6*16 + 2], 0x1000
        faults  "a gate outside the GDT", 13, 0x1001, ud2
        mov     word ptr [idt + 6*16 + 2], K64
        mov     byte ptr [idt + 6*16 + 5], 0x85
        faults  "a task gate in long mode: #GP(IDT, EXT)", 13, 6*8+3, ud2
        mov     byte ptr [idt + 6*16 + 5], 0x8E
        mov     dword ptr [idt + 6*16 + 8], 0x8000
        faults  "a gate to an address that is not canonical", 13, 1, ud2
        mov     dword ptr [idt + 6*16 + 8], 0
        lidt    [short_idt]
        faults  "a vector beyond the limit of the IDT", 13, 0x40*8+2, int 0x40
        lidt    [idt_pointer]

        # stacks of 64-bit gates are aligned to 16 bytes (SDM vol. 3, 7.14.2)
        mov     r12, rsp
        sub     rsp, 5
        mov     r13, rsp
        mov     qword ptr [resume], offset 1f
0:      ud2
1:      mov     r14, rsp
        mov     rsp, r12
        verdict 903, "a fault with an odd stack", 6, 0, 0b
        mov     rax, [last_sp]
        sub     rax, r13
        check   "RSP is pushed as it was", rax, 0
        mov     rax, [handler_sp]
        and     eax, 15
        check   "the frame is aligned (error code slot of the stub below)", rax, 0
        sub     r14, r13
        check   "and comes back", r14, 0

        # flags
        push    0x40D7 | 0x200
        popfq
        faults  "#UD with NT and IF", 6, 0, ud2
        check   "the pushed flags", [last_flags], 0x142D7
        push    2
        popfq
        mov     qword ptr [resume], offset 1f
        .byte   0xCC
0:      nop
1:      verdict 904, "INT3: RIP behind it is pushed", 3, 0, 0b
        ret

        .data
        .balign 8
zero:           .quad   0
three:          .quad   3
outside:        .quad   0xFFF8
in_ldt:         .quad   0x0C
code_selector:  .quad   8
user_data:      .quad   0x28
free_selector:  .quad   FREE
short_idt:      .word   0x1FF
                .quad   idt
