# Four-level paging: rights, error codes, CR2, accessed and dirty bits, reserved bits, SMEP, SMAP, global pages, page crossings.
        .include "long.inc"

        .set    WINDOW, 0x40000000      # a GiB with page tables of its own: 512 pages from `table`
        .set    PAGE, 0x300000          # RAM behind them

.macro map n, entry:vararg              # page n of the window; the TLB forgets it
        mov     rax, \entry
        mov     qword ptr [table + \n*8], rax
        invlpg  [WINDOW + \n*4096]
.endm

.macro pf name, error, address, insn:vararg
        mov     qword ptr [last_cr2], 0
        faults  "\name", 14, \error, \insn
        check   "\name: CR2", [last_cr2], \address
.endm

main:
        mov     dword ptr [pdpt + 8], offset window + 7
        mov     dword ptr [window], offset table + 7
        mov     rax, cr3
        mov     cr3, rax
        # SDM vol. 3, 4.7: P, W/R, U/S, RSVD, I/D
        pf      "load, not present", 0, WINDOW, mov al, [WINDOW]
        pf      "store, not present", 2, WINDOW + 4, mov [WINDOW + 4], al
        pf      "locked add, not present", 2, WINDOW + 8, lock add dword ptr [WINDOW + 8], 1
        pf      "CMPXCHG, not present: a store", 2, WINDOW + 8, cmpxchg [WINDOW + 8], ecx
        pf      "load across two absent pages", 0, WINDOW + 0xFFD, mov rax, [WINDOW + 0xFFD]
        map     0, PAGE + 1
        pf      "load, second page absent", 0, WINDOW + 0x1000, mov rax, [WINDOW + 0xFFD]
        pf      "store into a read-only page (CR0.WP)", 3, WINDOW + 0x10, mov [WINDOW + 0x10], eax
        pf      "store, first page read-only, second absent", 3, WINDOW + 0xFFE, mov [WINDOW + 0xFFE], eax
        # accessed and dirty (SDM vol. 3, 4.8)
        map     1, PAGE + 0x1003
        mov     al, [WINDOW + 0x1000]
        check   "a load sets A", [table + 8], PAGE + 0x1023
        mov     [WINDOW + 0x1000], al
        check   "a store sets D", [table + 8], PAGE + 0x1063
        map     2, PAGE + 0x2003
        mov     [WINDOW + 0x2000], al
        check   "a first store sets both", [table + 16], PAGE + 0x2063
        map     2, PAGE + 0x2001
        pf      "store that faults", 3, WINDOW + 0x2000, mov [WINDOW + 0x2000], al
        mov     rax, [table + 16]
        and     eax, 0x40
        check   "sets no D", rax, 0
        map     3, PAGE + 0x3003
        map     4, 0
        mov     qword ptr [PAGE + 0x3FFC], 0
        mov     rax, 0x1122334455667788
        pf      "store, second page absent", 2, WINDOW + 0x4000, mov [WINDOW + 0x3FFD], rax
        mov     ebx, [PAGE + 0x3FFC]
        check   "nothing was stored in the first", rbx, 0
        map     4, PAGE + 0x5003
        mov     rax, 0x1122334455667788
        mov     [WINDOW + 0x3FFD], rax
        check   "store across pages that are not neighbours", [PAGE + 0x5000 - 3 + 3], 0x1122334455
        mov     rbx, [WINDOW + 0x3FFD]
        check   "and load", rbx, 0x1122334455667788
        lock add qword ptr [WINDOW + 0x3FFD], 1
        check   "locked across pages", [WINDOW + 0x3FFD], 0x1122334455667789
        push    rsp
        mov     rbx, rsp
        mov     rsp, WINDOW + 0x4003
        push    -1
        mov     rsp, rbx
        pop     rbx
        check   "PUSH across pages", [WINDOW + 0x3FFB], -1
        # WP off: supervisor writes read-only pages, D is set
        map     5, PAGE + 0x6001
        mov     rax, cr0
        and     eax, ~0x10000
        mov     cr0, rax
        runs    "store into a read-only page without WP", mov byte ptr [WINDOW + 0x5000], 7
        check   "D is set there, too", [table + 40], PAGE + 0x6061
        mov     rax, cr0
        or      eax, 0x10000
        mov     cr0, rax
        pf      "and WP again", 3, WINDOW + 0x5000, mov byte ptr [WINDOW + 0x5000], 7
        # reserved bits
        map     6, 0x000FF00000000003 & ~0x000F000000000000 | 0x0008000000000000
        pf      "reserved address bit", 9, WINDOW + 0x6000, mov al, [WINDOW + 0x6000]
        pf      "reserved address bit, store", 0xB, WINDOW + 0x6000, mov [WINDOW + 0x6000], al
        mov     rax, PAGE + 0x2083
        mov     qword ptr [window + 8], rax         # a 2 MiB page, bit 13 set
        invlpg  [WINDOW + 0x200000]
        pf      "reserved bit 13 of a large page", 9, WINDOW + 0x200000, mov al, [WINDOW + 0x200000]
        mov     rax, 0x200083
        mov     qword ptr [window + 8], rax
        invlpg  [WINDOW + 0x200000]
        mov     al, [WINDOW + 0x200000]
        check   "A of a large page", [window + 8], 0x2000A3
        mov     dword ptr [pml4 + 8], offset pdpt + 0x87    # PS in a PML4E is reserved (AMD, Intel)
        mov     rbx, 1 << 39
        pf      "PS in a PML4E", 9, 1 << 39, mov al, [rbx]
        mov     dword ptr [pml4 + 8], 0
        mov     rax, 0x183
        mov     qword ptr [pdpt + 16], rax          # 1 GiB page: bytes 0 up, global
        mov     rbx, 0x80000000
        mov     dword ptr [PAGE], 0x12345678
        mov     eax, [rbx + PAGE]
        check   "a page of 1 GiB", rax, 0x12345678
        mov     byte ptr [rbx + PAGE], 0x79
        check   "A and D of a 1 GiB page", [pdpt + 16], 0x1E3
        # NX
        mov     byte ptr [PAGE + 0x7000], 0xC3
        map     7, (1 << 63) + PAGE + 0x7003
        mov     rcx, WINDOW + 0x7000
        mov     qword ptr [resume], offset 1f
        mov     qword ptr [last_cr2], 0
        call    rcx
1:      pop     rbx
        check   "NX: vector", [last_vector], 14
        check   "NX: error (I/D, P)", [last_error], 0x11
        check   "NX: CR2", [last_cr2], WINDOW + 0x7000
        check   "NX: RIP is the target", [last_rip], WINDOW + 0x7000
        map     7, PAGE + 0x7003
        runs    "without NX", call rcx
        # an instruction over the end of a page
        mov     dword ptr [PAGE + 0x7FFE], 0
        mov     word ptr [PAGE + 0x7FFE], 0xBB48
        map     8, 0
        mov     rcx, WINDOW + 0x7FFE
        mov     qword ptr [resume], offset 1f
        mov     ebx, 77
        mov     rdx, rsp
        jmp     rcx
1:      check   "instruction into an absent page: vector", [last_vector], 14
        check   "error", [last_error], 0x10
        check   "CR2 is the second page", [last_cr2], WINDOW + 0x8000
        check   "RIP is the instruction", [last_rip], WINDOW + 0x7FFE
        check   "nothing changed", rbx, 77
        mov     qword ptr [PAGE + 0x9000], 0x44332211
        mov     byte ptr [PAGE + 0x9008], 0xC3
        map     8, PAGE + 0x9003
        mov     rcx, WINDOW + 0x7FFE
        call    rcx
        check   "instruction over two pages", rbx, 0x44332211
        mov     dword ptr [PAGE + 0xA000], 0x55443322
        mov     dword ptr [PAGE + 0xA004], 0
        mov     byte ptr [PAGE + 0xA008], 0xC3
        map     8, PAGE + 0xA003
        mov     rcx, WINDOW + 0x7FFE
        call    rcx
        check   "the second page was mapped elsewhere", rbx, 0x55443322
        mov     byte ptr [WINDOW + 0x8000], 0x99
        call    rcx
        check   "the second page was written", rbx, 0x55443399
        mov     qword ptr [last_vector], -1
        # user pages
        map     9, PAGE + 0xB003
        map     10, PAGE + 0xC007
        map     11, PAGE + 0xD005
        map     12, (1 << 63) + PAGE + 0xE007
        mov     byte ptr [PAGE + 0xC000], 0xC3
        map     13, PAGE + 0xF003
        ring3
        pf      "user load from a supervisor page", 5, WINDOW + 0x9000, mov al, [WINDOW + 0x9000]
        pf      "user store to a supervisor page", 7, WINDOW + 0x9000, mov [WINDOW + 0x9000], al
        pf      "user load, absent", 4, WINDOW + 0x40000, mov al, [WINDOW + 0x40000]
        pf      "user store to a read-only page", 7, WINDOW + 0xB000, mov [WINDOW + 0xB000], al
        runs    "user store", mov dword ptr [WINDOW + 0xA004], 5
        pf      "user load into a supervisor page", 5, WINDOW + 0xD000, mov eax, [WINDOW + 0xCFFE]
        mov     rcx, WINDOW + 0x9000
        mov     qword ptr [resume], offset 1f
        call    rcx
1:      pop     rbx
        check   "user fetch from a supervisor page", [last_error], 0x15
        mov     rcx, WINDOW + 0xC000
        mov     qword ptr [resume], offset 1f
        call    rcx
1:      pop     rbx
        check   "user fetch from an NX page", [last_error], 0x15
        mov     qword ptr [last_vector], -1
        ring0
        # SMEP (SDM vol. 3, 4.6)
        mov     rcx, WINDOW + 0xA000
        runs    "supervisor runs a user page", call rcx
        # the code of this program is user code itself: make what runs under SMEP and SMAP supervisor pages
        and     dword ptr [directory], ~4
        and     dword ptr [directory + 8], ~4
        mov     rax, cr3
        mov     cr3, rax
        mov     rax, cr4
        or      eax, 1 << 20
        mov     cr4, rax
        mov     rcx, WINDOW + 0xA000
        mov     qword ptr [resume], offset 1f
        call    rcx
1:      pop     rbx
        check   "SMEP: vector", [last_vector], 14
        check   "SMEP: error", [last_error], 0x11
        check   "SMEP: CR2", [last_cr2], WINDOW + 0xA000
        mov     qword ptr [last_vector], -1
        # SMAP (SDM vol. 3, 4.6): STAC, CLAC
        mov     rax, cr4
        or      eax, 1 << 21
        mov     cr4, rax
        pf      "SMAP load", 1, WINDOW + 0xA000, mov al, [WINDOW + 0xA000]
        pf      "SMAP store", 3, WINDOW + 0xA000, mov [WINDOW + 0xA000], al
        pf      "SMAP store, read-only page", 3, WINDOW + 0xB000, mov [WINDOW + 0xB000], al
        stac
        mov     al, [WINDOW + 0xA000]
        mov     [WINDOW + 0xA004], al
        mov     qword ptr [resume], offset 1f
0:      mov     [WINDOW + 0xB000], al
1:      clac
        verdict 910, "STAC does not override W/R", 14, 3, 0b
        pf      "CLAC: SMAP again", 1, WINDOW + 0xA000, mov al, [WINDOW + 0xA000]
        pushfq
        or      dword ptr [rsp], 1 << 18
        popfq
        mov     qword ptr [resume], offset 1f
        mov     al, [WINDOW + 0xA000]
1:      pushfq
        and     dword ptr [rsp], ~(1 << 18)
        popfq
        check   "POPF with AC is STAC", [last_vector], -1
        mov     rsi, WINDOW + 0xA000
        mov     rdi, WINDOW + 0x1000
        mov     ecx, 3
        pf      "REP MOVSB from a user page", 1, WINDOW + 0xA000, rep movsb
        check   "RCX stays", rcx, 3
        check   "RSI stays", rsi, WINDOW + 0xA000
        # an implicit supervisor access is not overridden by AC: an LDT in a user page
        mov     rax, [gdt + KDATA]
        mov     qword ptr [PAGE + 0xC210], rax
        movabs  rax, 0x4000820000000FFF + (0xA200 << 16)
        mov     qword ptr [gdt + FREE], rax         # LDT at WINDOW + A200h
        mov     ecx, FREE
        lldt    cx
        mov     ecx, 0x14
        stac
        mov     qword ptr [resume], offset 1f
0:      mov     fs, ecx
1:      clac
        check   "SMAP: a descriptor in a user page, AC set: vector (SDM 3, 4.6.1)", [last_vector], 14
        check   "error", [last_error], 1
        check   "CR2", [last_cr2], WINDOW + 0xA210
        mov     qword ptr [last_vector], -1
        mov     rax, cr4
        and     eax, ~0x300000
        mov     cr4, rax
        or      dword ptr [directory], 4
        or      dword ptr [directory + 8], 4
        mov     rax, cr3
        mov     cr3, rax
        # global pages (SDM vol. 3, 4.10.2.4)
        mov     dword ptr [PAGE + 0x10000], 1
        mov     dword ptr [PAGE + 0x11000], 2
        map     16, PAGE + 0x10103
        mov     ebx, [WINDOW + 0x10000]
        mov     dword ptr [table + 16*8], PAGE + 0x11103
        mov     rax, cr4
        xor     eax, 0x80
        mov     cr4, rax                            # PGE on or off: everything goes
        mov     ebx, [WINDOW + 0x10000]
        check   "CR4.PGE changed: all is forgotten", rbx, 2
        mov     dword ptr [table + 16*8], PAGE + 0x10103
        invlpg  [WINDOW + 0x10000]
        mov     ebx, [WINDOW + 0x10000]
        check   "INVLPG forgets a global page", rbx, 1
        map     17, PAGE + 0x10003
        mov     ebx, [WINDOW + 0x11000]
        mov     dword ptr [table + 17*8], PAGE + 0x11003
        mov     rax, cr3
        mov     cr3, rax
        mov     ebx, [WINDOW + 0x11000]
        check   "MOV CR3 forgets", rbx, 2
        mov     dword ptr [window], 0
        invlpg  [WINDOW + 0x11000]
        pf      "the directory entry is gone", 0, WINDOW + 0x11000, mov al, [WINDOW + 0x11000]
        mov     dword ptr [window], offset table + 7
        runs    "and comes back without a flush (SDM 3, 4.10.2.3: absent entries are not cached)", mov al, [WINDOW + 0x11000]
        mov     dword ptr [table + 18*8], PAGE + 0x10003
        runs    "from absent to present needs no flush", mov al, [WINDOW + 0x12000]
        # rights combine over the levels
        mov     dword ptr [window], offset table + 5
        invlpg  [WINDOW + 0x12000]
        pf      "read-only by the directory", 3, WINDOW + 0x12000, mov [WINDOW + 0x12000], al
        mov     dword ptr [window], offset table + 3
        invlpg  [WINDOW + 0xA000]
        ring3
        pf      "supervisor by the directory", 5, WINDOW + 0xA000, mov al, [WINDOW + 0xA000]
        ring0
        mov     dword ptr [window], offset table + 7
        # a stale dirty bit of an alias, and two names of one page
        map     19, PAGE + 0x13003
        map     20, PAGE + 0x13003
        mov     dword ptr [WINDOW + 0x13000], 0x11
        mov     dword ptr [WINDOW + 0x14000], 0x22
        mov     ebx, [WINDOW + 0x13000]
        check   "two names of a page", rbx, 0x22
        # page tables in their own window: a store to a table through the window
        map     21, offset table + 3
        mov     rax, PAGE + 0x10003
        mov     qword ptr [WINDOW + 0x15000 + 22*8], rax
        mov     ebx, [WINDOW + 0x16000]
        check   "a table that maps itself", rbx, 1
        # canonical limits with mapped pages: the last page of the low half
        mov     rax, offset pdpt_end + 3
        mov     qword ptr [pml4 + 255*8], rax
        mov     rax, offset directory_end + 3
        mov     qword ptr [pdpt_end + 511*8], rax
        mov     eax, 0x200083
        mov     qword ptr [directory_end + 511*8], rax
        mov     rbx, 0x7FFFFFFFFFF8
        runs    "the last quadword of the low half", mov rax, [rbx]
        inc     rbx
        faults  "across the end of the low half", 13, 0, mov rax, [rbx]
        mov     r12, rsp
        mov     rsp, rbx
        mov     qword ptr [idt + 12*16 + 4], 0x8E01
        mov     word ptr [idt + 12*16 + 6], 0x10
        mov     qword ptr [resume], offset 1f
0:      pop     rax
1:      mov     r13, rsp
        mov     rsp, r12
        verdict 911, "POP across the end of the low half: #SS", 12, 0, 0b
        check   "and RSP stays", r13, 0x7FFFFFFFFFF9
        ret

        .bss
        .balign 4096
window: .skip   4096
table:  .skip   4096
pdpt_end: .skip 4096
directory_end: .skip 4096
