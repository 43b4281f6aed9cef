"""Rows: virtual-8086 mode and its extensions (VME, PVI), real mode, and paging of protected mode."""

from itertools import product

from behaviour.row import DE, GP0, SS, UD, Row, fault, gp, page_fault, runs, trap
from behaviour.rows_paging import FETCH, RSVD, P, U, W, page_fault_of

VME = "or_cr 4, 1\n"
PVI = "or_cr 4, 2\n"


def _virtual() -> list[Row]:
    manual = "SDM 3B 20.3.3"
    vme = ("vme",)
    pushed = "pushf\npop ax"
    return [
        Row("VME: CLI clears VIF", manual, "cli", runs(**{"rflags&0x80200": "IF"}), VME, "v86", "IF | VIF", vme),
        Row("VME: STI sets VIF", manual, "sti", runs(**{"rflags&0x80200": "VIF"}), VME, "v86", "0", vme),
        Row("VME: STI with VIP", manual, "sti", GP0, VME, "v86", "VIP", vme),
        Row("VME: STI with VIP while VIF is 1", manual, "sti", GP0, VME, "v86", "VIP | VIF", vme),
        Row("VME: CLI with IOPL 3 clears IF", manual, "cli", runs(**{"rflags&0x80200": "VIF"}), VME, "v86", "IF | VIF | IOPL3",
            vme),
        Row("VME: PUSHF gives VIF as IF, and IOPL 3", manual, pushed, runs(**{"rax&0x3200": 0x3200}), VME, "v86", "VIF", vme),
        Row("VME: PUSHF with VIF 0", manual, pushed, runs(**{"rax&0x3200": 0x3000}), VME, "v86", "IF", vme),
        Row("VME: POPF sets VIF", manual, "push 0x0202\npopf", runs(**{"rflags&0x83200": "VIF"}), VME, "v86", "0", vme),
        Row("VME: POPF clears VIF", manual, "push 0x0002\npopf", runs(**{"rflags&0x83200": "IF"}), VME, "v86", "IF | VIF", vme),
        Row("VME: POPF with TF", manual, "push 0x0102\npopf", fault(13, 0), VME, "v86", "0", vme),
        Row("VME: POPF of IF with VIP", manual, "push 0x0202\npopf", fault(13, 0), VME, "v86", "VIP", vme),
        Row("VME: PUSHFD with IOPL 0", manual, "pushfd", GP0, VME, "v86", "0", vme),
        Row("VME: POPFD with IOPL 0", manual, "popfd", GP0, VME, "v86", "0", vme),
        Row("VME: IRETD with IOPL 0", manual, "iretd", GP0, VME, "v86", "0", vme),
        Row("VME: IRET sets VIF", manual, "push 0x0202\npush 0\npush offset @here\niret\n@here:nop",
            runs(**{"rflags&0x80200": "VIF"}), VME, "v86", "0", vme),
        Row("VME: INT n that the bitmap redirects", "SDM 3B 20.3.3.4", "int 0x60", runs("low_ud2", cs=0, rsp="0xF000 - 6",
            **{"rflags&VM": "VM"}),
            f"{VME}mov dword ptr [0x60 * 4], offset low_ud2", "v86", "0", vme),
        Row("VME: INT n that the bitmap does not redirect, IOPL 0", "SDM 3B 20.3.3.4", "int 0x60", GP0,
            f"{VME}bts dword ptr [tss32 + 0x68 + 12], 0", "v86", "0", vme),
        Row("VME: INT n that the bitmap does not redirect, IOPL 3", "SDM 3B 20.3.3.4", "int 0x60", trap(0x60),
            f"{VME}bts dword ptr [tss32 + 0x68 + 12], 0\nmov byte ptr [idt32 + 8 * 0x60 + 5], 0xEE", "v86", "IOPL3", vme),
        Row("INT n with IOPL 3 and a gate of DPL 0", "SDM 3B 20.3.1", "int 0x60", gp("0x60 * 8 + 2"), "", "v86", "IOPL3"),
        Row("INT3 of virtual-8086 mode with IOPL 0", "SDM 3B 20.3.1", "int3", trap(3), "mov byte ptr [idt32 + 8 * 3 + 5], 0xEE",
            "v86"),
        Row("PVI: CLI at CPL 3 clears VIF", "SDM 3B 20.4", "cli", runs(**{"rflags&0x80200": "IF"}), PVI, "prot3", "IF | VIF", vme),
        Row("PVI: STI at CPL 3 sets VIF", "SDM 3B 20.4", "sti", runs(**{"rflags&0x80200": "VIF"}), PVI, "prot3", "0", vme),
        Row("PVI: STI at CPL 3 with VIP", "SDM 3B 20.4", "sti", GP0, PVI, "prot3", "VIP", vme),
        Row("PVI: CLI at CPL 2", "SDM 3B 20.4", "cli", GP0, PVI, "prot2", "IF", vme),
        Row("PVI: CLI at CPL 3 with IOPL 3 clears IF", "SDM 3B 20.4", "cli", runs(**{"rflags&0x80200": "VIF"}), PVI, "prot3",
            "IF | VIF | IOPL3", vme),
        Row("PVI: PUSHF at CPL 3 gives IF itself", "SDM 3B 20.4", "pushfd\npop eax", runs(**{"rax&0x200": 0}), PVI, "prot3", "VIF",
            vme),
        Row("PVI: POPF at CPL 3 changes neither", "SDM 3B 20.4", "push 0x202\npopfd", runs(**{"rflags&0x80200": 0}), PVI, "prot3",
            "0", vme),
        Row("PVI: CLI at CPL 3 in compatibility mode", "SDM 3B 20.4", "cli", runs(**{"rflags&0x80200": "IF"}), PVI, "compat3",
            "IF | VIF", vme),
        Row("PVI: STI at CPL 3 in 64-bit mode", "SDM 3B 20.4", "sti", runs(**{"rflags&0x80200": "VIF"}), PVI, "long3", "0", vme),
        Row("#UD of virtual-8086 mode: CS and SS are paragraphs", "SDM 3B 20.3.1", "ud2", fault(UD, cs=0, ss=0), mode="v86"),
        Row("a divide error of virtual-8086 mode", "SDM 3B 20.3.1", "div cl", fault(DE), mode="v86"),
        Row("virtual-8086 mode: an access beyond 64 KiB", "SDM 3B 20.2", "mov ax, [bx]", GP0, "mov ebx, 0xFFFF", "v86"),
        Row("virtual-8086 mode: an access beyond 64 KiB by SS", "SDM 3B 20.2", "mov ax, ss:[bx]", fault(SS, 0), "mov ebx, 0xFFFF",
            "v86"),
        Row("virtual-8086 mode: a 32-bit offset beyond 64 KiB", "SDM 3B 20.2", "mov al, [ebx]", GP0, "mov ebx, 0x10000", "v86"),
        Row("virtual-8086 mode: a page that CPL 3 may not use", "SDM 3B 20.2", "mov al, [bx]", page_fault(P | U, 0xE000),
            "and dword ptr [pt32_0 + 4 * 0xE], ~4\nmov ebx, 0xE000", "v86",
            paging=1, after="or dword ptr [pt32_0 + 4 * 0xE], 4"),
    ]  # fmt: skip


def _real() -> list[Row]:
    manual = "SDM 3B 20.1"
    return [
        Row("real mode: an access at FFFFh", manual, "mov ax, [bx]", fault(13), "mov ebx, 0xFFFF", "real"),
        Row("real mode: a byte at FFFFh", manual, "mov al, [bx]", runs(), "mov ebx, 0xFFFF", "real"),
        Row("real mode: an access beyond 64 KiB by SS", manual, "mov ax, ss:[bx]", fault(SS), "mov ebx, 0xFFFF", "real"),
        Row("real mode: #DE", manual, "div cl", fault(DE), mode="real"),
        Row("real mode: LOCK on NOP", manual, ".byte 0xF0, 0x90", fault(UD), mode="real"),
        Row("real mode: an interrupt beyond the limit of the IDT", "SDM 3B 20.1.4", "int 0x60", fault(13),
            "mov word ptr [low_scratch], 0x17F\nmov dword ptr [low_scratch + 2], 0\n"
            "lidt [low_scratch]", "real"),
        Row("real mode: INT n pushes FLAGS, CS, IP", "SDM 3B 20.1.4", "int 0x60",
            trap(0x60, handler_rsp="0xF000 - 6", cs=0), mode="real"),
        Row("real mode: INT n keeps SP of 16 bits", "SDM 3B 20.1.4", "mov sp, 4\nint 0x60", trap(0x60), mode="real"),
        Row("real mode: LGDT and SMSW are allowed", "SDM 2B SMSW", "smsw ax", runs(**{"rax&0xFFFF": 0x32}), mode="real"),
        Row("real mode: MOV from CR0", "SDM 2B MOV CR", "mov eax, cr0", runs(rax=0x32), mode="real"),
        Row("real mode: IRET loads FLAGS", "SDM 2A IRET", "push 0x7202\npush 0\npush offset @here\niret\n@here:nop",
            runs(**{"rflags&0x7200": 0x7200}), mode="real"),
        Row("real mode: POPF sets IOPL and NT", "SDM 2B POPF", "push 0x7002\npopf", runs(**{"rflags&0x7000": 0x7000}), mode="real"),
        Row("real mode: CLI and STI always", "SDM 2A CLI", "sti\ncli", runs(), mode="real"),
        Row("real mode: BOUND", "SDM 2A BOUND", "bound ax, [low_scratch]", fault(5), "mov dword ptr [low_scratch], 0\nmov eax, 1",
            "real"),
        Row("real mode: no #AC", "SDM 3A 6.15 #AC", "mov eax, [bx + 1]", runs(), "or_cr 0, 0x40000\nmov ebx, offset low_scratch",
            "real", "AC"),
    ]  # fmt: skip


def _legacy_paging() -> list[Row]:
    """32-bit and PAE paging: rights of CPL 3, the I/D bit, reserved bits (SDM vol. 3, 4.3, 4.4, 4.7)."""
    rows = []
    access = {"read": "mov al, [ebx]", "write": "mov [ebx], al", "fetch": "jmp ebx"}
    for paging, (word, code), cpl, user, write, nx in product(
        (1, 2), access.items(), (0, 3), (True, False), (True, False), (False, True)
    ):
        if paging == 1 and nx:
            continue
        error = page_fault_of(word, cpl, user=user, write=write, nx=nx)
        if error is not None and paging == 1:
            error &= ~FETCH  # no I/D without PAE
        bits = P | (W if write else 0) | (U if user else 0)
        table = "pt32_w" if paging == 1 else "pt_w"
        setup = f"mov ebx, WIN32\nmov word ptr [win_frames], 0x0B0F\nmov dword ptr [{table}], offset win_frames + {bits}"
        if nx:
            setup += "\nmov dword ptr [pt_w + 4], 0x80000000"
        at = "WIN32" if word == "fetch" else "@at"
        expected = (runs("WIN32") if word == "fetch" else runs()) if error is None else page_fault(error, "WIN32", at)
        name = f"{'PAE' if paging == 2 else '32-bit'} paging: {word} at CPL {cpl}, U/S {user:d} R/W {write:d} XD {nx:d}"
        rows.append(Row(name, "SDM 3A 4.6.1, 4.7", code, expected, setup, f"prot{cpl}", paging=paging))
    manual = "SDM 3A 4.3, 4.7"
    at = "mov ebx, WIN32\n"
    big = "mov dword ptr [pd32 + 4 * 256], 0x00400087"
    return [
        *rows,
        Row("32-bit paging: a PTE that is not present", manual, "mov al, [ebx]", page_fault(0, "WIN32"),
            f"{at}mov dword ptr [pt32_w], 0", "prot0", paging=1),
        Row("32-bit paging: a PDE that is not present", manual, "mov [ebx], al", page_fault(W | U, "WIN32"),
            f"{at}mov dword ptr [pd32 + 4 * 256], 0", "prot3", paging=1),
        Row("32-bit paging: a page of 4 MiB", manual, "mov al, [ebx]", runs(**{"rax&0xFF": 0x5A}),
            f"{at}mov byte ptr [LOW_DATA], 0x5A\n{big}\nor_cr 4, 0x10\nadd ebx, 0x300000", "prot3", paging=1),
        Row("32-bit paging: A and D of a PDE of 4 MiB", "SDM 3A 4.8", "mov [ebx], al", runs(**{"[pd32 + 4 * 256]&0x60": 0x60}),
            f"{at}{big}\nor_cr 4, 0x10\nadd ebx, 0x300000", "prot3", paging=1),
        Row("32-bit paging: bit 21 of a PDE of 4 MiB", manual, "mov al, [ebx]", page_fault(P | RSVD, "WIN32"),
            f"{at}mov dword ptr [pd32 + 4 * 256], 0x00600087\nor_cr 4, 0x10", "prot0", paging=1),
        Row("32-bit paging: PS counts for nothing without CR4.PSE", manual, "mov al, [ebx]", runs(),
            f"{at}or dword ptr [pd32 + 4 * 256], 0x80", "prot0", paging=1),
        Row("32-bit paging: A and D", "SDM 3A 4.8", "mov [ebx], al", runs(**{"[pd32 + 4 * 256]&0x60": 0x20,
            "[pt32_w]&0x60": 0x60}), at, "prot3", paging=1),
        Row("PAE paging: bit 62 of a PTE", "SDM 3A 4.4.2, 4.7", "mov al, [ebx]", page_fault(P | RSVD, "WIN32"),
            f"{at}mov dword ptr [pt_w + 4], 0x40000000", "prot0", paging=2),
        Row("PAE paging: bit 52 of a PDE", "SDM 3A 4.4.2, 4.7", "mov al, [ebx]", page_fault(P | RSVD, "WIN32"),
            f"{at}mov dword ptr [pd_w + 4], 0x100000", "prot0", paging=2),
        Row("PAE paging: a PDPTE that is not present", "SDM 3A 4.4.2, 4.7", "mov al, [ebx]", page_fault(0, "0x80000000"),
            "mov ebx, 0x80000000", "prot0", paging=2),
        Row("PAE paging: A and D", "SDM 3A 4.8", "mov [ebx], al", runs(**{"[pd_w]&0x60": 0x20, "[pt_w]&0x60": 0x60}), at, "prot3",
            paging=2),
        Row("PAE paging: no A in a PDPTE", "SDM 3A 4.4.1", "mov [ebx], al", runs(**{"[pdpt_pae + 8]&0x20": 0}), at, "prot3",
            paging=2),
        Row("PAE paging: a page of 2 MiB", "SDM 3A 4.4.2", "mov al, [ebx]", runs(**{"rax&0xFF": 0x5A, "[pd_w]&0x60": 0x20}),
            f"{at}mov byte ptr [LOW_DATA], 0x5A\nmov dword ptr [pd_w], 0x00600087\nadd ebx, 0x100000", "prot3", paging=2),
        Row("no paging: addresses are physical", "SDM 3A 4.1.1", "mov al, [ebx]", runs(**{"rax&0xFF": 0x5A}),
            "mov ebx, LOW_DATA\nmov byte ptr [ebx], 0x5A", "prot0"),
    ]  # fmt: skip


def rows() -> list[Row]:
    """All of them."""
    return [*_virtual(), *_real(), *_legacy_paging()]
