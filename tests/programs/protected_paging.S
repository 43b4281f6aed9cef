# Paging outside of long mode: two levels with 4 MiB pages (PSE), PSE-36, PAE with PDPTEs held in registers, no paging at all.
        .include "prot.inc"

        .set    WINDOW, 0x40000000
        .set    PAGE, 0x300000

.macro map n, entry
        mov     dword ptr [table + \n * 4], \entry
        invlpg  [WINDOW + \n * 4096]
.endm
.macro pf name, error, address, insn:vararg
        faults  "\name", 14, \error, \insn
        check   "\name: CR2", [last_cr2], \address
.endm

main:
        mov     dword ptr [PAGE], 0xAAAA
        mov     dword ptr [PAGE + 0x1000], 0xBBBB
        mov     dword ptr [directory], 0x87             # 4 MiB pages
        mov     dword ptr [directory + 0x100 * 4], offset table + 7
        mov     eax, cr4
        or      eax, 0x10
        mov     cr4, eax
        mov     eax, offset directory
        mov     cr3, eax
        mov     eax, cr0
        or      eax, 0x80010000
        mov     cr0, eax
        jmp     1f
1:      mov     byte ptr [PAGE + 0x2000], 0
        mov     eax, [directory]
        and     eax, 0xFF
        check   "A and D of a 4 MiB page", eax, 0xE7
        pf      "absent", 0, WINDOW, mov al, [WINDOW]
        map     0, PAGE + 1
        pf      "read-only", 3, WINDOW, mov [WINDOW], al
        mov     eax, [WINDOW]
        check   "a page of 4 KiB", eax, 0xAAAA
        map     1, PAGE + 0x1003
        mov     [WINDOW + 0x1000], ecx
        mov     eax, [table + 4]
        check   "A and D", eax, PAGE + 0x1063
        pf      "across, second absent", 2, WINDOW + 0x2000, mov [WINDOW + 0x1FFE], eax
        map     2, PAGE + 0x3007
        mov     word ptr [PAGE + 0x2000], 0
        mov     dword ptr [WINDOW + 0x1FFE], 0x44332211
        movzx   eax, word ptr [PAGE + 0x3000]
        check   "across pages that are not neighbours", eax, 0x4433
        # no NX in two-level paging: bit 63 is not there; a reserved bit of PSE-36 (bit 21)
        mov     dword ptr [directory + 0x101 * 4], 0x200087
        pf      "reserved bit 21 of a 4 MiB page", 9, WINDOW + 0x400000, mov al, [WINDOW + 0x400000]
        mov     dword ptr [directory + 0x101 * 4], 0x000087 | (PAGE & 0xC00000)
        invlpg  [WINDOW + 0x400000]
        mov     eax, [WINDOW + 0x400000 + PAGE]
        check   "an alias by a 4 MiB page", eax, 0xAAAA
        ring3
        pf      "user store to a read-only page", 7, WINDOW, mov [WINDOW], eax
        pf      "user load from a supervisor page", 5, WINDOW + 0x1000, mov eax, [WINDOW + 0x1000]
        runs    "user store", mov [WINDOW + 0x2000], eax
        pf      "user load, absent", 4, 0x50000000, mov eax, [0x50000000]
        ring0
        # PSE off: bit 7 of a directory entry means nothing
        mov     dword ptr [directory + 0x102 * 4], offset table + 0x87
        mov     dword ptr [low_directory], offset low_table + 7
        mov     eax, offset directory
        mov     edi, offset low_table
        mov     eax, 7
2:      stosd
        add     eax, 0x1000
        cmp     eax, 0x400000
        jb      2b
        mov     eax, [directory]
        mov     dword ptr [directory], offset low_table + 7
        mov     eax, cr4
        and     eax, ~0x10
        mov     cr4, eax
        mov     eax, [WINDOW + 0x800000]
        check   "without PSE bit 7 is ignored", eax, 0xAAAA
        # PAE: the four PDPTEs are loaded with CR3
        mov     eax, cr0
        and     eax, 0x7FFFFFFF
        mov     cr0, eax
        jmp     3f
3:      mov     dword ptr [pdpt], offset pae_directory + 1
        mov     dword ptr [pdpt + 8], offset pae_window + 1
        mov     dword ptr [pae_directory], 0x87
        mov     dword ptr [pae_directory + 8], 0x200087
        mov     dword ptr [pae_window], offset pae_table + 7
        mov     ecx, 0xC0000080
        rdmsr
        or      eax, 0x800              # NXE
        wrmsr
        mov     eax, cr4
        or      eax, 0x20
        mov     cr4, eax
        mov     eax, offset pdpt
        mov     cr3, eax
        mov     eax, cr0
        or      eax, 0x80000000
        mov     cr0, eax
        jmp     4f
4:      mov     dword ptr [pae_table], PAGE + 3
        mov     eax, [WINDOW]
        check   "PAE: a page of 4 KiB", eax, 0xAAAA
        mov     eax, [pae_table]
        check   "PAE: A", eax, PAGE + 0x23
        mov     eax, [pae_directory + 8]
        and     eax, 0xFF
        check   "PAE: A and D of a 2 MiB page", eax, 0xE7
        mov     dword ptr [pae_table + 8], PAGE + 0x1003
        mov     dword ptr [pae_table + 12], 0x80000000
        mov     byte ptr [PAGE + 0x1000], 0xC3
        mov     ecx, WINDOW + 0x1000
        mov     dword ptr [resume], offset 5f
        call    ecx
5:      pop     eax
        check   "PAE: NX", [last_error], 0x11
        check   "PAE: NX, CR2", [last_cr2], WINDOW + 0x1000
        mov     dword ptr [pae_table + 20], 0x00100000
        mov     dword ptr [pae_table + 16], PAGE + 3
        pf      "PAE: reserved bit 52", 9, WINDOW + 0x2000, mov al, [WINDOW + 0x2000]
        mov     dword ptr [pdpt + 8], 0                 # Intel looks at it with CR3 only, AMD may at any time (SDM vol. 3, 4.4.1)
        mov     eax, cr3
        mov     cr3, eax
        pf      "PAE: a PDPTE is gone with CR3", 0, WINDOW, mov eax, [WINDOW]
        mov     dword ptr [pdpt + 16], 0x1E7            # reserved bits
        mov     eax, cr3
        faults  "PAE: reserved bits of a PDPTE: #GP of MOV CR3", 13, 0, mov cr3, eax
        mov     dword ptr [pdpt + 16], 0
        # SMEP and SMAP of supervisor code on user pages
        mov     eax, cr4
        mov     ebx, eax
        or      eax, 1 << 21
        and     dword ptr [pae_directory], ~4
        and     dword ptr [pae_directory + 8], ~4
        mov     dword ptr [pdpt + 8], offset pae_window + 1
        mov     ecx, cr3
        mov     cr3, ecx
        mov     dword ptr [pae_table], PAGE + 7
        mov     cr4, eax
        pf      "SMAP", 1, WINDOW, mov eax, [WINDOW]
        stac
        mov     eax, [WINDOW]
        clac
        check   "STAC", eax, 0xAAAA
        mov     cr4, ebx
        or      dword ptr [pae_directory], 4
        or      dword ptr [pae_directory + 8], 4
        mov     ecx, cr3
        mov     cr3, ecx
        # off: linear is physical
        mov     eax, cr0
        and     eax, 0x7FFFFFFF
        mov     cr0, eax
        jmp     6f
6:      mov     eax, [PAGE]
        check   "paging off", eax, 0xAAAA
        ret

        .bss
        .balign 4096
directory: .skip 4096
table:  .skip   4096
low_directory: .skip 4096
low_table: .skip 4096
pdpt:   .skip   4096
pae_directory: .skip 4096
pae_window: .skip 4096
pae_table: .skip 4096
