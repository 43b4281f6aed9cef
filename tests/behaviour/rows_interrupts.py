"""Rows: gates of the IDT, stacks of the TSS, the order of exceptions, the double-fault table, what a handler finds in RFLAGS."""

from itertools import product

from behaviour.descriptors import EVERY
from behaviour.row import (
    BP,
    BR,
    DB,
    DE,
    DF,
    GP,
    GP0,
    MF,
    NM,
    NP,
    OF,
    PF,
    SS,
    TS,
    UD,
    XM,
    Expected,
    Row,
    fault,
    gp,
    page_fault,
    runs,
    trap,
    ud,
)  # fmt: skip

VECTOR = 0x60
SELF = f"{VECTOR} * 8 + 2"  # the error code that names the gate: IDT, EXT 0


def _software() -> list[Row]:
    """INT n against DPL, P and type of its gate (SDM vol. 2, INT n, "Operation")."""
    manual = "SDM 2A INT n"
    rows = []
    for mode, cpl, dpl, present in product(("long", "compat", "prot"), (0, 1, 3), (0, 1, 3), (True, False)):
        access = 0xE | dpl << 5 | (0x80 if present else 0)
        expected = gp(SELF) if dpl < cpl else fault(NP, SELF) if not present else trap(VECTOR)
        table = "idt32 + 8" if mode == "prot" else "idt + 16"
        rows.append(
            Row(
                f"int n, gate of DPL {dpl}{'' if present else ', not present'}, in {mode} mode at CPL {cpl}",
                manual,
                f"int {VECTOR}",
                expected,
                f"mov byte ptr [{table} * {VECTOR} + 5], {access}",
                f"{mode}{cpl}",
            )
        )
    for kind in EVERY[:16]:
        expected = trap(VECTOR) if kind.type in (14, 15) else gp(SELF)
        rows.append(
            Row(
                f"int n, {kind.name} in the IDT of long mode",
                manual,
                f"int {VECTOR}",
                expected,
                f"idt_access {VECTOR}, {kind.access(0)}",
            )
        )
    rows += [
        Row(f"int n, {kind.name} in the IDT of protected mode", manual, f"int {VECTOR}", gp(SELF),
            f"mov byte ptr [idt32 + 8 * {VECTOR} + 5], {kind.access(0)}",
            "prot0") for kind in EVERY[:16] if kind.type not in (5, 6, 7, 14, 15)
    ]  # fmt: skip
    for word, vector, mode in (
        ("int3", BP, "long3"),
        ("into", OF, "compat3"),
        ("int1", DB, "long3"),
        ("int3", BP, "prot3"),
        ("into", OF, "prot3"),
    ):
        table = "idt32 + 8" if mode == "prot3" else "idt + 16"
        code = "mov al, 0x7F\nadd al, 1\ninto" if word == "into" else ".byte 0xF1" if word == "int1" else word
        for dpl in (0, 3):
            expected = trap(vector) if dpl == 3 or word == "int1" else gp(f"{vector} * 8 + 2")
            rows.append(
                Row(
                    f"{word}, gate of DPL {dpl}, {mode}",
                    "SDM 2A INT n",
                    code,
                    expected,
                    f"mov byte ptr [{table} * {vector} + 5], {0x8E | dpl << 5}",
                    mode,
                )
            )
        absent = fault(NP, f"{vector} * 8 + {3 if word == 'int1' else 2}", rip="" if word == "int1" else "@at")
        rows.append(
            Row(
                f"{word}, gate not present, {mode}",
                "SDM 2A INT n; 3A 6.13",
                code,
                absent,
                f"mov byte ptr [{table} * {vector} + 5], 0x6E",
                mode,
            )
        )
    closed: dict[str, int | str] = {"handler_rflags&0x300": 0, "rflags&IF": "IF"}
    rows += [
        Row("into in 64-bit mode", manual, ".byte 0xCE", ud),
        Row("into without OF", manual, "into", runs(), mode="compat3"),
        Row("int n in virtual-8086 mode with IOPL 0", "SDM 3B 20.2.8", f"int {VECTOR}", GP0, mode="v86"),
        Row("int n in real mode", "SDM 3B 20.1.4", f"int {VECTOR}", trap(VECTOR, handler_rsp="0xF000 - 6"), mode="real"),
        Row("int n in real mode clears IF and TF", "SDM 3B 20.1.4", f"int {VECTOR}", trap(VECTOR, **closed),
            mode="real", flags="IF"),
        Row("int n beyond the limit of the IDT", manual, "int 0x90", gp("0x90 * 8 + 2")),
        Row("int n, half a gate within the limit", manual, "int 0x60", gp(SELF),
            "mov word ptr [scratch], 16 * 0x60 + 7\nmov qword ptr [scratch + 2], offset idt\nlidt [scratch]"),
        Row("int n, all of a gate within the limit", manual, "int 0x60", trap(VECTOR),
            "mov word ptr [scratch], 16 * 0x60 + 15\nmov qword ptr [scratch + 2], offset idt\nlidt [scratch]"),
    ]  # fmt: skip
    return rows


def _targets() -> list[Row]:
    """The code segment and offset of a gate, for INT n (EXT 0) and for an exception (EXT 1) (SDM vol. 3, 6.12.1, 6.14.1)."""
    manual = "SDM 2A INT n; 3A 6.13"
    wrong: dict[str, tuple[str, str, int, int | str]] = {
        "a null code segment": ("0", "", GP, 0),
        "code outside of the GDT": ("OUTSIDE", "", GP, "OUTSIDE"),
        "data": ("KDATA", "", GP, "KDATA"),
        "32-bit code": ("K32", "", GP, "K32"),
        "code with L and D": ("T0", "segment T0, 0x9B, 0xE\n", GP, "T0"),
        "code that is not present": ("T0", "segment T0, 0x1B, 0xA\n", NP, "T0"),
        "a TSS": ("TSS", "", GP, "TSS"),
    }
    rows = []
    for name, (code, setup, vector, error) in wrong.items():
        rows.append(
            Row(f"int n, gate to {name}", manual, f"int {VECTOR}", fault(vector, error), f"{setup}gate {VECTOR}, {code}, uland")
        )
        rows.append(
            Row(f"#NM, gate to {name}", manual, "fnop", fault(vector, f"{error} + 1"), f"{setup}gate 7, {code}, uland\nor_cr 0, 8")
        )
    rows += [
        Row("int n at CPL 0, gate to code of DPL 3", manual, f"int {VECTOR}", gp("U64 & ~3"), f"gate {VECTOR}, U64, uland"),
        Row("int n at CPL 3, gate to code of DPL 3", manual, f"int {VECTOR}", runs("uland", cs="U64"),
            f"gate {VECTOR}, U64, uland, 0xEE", "long3"),
        Row("int n at CPL 3, gate to conforming code of DPL 0", manual, f"int {VECTOR}", runs("uland", cs="T0 | 3"),
            f"segment T0, 0x9E, 0xA\ngate {VECTOR}, T0, uland, 0xEE", "long3"),
        Row("int n, offset of the gate not canonical", manual, f"int {VECTOR}", GP0,
            f"gate {VECTOR}, K64, uland\nmov dword ptr [idt + 16 * {VECTOR} + 8], 0x8000"),
        Row("int n, gate's selector with RPL 3", manual, f"int {VECTOR}", runs("uland", cs="K64"),
            f"gate {VECTOR}, K64 | 3, uland"),
        Row("int n sets the accessed bit of the code segment", "SDM 3A 3.4.5.1", f"int {VECTOR}", runs("uland",
            **{"[gdt + T0]&(1<<40)": "1<<40"}),
            f"segment T0, 0x9A, 0xA\ngate {VECTOR}, T0, uland"),
    ]  # fmt: skip
    return rows


def _stacks() -> list[Row]:
    manual = "SDM 3A 6.14.2-6.14.5"
    rows = [
        Row(f"int n through IST{n} at CPL {cpl}", manual, f"int {VECTOR}", trap(VECTOR, handler_rsp=f"ist{n}_top - 40",
            handler_cs="K64"),
            f"idt_access {VECTOR}, 0xEE\nist {VECTOR}, {n}", f"long{cpl}")
        for n in range(1, 8) for cpl in (0, 3)
    ]  # fmt: skip
    rows += [
        Row(f"RSP at {n} modulo 16: the frame is aligned", "SDM 3A 6.14.2", f"int {VECTOR}", trap(VECTOR,
            handler_rsp="stack0 - 56", rsp=f"stack0 - {16 - n}"),
            rsp=f"stack0 - {16 - n}") for n in range(1, 16)
    ]  # fmt: skip
    rows += [
        Row(f"int n from CPL {cpl} in {mode} mode to CPL 0: RSP0, SS null", manual, f"int {VECTOR}", trap(VECTOR,
            handler_rsp="rsp0_top - 40", handler_ss=0),
            f"idt_access {VECTOR}, 0xEE", f"{mode}{cpl}") for mode in ("long", "compat") for cpl in (1, 2, 3)
    ]  # fmt: skip
    rows += [
        Row(f"int n to CPL {n}: RSP{n}, SS is {n}", manual, f"int {VECTOR}", runs("uland", cs=f"C{n}_64", ss=n,
            rsp=f"rsp{n}_top - 40"),
            f"gate {VECTOR}, C{n}_64, uland, 0xEE", "long3") for n in (1, 2)
    ]  # fmt: skip
    frame = {"[rsp0_top - 8]": "UDATA", "[rsp0_top - 16]": "ustack", "[rsp0_top - 32]": "U64", "[rsp0_top - 40]": "@behind"}
    far = "mov dword ptr [tss + {0}], {1}\nmov dword ptr [tss + {0} + 4], {2}\n"
    rows += [
        Row("int n from CPL 3: what is pushed", manual, f"int {VECTOR}", trap(VECTOR, **frame), f"idt_access {VECTOR}, 0xEE",
            "long3"),
        Row("#GP from CPL 3: the error code below RIP", manual, "hlt", Expected(GP, 0,
            then={"handler_rsp": "rsp0_top - 40", "[rsp0_top - 48]": 0}), mode="long3"),
        Row("int n, RSP0 not canonical", "SDM 3A 6.15 #SS", f"int {VECTOR}", fault(SS, 0), far.format(4, 0,
            0x8000) + f"idt_access {VECTOR}, 0xEE\nist 12, 1", "long3"),
        Row("int n, IST1 not canonical", "SDM 3A 6.15 #SS", f"int {VECTOR}", fault(SS, 0), far.format(0x24, 0,
            0x8000) + f"ist {VECTOR}, 1"),
        Row("#NM, IST1 not canonical: EXT is 1", "SDM 3A 6.13, 6.15 #SS", "fnop", fault(SS, 1), far.format(0x24, 0,
            0x8000) + "ist 7, 1\nor_cr 0, 8"),
        Row("int n, RSP0 on a page that is not present", "SDM 3A 6.14", f"int {VECTOR}", page_fault(2, "WIN + 0xFFF8"),
            far.format(4, 0x10000, 0x80) + f"idt_access {VECTOR}, 0xEE\nist 14, 1", "long3"),
        Row("int n, RSP0 on a read-only page", "SDM 3A 6.14", f"int {VECTOR}", page_fault(3, "WIN + 0xFF8"),
            far.format(4, 0x1000, 0x80) + f"and dword ptr [pt_w], ~2\nidt_access {VECTOR}, 0xEE\nist 14, 1", "long3"),
        Row("int n, IST within a TSS that ends before it", "SDM 3A 6.15 #TS", f"int {VECTOR}", fault(TS, "T0"),
            f"system T0, 0x89, 0x2A, 0\nmov eax, offset tss\nmov [gdt + T0 + 2], ax\nshr eax, 16\nmov [gdt + T0 + 4], al\n"
                f"mov eax, T0\nltr ax\nist {VECTOR}, 1"),
        Row("int n of protected mode: SS0 and ESP0", "SDM 3A 6.12.1", f"int {VECTOR}", trap(VECTOR, handler_rsp="rsp0_top - 20",
            handler_ss="KDATA"),
            f"mov byte ptr [idt32 + 8 * {VECTOR} + 5], 0xEE", "prot3"),
        Row("int n of virtual-8086 mode pushes nine words", "SDM 3B 20.3.1.1", f"int {VECTOR}", trap(VECTOR,
            handler_rsp="rsp0_top - 36", **{"rflags&VM": "VM"}),
            f"mov byte ptr [idt32 + 8 * {VECTOR} + 5], 0xEE", "v86", flags="IOPL3"),
        Row("#GP of virtual-8086 mode: data segments are null in the handler", "SDM 3B 20.3.1.1", "hlt", fault(GP, 0,
            handler_rsp="rsp0_top - 36"), mode="v86"),
    ]  # fmt: skip
    rows += [
        Row(f"int n of protected mode to CPL 1, SS1 {name}", "SDM 2A INT n", f"int {VECTOR}", fault(vector, error),
            f"{setup}mov dword ptr [tss32 + 16], {selector}\ngate32 {VECTOR}, C1_32, uland, 0xEE", "prot3")
        for name, selector, setup, vector, error in (
            ("null", "0", "", TS, 0), ("of DPL 3", "UDATA", "", TS, "UDATA & ~3"), ("with RPL 0", "D1 & ~3", "", TS, "D1 & ~3"),
            ("read-only", "T2 + 1", "segment T2, 0xB1\n", TS, "T2"), ("not present", "T2 + 1", "segment T2, 0x33\n", SS, "T2"))
    ]  # fmt: skip
    return rows


def _flags() -> list[Row]:
    manual = "SDM 3A 6.12.1.3, 6.8.1"
    everything = "0x44D5"  # NT, DF and status flags, without TF and IF
    rows = []
    for gate, name, keeps in ((0x8E, "interrupt", 0), (0x8F, "trap", "IF")):
        rows += [
            Row(f"an {name} gate and IF" if keeps == 0 else "a trap gate and IF", manual, f"int {VECTOR}",
                trap(VECTOR, **{"handler_rflags&IF": keeps, "rflags&IF": "IF"}), f"idt_access {VECTOR}, {gate}", flags="IF"),
            Row(f"the {name} gate clears NT, TF, RF and VM, nothing else", manual, f"int {VECTOR}",
                trap(VECTOR, **{"handler_rflags&0x354FD5": "0x04D5", "rflags&0x44FD5": everything}),
                    f"idt_access {VECTOR}, {gate}", flags=everything),
            Row(f"the {name} gate keeps AC", manual, f"int {VECTOR}", trap(VECTOR, **{"handler_rflags&AC": "AC"}),
                f"idt_access {VECTOR}, {gate}", flags="AC"),
        ]  # fmt: skip
    faults = {"#UD": ("ud2", ""), "#GP": ("mov ds, eax", "mov eax, OUTSIDE"), "#NM": ("fnop", "or_cr 0, 8"), "#DE": ("div ecx", ""),
              "#PF": ("mov al, [rbx]", "movabs rbx, WIN + 0x8000"), "#SS": ("mov eax, [rsp]", "ist 12, 1")}  # fmt: skip
    vectors = {"#UD": UD, "#GP": GP, "#NM": NM, "#DE": DE, "#PF": PF, "#SS": SS}
    for name, (code, setup) in faults.items():
        rows.append(
            Row(
                f"{name} pushes RF as 1",
                "SDM 3B 17.3.1.1",
                code,
                Expected(vectors[name], then={"rflags&RF": "RF"}),
                setup,
                rsp="NONCANON" if name == "#SS" else "",
            )
        )
    rows += [
        Row("int3 pushes RF as 0", "SDM 3B 17.3.1.1", "int3", trap(BP, **{"rflags&RF": 0})),
        Row("int n pushes RF as 0", "SDM 3B 17.3.1.1", f"int {VECTOR}", trap(VECTOR, **{"rflags&RF": 0})),
    ]  # fmt: skip
    return rows


# first exception: instruction, what makes it fault, vector, contributory (SDM vol. 3, 6.15, table 6-5)
_FIRST = {
    "#DE": ("div ecx", "", DE, "contributory"),
    "#GP": ("mov ds, ecx", "mov ecx, OUTSIDE", GP, "contributory"),
    "#NP": ("mov ds, ecx", "segment T0, 0x13\nmov ecx, T0", NP, "contributory"),
    "#SS": ("mov ss, ecx", "segment T0, 0x13\nmov ecx, T0", SS, "contributory"),
    "#PF": ("mov al, [rbx]", "movabs rbx, WIN + 0x8000", PF, "page fault"),
    "#UD": ("ud2", "", UD, "benign"),
    "#NM": ("fnop", "or_cr 0, 8", NM, "benign"),
    "#MF": ("fwait", "fninit\nmov word ptr [scratch], 0x33B\nfldcw [scratch]\nfld1\nfldz\nfdivp", MF, "benign"),
    "#XM": ("divss xmm0, xmm1", "mov dword ptr [scratch], 0x1D80\nldmxcsr [scratch]\nxorps xmm1, xmm1\nmov eax, 0x3F800000\n"
        "movd xmm0, eax", XM, "benign"),
    "#DB": (".byte 0xF1", "", DB, "benign"),
    "#BP": ("int3", "", BP, "benign"),
}  # fmt: skip


def _doubles() -> list[Row]:
    manual = "SDM 3A 6.15 #DF, table 6-5"
    rows = []
    far = "mov dword ptr [tss + 0x54], {}\nmov dword ptr [tss + 0x58], {}\nist {}, 7\n"
    for name, (code, setup, vector, kind) in _FIRST.items():
        ext = 0 if name == "#BP" else 1
        rip = "" if name == "#DB" else "@at"  # the manual does not say where INT1 leaves RIP then
        itself = f"{vector} * 8 + 2 + {ext}"
        seconds = {
            "#NP": (NP, itself, f"idt_access {vector}, 0x0E"),
            "#GP": (GP, itself, f"idt_access {vector}, 0x85"),
            "#SS": (SS, str(ext), far.format(0, 0x8000, vector)),
            "#PF": (PF, "2", far.format(0x10000, 0x80, vector)),
        }
        for second, (vector2, error, breaks) in seconds.items():
            double = (kind == "contributory" and second != "#PF") or kind == "page fault"
            if vector2 == vector and not double:
                continue
            guard = "" if vector2 == vector else f"\nist {vector2}, 1"
            expected = Expected(DF, 0) if double else Expected(vector2, error, "WIN + 0xFFF8" if vector2 == PF else None, rip)
            after = "fninit\nldmxcsr [plain_mxcsr]" if name in ("#MF", "#XM") else ""
            rows.append(
                Row(
                    f"{name}, then {second} in its delivery",
                    manual,
                    code,
                    expected,
                    f"{setup}\n{breaks}{guard}\nist 8, 2",
                    after=after,
                )
            )
    return rows


def _order() -> list[Row]:
    """Which exception wins when an instruction has more than one cause (SDM vol. 3, 6.9)."""
    manual = "SDM 3A 6.9, table 6-2"
    absent = "movabs rbx, WIN + 0x8000\n"
    return [
        Row("#UD before #GP: LOCK on a privileged instruction at CPL 3", manual, ".byte 0xF0, 0xF4", ud, mode="long3"),
        Row("#UD before #NM: LOCK on an x87 instruction", manual, ".byte 0xF0, 0xD9, 0xD0", ud, "or_cr 0, 8"),
        Row("#NM before #PF: an x87 load", manual, "fld dword ptr [rbx]", fault(NM), absent + "or_cr 0, 8"),
        Row("#NM before #GP: an SSE load that is not canonical", manual, "movups xmm0, [rbx]", fault(NM), "movabs rbx, "
            "NONCANON\nor_cr 0, 8"),
        Row("#UD before #NM: SSE with CR0.EM and CR0.TS", "SDM 3A 2.5", "movups xmm0, xmm1", ud, "or_cr 0, 12"),
        Row("#UD: SSE without CR4.OSFXSR", "SDM 3A 2.5", "movups xmm0, xmm1", ud, "clear_cr 4, 0x200"),
        Row("#NM: x87 with CR0.EM", "SDM 3A 2.5", "fnop", fault(NM), "or_cr 0, 4"),
        Row("#NM: wait with CR0.MP and CR0.TS", "SDM 3A 2.5", "fwait", fault(NM), "or_cr 0, 8"),
        Row("wait with CR0.TS alone", "SDM 3A 2.5", "fwait", runs(), "or_cr 0, 8\nclear_cr 0, 2"),
        Row("#GP before #PF: MOVAPS that is not aligned", "SDM 3A 6.15 #GP", "movaps xmm0, [rbx + 8]", GP0, absent),
        Row("#GP before #PF: CMPXCHG16B that is not aligned", "SDM 2A CMPXCHG16B", "cmpxchg16b [rbx + 8]", GP0, absent,
            needs=("cx16",)),
        Row("#XM is #UD without CR4.OSXMMEXCPT", "SDM 3A 6.15 #XM", _FIRST["#XM"][0], ud, _FIRST["#XM"][1] + "\nclear_cr 4, 0x400",
            after="ldmxcsr [plain_mxcsr]"),
        Row("#GP: an instruction of 16 bytes", "SDM 3A 6.15 #GP", ".fill 15, 1, 0x66\nnop", fault(GP, 0, rip="@at - 15")),
        Row("an instruction of 15 bytes", "SDM 3A 6.15 #GP", ".fill 14, 1, 0x66\nnop", runs()),
        Row("#DE: quotient too large", "SDM 2A DIV", "div ecx", fault(DE), "mov edx, 1\nmov ecx, 1"),
        Row("#DE: IDIV of the smallest number by -1", "SDM 2A IDIV", "idiv ecx", fault(DE, rax=0x80000000), "mov eax, "
            "0x80000000\nmov edx, -1\nmov ecx, -1"),
        Row("#DE: AAM 0", "SDM 2A AAM", ".byte 0xD4, 0", fault(DE), mode="compat3"),
        Row("#BR: BOUND outside", "SDM 2A BOUND", "bound eax, [user_data]", fault(BR), "mov qword ptr [user_data], 0\nmov eax, 1",
            "compat3"),
        Row("BOUND inside", "SDM 2A BOUND", "bound eax, [user_data]", runs(), "mov qword ptr [user_data], 0\nmov eax, 0",
            "compat3"),
        Row("LOCK on an instruction that takes none", "SDM 2A LOCK", ".byte 0xF0, 0x90", ud),
        Row("LOCK with a register as destination", "SDM 2A LOCK", ".byte 0xF0, 0x01, 0xC8", ud),
        Row("UD1", "SDM 2B UD", ".byte 0x0F, 0xB9, 0xC0", ud),
        *(Row(f"opcode {op:02X} is not there in 64-bit mode", "SDM 2D table A-2", f".byte {op}, 0, 0, 0, 0, 0, 0", fault(UD,
            rip="@at"))
          for op in (0x06, 0x07, 0x0E, 0x16, 0x17, 0x1E, 0x1F, 0x27, 0x2F, 0x37, 0x3F, 0x60, 0x61, 0x82, 0x9A, 0xCE, 0xD4, 0xD5,
              0xD6, 0xEA)),
    ]  # fmt: skip


def rows() -> list[Row]:
    """All of them."""
    return [*_software(), *_targets(), *_stacks(), *_flags(), *_doubles(), *_order()]
