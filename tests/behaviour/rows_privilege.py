"""Rows: privileged instructions, IOPL and the I/O bitmap, UMIP, TSD, alignment, canonical addresses, debug registers."""

from itertools import product

from behaviour.row import AC, DB, GP0, RUNS, SS, Expected, Row, fault, page_fault, runs, ud

_PRIVILEGED = {
    "hlt": "HLT", "clts": "CLTS", "invd": "INVD", "wbinvd": "WBINVD", "rdmsr": "RDMSR", "wrmsr": "WRMSR", "lmsw ax": "LMSW",
        "lldt ax": "LLDT", "ltr ax": "LTR",
    "invlpg [user_data]": "INVLPG", "lgdt [user_data]": "LGDT", "lidt [user_data]": "LIDT",
    **{f"mov {{r}}, cr{n}": "MOV CR" for n in (0, 2, 3, 4)}, **{f"mov cr{n}, {{r}}": "MOV CR" for n in (0, 2, 3, 4)},
    **{f"mov {{r}}, dr{n}": "MOV DR" for n in (0, 3, 6, 7)}, **{f"mov dr{n}, {{r}}": "MOV DR" for n in (0, 3, 6, 7)},
}  # fmt: skip


def _privileged() -> list[Row]:
    rows = []
    for (code, title), (mode, cpl) in product(
        _PRIVILEGED.items(), [("long", 1), ("long", 2), ("long", 3), ("compat", 3), ("prot", 1), ("prot", 3)]
    ):
        text = code.format(r="rax" if mode == "long" else "eax")
        rows.append(Row(f"{text} in {mode} mode at CPL {cpl}", f"SDM 2 {title}; 3A 5.9", text, GP0, mode=f"{mode}{cpl}"))
    rows += [
        Row(f"{code} at CPL 3", "SDM 3A 5.9", code, GP0, mode="long3")
        for code in ("mov rax, cr8", "mov cr8, rax", "swapgs", "sysretq")
    ]
    real = {"lldt ax", "ltr ax"}
    rows += [
        Row(f"{code.format(r='eax')} in virtual-8086 mode", "SDM 3B 20.2.8", code.format(r="eax"), GP0, mode="v86", flags="IOPL3")
        for code in _PRIVILEGED
        if code not in real and "user_data" not in code
    ]
    for code in ("sldt ax", "str ax", "verr ax", "verw ax", "lar ax, cx", "lsl ax, cx", "arpl ax, cx"):
        manual = f"SDM 2 {code.split()[0].upper()}"
        rows.append(Row(f"{code} in real mode", manual, code, ud, mode="real"))
        rows.append(Row(f"{code} in virtual-8086 mode", manual, code, ud, mode="v86", flags="IOPL3"))
    return rows


def _iopl() -> list[Row]:
    manual = "SDM 1 19.5.1"
    rows = []
    for code, cpl, iopl in product(("cli", "sti", "in al, 0x80", "out 0x80, al"), (0, 1, 2, 3), (0, 1, 2, 3)):
        expected = RUNS if cpl <= iopl else GP0
        rows.append(
            Row(f"{code} at CPL {cpl} with IOPL {iopl}", manual, code, expected, mode=f"long{cpl}", flags=f"{iopl << 12:#x}")
        )
    for mode in ("compat3", "prot3"):
        for code in ("cli", "sti", "in eax, dx", "out dx, ax", "insb", "outsb"):
            rows.append(Row(f"{code} with IOPL 0, {mode}", manual, code, GP0, "mov edx, 0x80", mode))
    for code, iopl in product(("cli", "sti", "pushf"), (0, 3)):
        name = f"{code} in virtual-8086 mode with IOPL {iopl}"
        rows.append(Row(name, "SDM 3B 20.2.8", code, RUNS if iopl else GP0, mode="v86", flags=f"{iopl << 12:#x}"))
    for pops, cpl, iopl in product((0x3202, 0x2), (0, 1, 3), (0, 1, 3)):
        old = iopl << 12
        new = pops if cpl == 0 else old | pops & 0x200 if cpl <= iopl else old
        rows.append(
            Row(
                f"popfq of {pops:#x} at CPL {cpl} with IOPL {iopl}",
                "SDM 2B POPF",
                f"push {pops:#x}\npopfq",
                runs(**{"rflags&0x3200": new & 0x3200}),
                mode=f"long{cpl}",
                flags=f"{old:#x}",
            )
        )
    rows += [
        Row("popfq does not set VM, VIF, VIP", "SDM 2B POPF", "push 0x1A0002\npopfq", runs(**{"rflags&0x1A0000": 0})),
        Row("popfq clears RF", "SDM 2B POPF", "push 0x10002\npopfq\npushfq\npop rax", runs(**{"rax&RF": 0})),
        Row("popfq sets AC, ID, NT", "SDM 2B POPF", "push 0x244002\npopfq", runs(**{"rflags&0x244000": 0x244000})),
        Row("popf of 16 bits keeps the upper half", "SDM 2B POPF", ".byte 0x66\npushf\n.byte 0x66\npopf",
            runs(**{"rflags&AC": "AC"}), flags="AC"),
        Row("pushfq: VM and RF read 0", "SDM 2B PUSHF", "pushfq\npop rax", runs(**{"rax&0x30000": 0}), flags="RF"),
    ]  # fmt: skip
    return rows


def _bitmap() -> list[Row]:
    """The I/O permission bit map (SDM vol. 1, 19.5.2): each port of an access must be open, two bytes are read."""
    rows = []
    for port, size in product((0x80, 0x85, 0x86, 0x87, 0xE4), (1, 2, 4)):
        register = {1: "al", 2: "ax", 4: "eax"}[size]
        for shut in sorted({-1, 0, size - 1}):
            setup = f"mov edx, {port:#x}\nmov qword ptr [tss + 0x88 + {(port // 8)}], 0"
            if shut >= 0:
                setup += f"\nbts dword ptr [tss + 0x88 + {(port + shut) // 8}], {(port + shut) % 8}"
            name = "open" if shut < 0 else f"port {port + shut:#x} closed"
            rows.append(
                Row(
                    f"in of {size} bytes from port {port:#x}, {name}",
                    "SDM 1 19.5.2",
                    f"in {register}, dx",
                    RUNS if shut < 0 else GP0,
                    setup,
                    "long3",
                )
            )
    shorten = (
        "segment T0, 0x89, 0, 0, {limit:#x}\nmov dword ptr [gdt + T0 + 8], 0\nmov eax, offset tss\n"
        "mov [gdt + T0 + 2], ax\nshr eax, 16\nmov [gdt + T0 + 4], al\nmov eax, T0\nltr ax\n"
    )
    opened = "mov dword ptr [tss + 0x88], 0\nmov edx, {port}\n"
    return [
        *rows,
        Row("the bitmap ends with the byte of the port", "SDM 1 19.5.2", "in al, dx", GP0,
            opened.format(port=0) + shorten.format(limit=0x88), "long3"),
        Row("the bitmap ends one byte behind that of the port", "SDM 1 19.5.2", "in al, dx", RUNS,
            opened.format(port=0) + shorten.format(limit=0x89), "long3"),
        Row("the bitmap lies beyond the limit of the TSS", "SDM 1 19.5.2", "in al, dx", GP0,
            opened.format(port=0) + "mov word ptr [tss + 0x66], 0xFFFF", "long3"),
        Row("a TSS without a map", "SDM 1 19.5.2", "in al, dx", GP0, opened.format(port=0) + shorten.format(limit=0x67), "long3"),
        Row("the bitmap of protected mode", "SDM 1 19.5.2", "in al, dx", RUNS,
            "mov word ptr [tss32 + 0x88 + 0x10], 0\nmov edx, 0x80", "prot3"),
        Row("the bitmap of protected mode, closed", "SDM 1 19.5.2", "in al, dx", GP0, "mov edx, 0x80", "prot3"),
        Row("the bitmap holds in virtual-8086 mode whatever IOPL is", "SDM 3B 20.2.7", "in al, dx", GP0, "mov edx, 0x80", "v86",
            flags="IOPL3"),
        Row("an open port in virtual-8086 mode with IOPL 0", "SDM 3B 20.2.7", "in al, dx", RUNS,
            "mov word ptr [tss32 + 0x88 + 0x10], 0\nmov edx, 0x80", "v86"),
    ]  # fmt: skip


def _user_modes() -> list[Row]:
    rows = []
    stores = {"sgdt [user_data]": "SGDT", "sidt [user_data]": "SIDT", "sldt eax": "SLDT", "str eax": "STR", "smsw eax": "SMSW"}
    for (code, name), umip, (mode, cpl) in product(
        stores.items(), (False, True), (("long", 0), ("long", 1), ("long", 3), ("compat", 3))
    ):
        rows.append(
            Row(
                f"{code.split()[0]} in {mode} mode at CPL {cpl}{', UMIP' if umip else ''}",
                f"SDM 2B {name}",
                code,
                GP0 if umip and cpl else RUNS,
                "or_cr 4, 0x800" if umip else "",
                f"{mode}{cpl}",
                needs=("umip",) if umip else (),
            )
        )
    for code, cpl, on in product(("rdtsc", "rdtscp"), (0, 1, 3), (False, True)):
        name = f"{code} at CPL {cpl}{', CR4.TSD' if on else ''}"
        expected = GP0 if on and cpl else RUNS
        needs = ("rdtscp",) if code == "rdtscp" else ()
        rows.append(Row(name, f"SDM 2B {code.upper()}", code, expected, "or_cr 4, 4" if on else "", f"long{cpl}", needs=needs))
    rows += [
        Row("rdpmc at CPL 3 without CR4.PCE", "SDM 2B RDPMC", "rdpmc", GP0, mode="long3"),
        Row("rdpmc of a counter that does not exist", "SDM 2B RDPMC", "rdpmc", GP0, "mov ecx, 0x3FFFFFF"),
        Row("monitor at CPL 3", "SDM 2B MONITOR", "monitor", ud, mode="long3"),
        Row("mwait at CPL 3", "SDM 2B MWAIT", "mwait", ud, mode="long3"),
        Row("cpuid at CPL 3", "SDM 2A CPUID", "cpuid", RUNS, mode="long3"),
        Row("stac at CPL 3", "SDM 2B STAC", "stac", ud, "or_cr 4, 0x200000", "long3", needs=("smap",)),
        Row("clac at CPL 3", "SDM 2A CLAC", "clac", ud, "or_cr 4, 0x200000", "long3", needs=("smap",)),
        Row("vmcall without a hypervisor's leave", "SDM 3C 30.3", "vmcall", ud, needs=("amd",)),
        Row("vmxoff outside of VMX operation", "SDM 3C 30.3", "vmxoff", ud),
        Row("vmrun without EFER.SVME", "APM 3 VMRUN", "vmrun rax", ud, needs=("amd",)),
        Row("clgi without EFER.SVME", "APM 3 CLGI", "clgi", ud, needs=("amd",)),
        Row("rsm outside of SMM", "SDM 2B RSM", "rsm", ud),
        Row("getsec without CR4.SMXE", "SDM 2D GETSEC", ".byte 0x0F, 0x37", ud),
        Row("rdpkru without CR4.PKE", "SDM 2B RDPKRU", ".byte 0x0F, 0x01, 0xEE", ud),
    ]  # fmt: skip
    return rows


def _alignment() -> list[Row]:
    """#AC(0): CR0.AM, RFLAGS.AC, CPL 3 (SDM vol. 3, 6.15 #AC, table 6-7)."""
    rows = []
    on = "or_cr 0, 0x40000\nmov ebx, offset user_data\n"
    sizes = {"mov ax, [rbx + {}]": 2, "mov eax, [rbx + {}]": 4, "mov rax, [rbx + {}]": 8, "mov [rbx + {}], eax": 4,
        "add [rbx + {}], rax": 8, "fld dword ptr [rbx + {}]": 4,
             "fld qword ptr [rbx + {}]": 8, "fld tbyte ptr [rbx + {}]": 8, "push [rbx + {}]": 8, "cmpxchg8b [rbx + {}]": 8,
                 "movq xmm0, [rbx + {}]": 8, "movss xmm0, [rbx + {}]": 4}  # fmt: skip
    for (code, size), offset in product(sizes.items(), (0, 1, 2, 4)):
        expected = fault(AC, 0) if offset % size else RUNS
        rows.append(Row(f"#AC: {code.format(offset)}", "SDM 3A 6.15 #AC", code.format(offset), expected, on, "long3", "AC"))
    odd = "mov eax, [rbx + 1]"
    rows += [
        Row("#AC: not without RFLAGS.AC", "SDM 3A 6.15 #AC", odd, RUNS, on, "long3"),
        Row("#AC: not without CR0.AM", "SDM 3A 6.15 #AC", odd, RUNS, "mov ebx, offset user_data", "long3", "AC"),
        *(Row(f"#AC: not at CPL {cpl}", "SDM 3A 6.15 #AC", odd, RUNS, on, f"long{cpl}", "AC") for cpl in (0, 1, 2)),
        Row("#AC: in compatibility mode", "SDM 3A 6.15 #AC", odd.replace("rbx", "ebx"), fault(AC, 0), on, "compat3", "AC"),
        Row("#AC: in protected mode", "SDM 3A 6.15 #AC", odd.replace("rbx", "ebx"), fault(AC, 0), on, "prot3", "AC"),
        Row("#AC: in virtual-8086 mode", "SDM 3A 6.15 #AC", "mov eax, [bx + 1]", fault(AC, 0), "or_cr 0, 0x40000\n"
            "mov ebx, offset low_scratch", "v86", "AC"),
        Row("#AC: a byte", "SDM 3A 6.15 #AC", "mov al, [rbx + 1]", RUNS, on, "long3", "AC"),
        Row("#AC: MOVUPS on Intel", "SDM 3A 6.15 #AC", "movups xmm0, [rbx + 4]", Expected(rip="@behind"), on, "long3", "AC",
            needs=("intel",)),
        Row("#AC: MOVUPS on AMD", "APM 2 8.2.18", "movups xmm0, [rbx + 8]", fault(AC, 0), on, "long3", "AC", needs=("amd",)),
        Row("#GP before #AC: not canonical", "SDM 3A 6.9", "mov eax, [rbx + 1]", GP0, "or_cr 0, 0x40000\nmovabs rbx, NONCANON",
            "long3", "AC"),
        Row("#AC: not for descriptors that the CPU reads", "SDM 3A 6.15 #AC", "mov ds, eax", RUNS,
            f"{on}mov word ptr [scratch], GDT_LIMIT\nmov qword ptr [scratch + 2], offset gdt\nlgdt [scratch]\nmov eax, UDATA",
                "long3", "AC"),
        Row("#AC: the stack", "SDM 3A 6.15 #AC", "push rax", fault(AC, 0), "or_cr 0, 0x40000", "long3", "AC", rsp="ustack - 12"),
    ]  # fmt: skip
    return rows


def _canonical() -> list[Row]:
    """Addresses that are not canonical (SDM vol. 1, 3.3.7.1; vol. 3, 6.15 #SS, #GP)."""
    rows = []
    for cpl, (code, stack) in product((0, 3), {
        "mov al, [rbx]": False, "mov [rbx], al": False, "mov al, [rbp]": True, "mov [rbp + rcx], al": True,
            "inc dword ptr [rbx]": False, "lock inc dword ptr [rbx]": False,
        "mov al, ds:[rbp]": True, "mov al, fs:[rbp]": False, "movups xmm0, [rbx]": False, "fld qword ptr [rbp]": True,
            "jmp [rbx]": False, "call [rbx]": False,
        "lodsb": False, "stosb": False, "cmpsb": False, "xlatb": False, "mov ax, [rbx + 2]": False, "push [rbx]": False,
            "bt [rbx], eax": False, "lgdt [rbx]": False,
        "prefetcht0 [rbx]": None, "lea rax, [rbx]": None, "nop dword ptr [rbx]": None,
    }.items()):  # fmt: skip
        if code.startswith("lgdt") and cpl == 3:
            continue
        expected = RUNS if stack is None else fault(SS, 0) if stack else GP0
        setup = "movabs rbx, NONCANON\nmov rbp, rbx\nmov rsi, rbx\nmov rdi, rbx"
        rows.append(Row(f"not canonical: {code} at CPL {cpl}", "SDM 1 3.3.7.1", code, expected, setup, f"long{cpl}"))
    rows += [
        Row(f"not canonical: {code} with RSP", "SDM 3A 6.15 #SS", code, fault(SS, 0), setup, "long3", rsp="NONCANON + 0x100")
        for code, setup in (("push rax", ""), ("pop rax", ""), ("pushfq", ""), ("popfq", ""), ("ret", ""), ("leave",
            "movabs rbp, NONCANON"), ("call rax", "mov eax, offset uland"),
                            ("enter 8, 0", ""), ("iretq", ""), ("push fs", ""), ("pop fs", ""))
    ]  # fmt: skip
    rows += [
        Row("across the end of the lower half", "SDM 1 3.3.7.1", "mov rax, [rbx]", GP0,
            "mov dword ptr [pml4 + 8 * 255], offset pdpt_w + 7\nmov dword ptr [pdpt_w + 0xFF8], offset pd_w + 7\n"
            "mov dword ptr [pd_w + 0xFF8], offset pt_w + 7\nmov dword ptr [pt_w + 0xFF8], offset win_frames + 7\n"
                "movabs rbx, NONCANON - 4",
            after="mov dword ptr [pml4 + 8 * 255], 0"),
        Row("the last bytes of the lower half", "SDM 3A 4.7", "mov rax, [rbx]", page_fault(0, "NONCANON - 8"),
            "movabs rbx, NONCANON - 8"),
        Row("the first bytes of the upper half", "SDM 3A 4.7", "mov rax, [rbx]", page_fault(0, "0xFFFF800000000000"),
            "movabs rbx, 0xFFFF800000000000"),
        Row("just below the upper half", "SDM 1 3.3.7.1", "mov rax, [rbx - 1]", GP0, "movabs rbx, 0xFFFF800000000000"),
        Row("a base of FS that leads to the gap", "SDM 1 3.3.7.1", "mov al, fs:[rbx]", GP0,
            "wrmsr64 0xC0000100, 0x7FFFFFFFF000\nmov ebx, 0x1000"),
        Row("a base of FS that leads out of the gap", "SDM 1 3.3.7.1", "mov al, fs:[rbx]", RUNS,
            "wrmsr64 0xC0000100, 0x1000\nmovabs rbx, -0x1000 + 0x100000"),
    ]  # fmt: skip
    return rows


def _debug() -> list[Row]:
    back = "mov rax, dr{}\nmov [seen_extra], rax"
    clean = "\nmov eax, 0xFFFF0FF0\nmov dr6, rax\nmov eax, 0x400\nmov dr7, rax"
    rows = []
    for n in (4, 5):
        rows += [
            Row(f"mov dr{n} with CR4.DE", "SDM 3B 17.2.2", f".byte 0x0F, 0x23, {0xC0 + 8 * n:#x}", ud, "or_cr 4, 8"),
            Row(f"mov from dr{n} with CR4.DE", "SDM 3B 17.2.2", f".byte 0x0F, 0x21, {0xC0 + 8 * n:#x}", ud, "or_cr 4, 8"),
        ]  # fmt: skip
    rows += [
        Row("mov from dr4 reads DR6", "SDM 3B 17.2.2", ".byte 0x0F, 0x21, 0xE0", runs(rax="0xFFFF0FF0"),
            "mov eax, 0xFFFF0FF0\nmov dr6, rax"),
        Row("mov from dr5 reads DR7", "SDM 3B 17.2.2", ".byte 0x0F, 0x21, 0xE8", runs(rax="0x400")),
        *(Row(f"mov dr{n}", "SDM 2B MOV DR", f".byte 0x44, 0x0F, 0x23, {0xC0 + 8 * (n - 8):#x}", ud) for n in (8, 12, 15)),
        *(Row(f"mov dr{n}: bit {bit}", "SDM 2B MOV DR", f"mov dr{n}, rax", GP0, f"mov eax, {base}\nbts rax, {bit}") for n,
            base in ((6, 0xFFFF0FF0), (7, 0x400)) for bit in (32, 47, 63)),
        *(Row(f"mov dr{n} holds 64 bits", "SDM 3B 17.2.6", f"mov dr{n}, rax", runs(extra=0x123456789ABCDEF0),
            "movabs rax, 0x123456789ABCDEF0", after=back.format(n)) for n in range(4)),
        Row("dr7: bit 10 is 1, bits 12, 14, 15 are 0", "SDM 3B 17.2.4", "mov dr7, rax", runs(extra=0x400), "mov eax, 0xD000",
            after=back.format(7) + clean),
        Row("dr6: reserved bits read 1, bit 12 reads 0", "SDM 3B 17.2.3", "mov dr6, rax",
            runs(**{"extra&0xFFFE17F0": "0xFFFE07F0"}), "mov eax, 0x1000", after=back.format(6) + clean),
        Row("GD: MOV from DR0 raises #DB, a fault", "SDM 3B 17.2.4", "mov rax, dr0", Expected(DB, then={"extra&0x600F": "0x2000"}),
            "mov eax, 0x2400\nmov dr7, rax", after=back.format(6) + clean),
        Row("GD: MOV to DR7", "SDM 3B 17.2.4", "mov dr7, rax", Expected(DB, then={"extra&0x600F": "0x2000"}),
            "mov eax, 0x2400\nmov dr7, rax", after=back.format(6) + clean),
        Row("GD is clear in the handler", "SDM 3B 17.2.4", "mov rax, dr3", Expected(DB, then={"extra": 0x400}),
            "mov eax, 0x2400\nmov dr7, rax", after=back.format(7) + clean),
        Row("TF: a trap behind the instruction", "SDM 3B 17.3.1.4", "nop\nnop", Expected(DB, rip="@at + 0",
            then={"extra&0x600F": "0x4000", "rflags&TF": "TF", "handler_rflags&TF": 0}), flags="TF",
            after=back.format(6) + clean),
        Row("ICEBP: no cause in DR6", "SDM 3B 17.3.1.6", ".byte 0xF1", Expected(DB, rip="@behind", then={"extra&0x600F": 0}),
            "mov eax, 0xFFFF0FF0\nmov dr6, rax", after=back.format(6) + clean),
        Row("an execution breakpoint: a fault, RF 0 pushed", "SDM 3B 17.3.1.1", "nop", Expected(DB, then={"extra&0x600F": 1,
            "rflags&RF": 0}),
            "mov eax, 0xFFFF0FF0\nmov dr6, rax\nmov eax, offset @at\nmov dr0, rax\nmov eax, 0x402\nmov dr7, rax",
                after=back.format(6) + clean),
        Row("a data breakpoint: a trap", "SDM 3B 17.3.1.2", "mov [user_data], eax", Expected(DB, rip="@behind",
            then={"extra&0x600F": 2}),
            "mov eax, 0xFFFF0FF0\nmov dr6, rax\nmov eax, offset user_data\nmov dr1, rax\nmov eax, 0xD00408\nmov dr7, rax", "long3",
                after=back.format(6) + clean),
        Row("RF suppresses an execution breakpoint once", "SDM 3B 17.3.1.1", "nop", RUNS,
            "mov eax, offset @at\nmov dr0, rax\nmov eax, 0x402\nmov dr7, rax", flags="RF", after="nop" + clean),
    ]  # fmt: skip
    return rows


def rows() -> list[Row]:
    """All of them."""
    return [*_privileged(), *_iopl(), *_bitmap(), *_user_modes(), *_alignment(), *_canonical(), *_debug()]
