"""Rows: loading segment registers, and LAR, LSL, VERR, VERW, over every kind of descriptor.

`data_fault`, `stack_fault` and `visible` are the manual's rules, written once more and apart from any CPU (SDM vol. 2, MOV, LAR,
    LSL,
VERR; vol. 3, 5.5 to 5.7).
"""

from itertools import product

from behaviour.descriptors import EVERY, FRESH, SYSTEM, Kind
from behaviour.row import GP0, NP, RUNS, SS, Expected, Row, fault, gp, runs, ud

ACCESSED = {"[gdt + T0]&(1<<40)": "1<<40"}
NOT_ACCESSED = {"[gdt + T0]&(1<<40)": 0}


def data_fault(kind: Kind, dpl: int, present: bool, rpl: int, cpl: int) -> Expected | None:
    """What MOV to DS, ES, FS or GS raises (SDM vol. 2, MOV, "Operation")."""
    if not kind.readable or (not kind.conforming and max(rpl, cpl) > dpl):
        return gp("T0")
    return None if present else fault(NP, "T0")


def stack_fault(kind: Kind, dpl: int, present: bool, rpl: int, cpl: int) -> Expected | None:
    """What MOV to SS raises."""
    if rpl != cpl or not kind.writable or dpl != cpl:
        return gp("T0")
    return None if present else fault(SS, "T0")


def visible(kind: Kind, dpl: int, rpl: int, cpl: int, types: set[int]) -> bool:
    """Whether LAR, LSL, VERR and VERW may look at a descriptor (SDM vol. 3, 5.10)."""
    if not kind.segment and kind.type not in types:
        return False
    return kind.conforming or max(rpl, cpl) <= dpl


def _loads() -> list[Row]:
    rows = []
    ways = [("long", register, *one) for register in ("ds", "ss") for one in product(FRESH, (0, 3), (True, False), (0, 3), (0, 3))]
    ways += [("long", register, kind, 0, True, 0, 0) for register in ("ds", "ss") for kind in SYSTEM]
    ways += [("prot", register, kind, 3, True, 3, 3) for register in ("ds", "ss") for kind in (*FRESH, *SYSTEM)]
    ways += [
        ("prot", register, FRESH[1], *one)
        for register in ("es", "fs", "gs")
        for one in product((0, 3), (True, False), (0, 3), (0, 3))
    ]
    ways += [
        ("compat", register, FRESH[1], *one)
        for register in ("es", "ss")
        for one in product((0, 1, 3), (True, False), (0, 3), (0, 3))
    ]
    ways += [
        ("long", register, FRESH[1], *one)
        for register in ("es", "fs", "gs")
        for one in product((0, 3), (True, False), (0, 3), (0, 3))
    ]
    for mode, register, kind, dpl, present, rpl, cpl in ways:
        rule = stack_fault if register == "ss" else data_fault
        found = rule(kind, dpl, present, rpl, cpl)
        marks = ACCESSED if found is None else NOT_ACCESSED if kind.segment else {}
        then = {register: f"T0 | {rpl}"} if found is None else {}
        expected = runs(**marks, **then) if found is None else Expected(found.vector, found.error, then={**found.then, **marks})
        name = f"mov {register}, {kind.name}, DPL {dpl}, RPL {rpl}{'' if present else ', not present'}, in {mode} mode at CPL {cpl}"
        setup = f"segment T0, {kind.access(dpl, present)}\nmov eax, T0 | {rpl}"
        rows.append(Row(name, "SDM 2B MOV", f"mov {register}, eax", expected, setup, f"{mode}{cpl}"))
    return rows


def _looks() -> list[Row]:
    rows = []
    lar = {"long": {2, 9, 11, 12}, "prot": {1, 2, 3, 4, 5, 9, 11, 12}}
    lsl = {"long": {2, 9, 11}, "prot": {1, 2, 3, 9, 11}}
    none: dict[str, set[int]] = {"long": set(), "prot": set()}
    tables = {"lar": lar, "lsl": lsl, "verr": none, "verw": none}
    ways = [("long", word, kind, 3, 3, 3) for word in tables for kind in EVERY]
    ways += [("prot", word, kind, 3, 3, 0) for word in tables for kind in EVERY]
    ways += [("long", word, kind, dpl, rpl, cpl) for word in tables for kind in (FRESH[1], FRESH[5], FRESH[7], SYSTEM[2])
             for dpl, rpl, cpl in ((0, 0, 0), (0, 3, 0), (0, 0, 3), (2, 1, 2), (1, 0, 2), (2, 3, 0))]  # fmt: skip
    for mode, word, kind, dpl, rpl, cpl in ways:
        sees = visible(kind, dpl, rpl, cpl, tables[word][mode])
        then: dict[str, int | str] = {}
        if word == "verr":
            sees = sees and kind.readable
        elif word == "verw":
            sees = sees and kind.writable
        elif word == "lar":
            then = {"rcx&0xF0FF00": kind.access(dpl) << 8 | 0x400000} if sees else {"rcx": "0x5A5A"}
        else:
            then = {"rcx": "0x12345"} if sees else {"rcx": "0x5A5A"}
        flags = "ZF" if sees else 0
        name = f"{word} of {kind.name}, DPL {dpl}, RPL {rpl}, in {mode} mode at CPL {cpl}"
        setup = f"segment T0, {kind.access(dpl)}, 4, 0, 0x12345\nmov eax, T0 | {rpl}\nmov ecx, 0x5A5A"
        operands = "eax" if word.startswith("ver") else "ecx, eax"
        if word.startswith("ver"):
            operands = "ax"
        rows.append(
            Row(name, f"SDM 2 {word.upper()}", f"{word} {operands}", runs(**{"rflags&ZF": flags}, **then), setup, f"{mode}{cpl}")
        )
    return rows


def _others() -> list[Row]:
    null = [
        Row(f"mov {register}, null selector {selector} at CPL {cpl} in {mode} mode", "SDM 2B MOV", f"mov {register}, eax",
            runs(**{register: selector}), f"mov eax, {selector}", f"{mode}{cpl}")
        for register in ("ds", "es", "fs", "gs") for selector in (0, 3) for mode, cpl in (("long", 0), ("long", 3), ("compat", 3),
            ("prot", 0))
    ]  # fmt: skip
    stacks = [
        Row(f"mov ss, null selector {selector} at CPL {cpl} in {mode} mode", "SDM 2B MOV", "mov ss, eax",
            runs(ss=selector) if mode == "long" and cpl != 3 and selector == cpl else GP0, f"mov eax, {selector}", f"{mode}{cpl}")
        for selector in (0, 1, 2, 3) for mode, cpl in (("long", 0), ("long", 1), ("long", 3), ("compat", 0), ("prot", 0), ("prot",
            3))
    ]  # fmt: skip
    beyond = [
        Row(f"mov {register}, outside of the {table}, {mode}", "SDM 2B MOV", f"mov {register}, eax", gp(f"{selector} & ~3"),
            f"mov eax, {selector}{setup}", mode)
        for register in ("ds", "ss") for mode in ("long0", "long3", "compat3", "prot0", "prot3")
        for table, selector, setup in (("GDT", "OUTSIDE | 3", ""), ("LDT", "0xF | 0x10", ""))
    ]  # fmt: skip
    lldt = "push rax\nmov eax, LDT\nlldt ax\npop rax"
    table = [
        Row("mov ds, a descriptor of the LDT", "SDM 3A 2.4.2", "mov ds, eax", runs(ds=0xF), f"{lldt}\nmov eax, 0xF", "long3"),
        Row("mov ds, beyond the limit of the LDT", "SDM 2B MOV", "mov ds, eax", gp(0x24), f"{lldt}\nmov eax, 0x27", "long3"),
        Row("mov ss, a descriptor of the LDT", "SDM 3A 2.4.2", "mov ss, eax", runs(ss=0xF), f"{lldt}\nmov eax, 0xF", "long3"),
        Row("mov ds, half a descriptor within the limit", "SDM 2B MOV", "mov ds, eax", gp("T0"),
            "segment T0, 0xF3\nmov word ptr [scratch], T0 + 6\nmov qword ptr [scratch + 2], offset gdt\nlgdt [scratch]\n"
                "mov eax, T0 | 3", "long3"),
        Row("mov ds, all of a descriptor within the limit", "SDM 2B MOV", "mov ds, eax", RUNS,
            "segment T0, 0xF3\nmov word ptr [scratch], T0 + 7\nmov qword ptr [scratch + 2], offset gdt\nlgdt [scratch]\n"
                "mov eax, T0 | 3", "long3"),
        Row("mov cs, ax", "SDM 2B MOV", ".byte 0x8E, 0xC8", ud, "mov eax, K64"),
        Row("mov to segment register 6", "SDM 2B MOV", ".byte 0x8E, 0xF0", ud),
        Row("mov to segment register 7", "SDM 2B MOV", ".byte 0x8E, 0xF8", ud),
        Row("mov from segment register 6", "SDM 2B MOV", ".byte 0x8C, 0xF0", ud),
        Row("push es in 64-bit mode", "SDM 2B PUSH", ".byte 0x06", ud),
        Row("pop ds in 64-bit mode", "SDM 2B POP", ".byte 0x1F", ud),
        Row("lds in 64-bit mode is not there", "SDM 2A LDS", ".byte 0xC5, 0x00", ud, needs=("avx",)),
        Row("lss with a register", "SDM 2A LSS", ".byte 0x0F, 0xB2, 0xC0", ud),
        Row("lfs loads selector and offset", "SDM 2A LFS", "lfs eax, [user_data]", runs(fs="UDATA", rax=0x1234),
            "mov dword ptr [user_data], 0x1234\nmov word ptr [user_data + 4], UDATA", "long3"),
        Row("lgs of a descriptor outside: the offset is not loaded", "SDM 2A LGS", "lgs eax, [user_data]", gp("OUTSIDE", rax=7),
            "mov dword ptr [user_data], 0x1234\nmov word ptr [user_data + 4], OUTSIDE\nmov eax, 7", "long3"),
        Row("pop fs of a descriptor outside: RSP stays", "SDM 2B POP", "pop fs", gp("OUTSIDE", rsp="stack0 - 8", rip="@at"),
            "mov qword ptr [stack0 - 8], OUTSIDE",
            rsp="stack0 - 8"),
    ]  # fmt: skip
    arpl = [
        Row(f"arpl {a}, {b}", "SDM 2A ARPL", "arpl ax, cx", runs(**{"rax": max(a, b) | 0x40, "rflags&ZF": "ZF" if a < b else 0}),
            f"mov eax, {a | 0x40}\nmov ecx, {b}", "compat3")
        for a in range(4) for b in range(4)
    ]  # fmt: skip
    return [*null, *stacks, *beyond, *table, *arpl, *_limits(), *_tables()]


def _limits() -> list[Row]:
    """Accesses against limit and type (SDM vol. 3, 5.3 and 5.5); expand-down segments begin behind their limit."""
    rows = []
    kinds = {"data": 0xF3, "read-only data": 0xF1, "expand-down data": 0xF7, "code": 0xFB, "execute-only code": 0xF9}
    big, limit = 0xFFFFFFFF, 0x0FFF
    for (name, access), word, size, at in product(
        kinds.items(), ("read", "write"), (1, 4), (0, 0xFFC, 0xFFD, 0xFFF, 0x1000, 0xFFFC, 0xFFFE)
    ):
        if access == 0xF9 or (access == 0xF1 and at > 0xFFF):
            continue
        for mode, flags in (("compat3", 4), ("prot3", 0 if at > 0xF000 else 4)):
            top = big if flags == 4 else 0xFFFF
            inside = limit < at and at + size - 1 <= top if access == 0xF7 else at + size - 1 <= limit
            if access == 0xF7 and flags == 4 and at > 0xF000:
                continue
            allowed = inside and (word == "read" or access in (0xF3, 0xF7))
            register = "al" if size == 1 else "eax"
            code = f"mov {register}, es:[ebx]" if word == "read" else f"mov es:[ebx], {register}"
            setup = f"segment T0, {access}, {flags}, LOW_DATA, {limit:#x}\nmov ebx, {at:#x}\nmov eax, T0 | 3\nmov es, eax"
            title = f"{word} of {size} at {at:#x} in {name} with limit FFFh{'' if flags else ', 16 bits'}, {mode}"
            rows.append(
                Row(
                    title,
                    "SDM 3A 5.3, 5.5",
                    f"mov ecx, T0 | 3\nmov es, ecx\n{code}",
                    RUNS if allowed else GP0,
                    setup.rpartition("\nmov eax")[0],
                    mode,
                )
            )
    return rows


def _tables() -> list[Row]:
    """LLDT and LTR over every kind of system descriptor (SDM vol. 2; vol. 3, 3.5)."""
    rows = []
    for mode, (word, good) in product(("long", "prot"), (("lldt", {2}), ("ltr", {9}))):
        for kind in EVERY[:16]:
            types = good | ({1} if word == "ltr" and mode == "prot" else set())
            expected = RUNS if kind.type in types else gp("T0")
            rows.append(
                Row(
                    f"{word} of {kind.name} in {mode} mode",
                    f"SDM 2A {word.upper()}",
                    f"{word} ax",
                    expected,
                    f"segment T0, {kind.access(0)}, 0, 0x1000, 0x67\nmov eax, T0",
                    f"{mode}0",
                )
            )
    bad = "segment T0, {0:#x}, 0, 0x1000, 0x67\nmov eax, T0"
    for word, access in (("lldt", 0x82), ("ltr", 0x89)):
        manual = f"SDM 2A {word.upper()}"
        absent = bad.format(access & 0x7F)
        rows += [
            Row(f"{word} of one that is not present", manual, f"{word} ax", fault(NP, "T0"), absent),
            Row(f"{word} of a code segment", manual, f"{word} ax", gp("K64"), "mov eax, K64"),
            Row(f"{word} outside of the GDT", manual, f"{word} ax", gp("OUTSIDE"), "mov eax, OUTSIDE"),
            Row(f"{word} of a selector of the LDT", manual, f"{word} ax", gp(4), "mov eax, 4"),
            Row(f"{word} at CPL 3", manual, f"{word} ax", GP0, mode="long3"),
            Row(f"{word} at CPL 1", manual, f"{word} ax", GP0, mode="long1"),
            Row(f"{word} in real mode", manual, f"{word} ax", ud, mode="real"),
            Row(f"{word} in virtual-8086 mode", manual, f"{word} ax", ud, mode="v86", flags="IOPL3"),
            Row(f"{word}: type field of the upper half not 0", "SDM 3A 3.5.2, 7.2.3", f"{word} ax", gp("T0"),
                f"system T0, {access}, 0x67, 0x100\nmov eax, T0"),
            Row(f"{word}: a base that is not canonical", manual, f"{word} ax", gp("T0"),
                f"system T0, {access}, 0x67, 0, 0, 0x8000\nmov eax, T0"),
            Row(f"{word}: the upper half outside of the GDT", "SDM 3A 3.5.2", f"{word} ax", gp("T0"),
                f"segment T0, {access}, 0, 0x1000, 0x67\nmov word ptr [scratch], T0 + 14\nmov qword ptr [scratch + 2], offset gdt\n"
                "lgdt [scratch]\nmov eax, T0"),
        ]  # fmt: skip
    rows += [
        Row("lldt of a null selector", "SDM 2A LLDT", "lldt ax", RUNS),
        Row("mov ds from an LDT that is null", "SDM 2A LLDT", "xor eax, eax\nlldt ax\nmov eax, 0xF\nmov ds, eax", gp(0xC),
            "mov eax, LDT\nlldt ax"),
        Row("ltr of a null selector", "SDM 2A LTR", "ltr ax", GP0),
        Row("ltr marks the TSS busy", "SDM 2A LTR", "ltr ax", runs(**{"[gdt + T0]&(0xF<<40)": "0xB<<40"}), bad.format(0x89)),
        Row("str after ltr", "SDM 2B STR", "ltr ax\nstr ecx", runs(rcx="T0"), bad.format(0x89)),
        Row("sldt after lldt", "SDM 2B SLDT", "lldt ax\nsldt ecx", runs(rcx="LDT"), "mov eax, LDT"),
        Row("lgdt of a base that is not canonical", "SDM 2A LGDT", "lgdt [scratch]", GP0, "mov dword ptr [scratch + 6], 0x8000"),
        Row("lidt of a base that is not canonical", "SDM 2A LIDT", "lidt [scratch]", GP0, "mov dword ptr [scratch + 6], 0x8000"),
        Row("lgdt at CPL 3", "SDM 2A LGDT", "lgdt [user_data]", GP0, mode="long3"),
        Row("lidt at CPL 3", "SDM 2A LIDT", "lidt [user_data]", GP0, mode="long3"),
    ]  # fmt: skip
    return rows


def _wraps() -> list[Row]:
    """Operands that go on behind the last byte of a flat segment: the manual leaves it to the processor."""
    manual = "SDM 3A 5.3"
    load, store, stack = "mov eax, [0xFFFFFFFE]", "mov [0xFFFFFFFE], eax", "mov eax, ss:[0xFFFFFFFE]"
    zero = "mov word ptr [0], 0x1234\n"
    return [
        Row("a load across 4 GiB on Intel goes on at 0", manual, load, runs(**{"rax&0xFFFF0000": 0x12340000}), zero, "prot0",
            needs=("intel",)),
        Row("a store across 4 GiB on Intel goes on at 0", manual, store, runs(extra=0x1234), "mov eax, 0x12345678", "prot0",
            needs=("intel",), after="movzx eax, word ptr [0]\nmov [seen_extra], rax"),
        Row("a load across 4 GiB on AMD", manual, load, GP0, "", "prot0", needs=("amd",)),
        Row("a store across 4 GiB on AMD", manual, store, GP0, "", "prot0", needs=("amd",)),
        Row("a load through SS across 4 GiB on AMD", manual, stack, fault(SS, 0), "", "prot0", needs=("amd",)),
    ]  # fmt: skip


def rows() -> list[Row]:
    """All of them."""
    return [*_loads(), *_looks(), *_others(), *_wraps()]
