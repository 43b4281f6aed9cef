"""Rows: far JMP, CALL and RET, call gates, IRET.

`direct_fault` and `return_fault` are the manual's rules (SDM vol. 2; vol. 3, 5.8).
"""

from itertools import product

from behaviour.descriptors import FRESH, SEGMENTS, SYSTEM, Kind
from behaviour.row import GP0, NP, RUNS, SS, TS, Expected, Row, fault, gp, page_fault, runs, ud

CODE, CONFORMING = SEGMENTS[10], SEGMENTS[14]
LONG, FLAT32 = 0xA, 0xC
POINTER = "mov dword ptr [user_data], offset uland\nmov word ptr [user_data + 4], T0 | {}"
STACK3 = "push UDATA\npush offset ustack\n"


def direct_fault(kind: Kind, dpl: int, present: bool, rpl: int, cpl: int) -> Expected | None:
    """What JMP and CALL to a segment raise (SDM vol. 3, 5.8.1)."""
    if not kind.code or (dpl > cpl if kind.conforming else rpl > cpl or dpl != cpl):
        return gp("T0")
    return None if present else fault(NP, "T0")


def return_fault(kind: Kind, dpl: int, present: bool, rpl: int, cpl: int) -> Expected | None:
    """What RET and IRET raise for the code segment (SDM vol. 2, RET, "Operation")."""
    if rpl < cpl or not kind.code or (dpl > rpl if kind.conforming else dpl != rpl):
        return gp("T0")
    return None if present else fault(NP, "T0")


def _direct() -> list[Row]:
    rows = []
    ways = [("long", LONG, *one) for one in product((CODE, CONFORMING), (0, 3), (True, False), (0, 3), (0, 3))]
    ways += [("long", LONG, kind, 0, True, 0, 0) for kind in FRESH[:4]]
    ways += [
        (mode, FLAT32, *one)
        for mode in ("compat", "prot")
        for one in product((CODE, CONFORMING), (0, 3), (True, False), (0, 3), (3,))
    ]
    ways += [("prot", FLAT32, CODE, dpl, True, rpl, 0) for dpl, rpl in ((0, 0), (0, 1), (1, 0))]
    for word, (mode, flags, kind, dpl, present, rpl, cpl) in product(("jmp", "call"), ways):
        found = direct_fault(kind, dpl, present, rpl, cpl)
        name = f"far {word} to {kind.name}, DPL {dpl}, RPL {rpl}{'' if present else ', not present'}, in {mode} mode at CPL {cpl}"
        expected = found or runs("uland", cs=f"T0 | {cpl}")
        setup = f"segment T0, {kind.access(dpl, present)}, {flags}\n" + POINTER.format(rpl)
        rows.append(Row(name, f"SDM 2 {word.upper()}; 3A 5.8.1", f"{word} fword ptr [user_data]", expected, setup, f"{mode}{cpl}"))
    return rows


def _direct_others() -> list[Row]:
    wide = "mov dword ptr [scratch], {}\nmov dword ptr [scratch + 4], {}\nmov word ptr [scratch + 8], {}"
    rows = []
    for word in ("jmp", "call"):
        manual = f"SDM 2A {word.upper()}"
        far = f"{word} fword ptr [user_data]"
        rows += [
            Row(f"far {word}, null selector", manual, far, GP0, "mov word ptr [user_data + 4], 3"),
            Row(f"far {word}, outside of the GDT", manual, far, gp("OUTSIDE"), "mov word ptr [user_data + 4], OUTSIDE"),
            Row(f"far {word} to a segment with L and D", manual, far, gp("T0"), "segment T0, 0x9B, 0xE\n" + POINTER.format(0)),
            Row(f"far {word}, offset not canonical", manual, f"rex.w {word} fword ptr [scratch]", GP0, wide.format(0, 0x8000,
                "K64"), needs=("intel",)),
            Row(f"far {word}, offset of 64 bits", manual, f"rex.w {word} fword ptr [scratch]", runs("WIN"),
                "mov word ptr [win_frames], 0x0B0F\n" + wide.format(0, 0x80, "K64"), needs=("intel",)),
            Row(f"far {word} to 32-bit code beyond its limit", manual, far, GP0,
                "segment T0, 0x9B, 4, 0, 0xFFFF\n" + POINTER.format(0)),
            Row(f"far {word} to 32-bit code from 64-bit code", manual, far, runs("uland", cs="K32"),
                "mov dword ptr [user_data], offset uland\nmov word ptr [user_data + 4], K32"),
            Row(f"far {word} sets the accessed bit", "SDM 3A 3.4.5.1", far, runs("uland", **{"[gdt + T0]&(1<<40)": "1<<40"}),
                "segment T0, 0x9A, 0xA\n" + POINTER.format(0)),
            Row(f"direct far {word} in 64-bit mode", manual, f".byte {'0xEA' if word == 'jmp' else '0x9A'}, 0, 0, 0, 0, 8, 0", ud),
            Row(f"direct far {word} in compatibility mode", manual,
                f".byte {'0xEA' if word == 'jmp' else '0x9A'}\n.long uland\n.word U64", RUNS, mode="compat3"),
        ][:-1]  # fmt: skip
        rows += [
            Row(f"far {word} to {kind.name} in long mode", manual, far, gp("T0"),
                f"system T0, {kind.access(3)}\n" + POINTER.format(0))
            for kind in SYSTEM if kind.type != 12
        ]  # fmt: skip
        rows.append(Row(f"near {word}, target not canonical", manual, f"{word} rbx", GP0, "movabs rbx, NONCANON"))
    rows += [
        Row("ret, target not canonical", "SDM 2B RET", "push rbx\nret", gp(0, rsp="stack0 - 8"), "movabs rbx, NONCANON"),
        Row("call at CPL 3, the stack not canonical", "SDM 2A CALL", "call rbx", fault(SS, 0), "mov ebx, offset uland", "long3",
            rsp="NONCANON + 8"),
        Row("execution falls into the canonical gap", "SDM 1 3.3.7.1", "jmp rbx", GP0, "movabs rbx, NONCANON"),
        Row("far call pushes CS and RIP", "SDM 2A CALL", "call fword ptr [user_data]", runs("uland", rsp="stack0 - 8",
            **{"[stack0 - 8]": "@behind + (K64 << 32)"}),
            "mov dword ptr [user_data], offset uland\nmov word ptr [user_data + 4], K64"),
    ]  # fmt: skip
    return rows


def _gates() -> list[Row]:
    """Call gates of long mode (SDM vol. 3, 5.8.3)."""
    manual = "SDM 3A 5.8.3-5.8.5"
    far, at = "call fword ptr [user_data]", "mov word ptr [user_data + 4], T0 | {}\n"
    entry = "uland"
    rows = []
    for cpl, rpl, dpl, present, word in product((0, 3), (0, 3), (0, 3), (True, False), ("call", "jmp")):
        seen = max(cpl, rpl)
        if dpl < seen:
            expected = gp("T0")
        elif not present:
            expected = fault(NP, "T0")
        elif cpl == 0 or word == "call":
            expected = runs(entry, cs="K64")
        else:
            expected = gp("K64")
        access = 0xC | dpl << 5 | (0x80 if present else 0)
        rows.append(
            Row(
                f"far {word} to a call gate, DPL {dpl}, RPL {rpl}{'' if present else ', not present'}, CPL {cpl}",
                manual,
                f"{word} fword ptr [user_data]",
                expected,
                f"callgate T0, K64, {entry}, {access}\n{at.format(rpl)}",
                f"long{cpl}",
            )
        )
    targets = {
        "a null code segment": ("0", "", GP0),
        "code outside of the GDT": ("OUTSIDE", "", gp("OUTSIDE")),
        "data": ("KDATA", "", gp("KDATA")),
        "32-bit code": ("K32", "", gp("K32")),
        "code with L and D": ("T2", "segment T2, 0x9B, 0xE\n", gp("T2")),
        "code that is not present": ("T2", "segment T2, 0x1B, 0xA\n", fault(NP, "T2")),
        "a TSS": ("TSS", "", gp("TSS")),
    }
    rows += [
        Row(f"call gate to {name}", manual, far, expected, f"{setup}callgate T0, {code}, {entry}\n{at.format(3)}", "long3")
        for name, (code, setup, expected) in targets.items()
    ]
    top = "mov dword ptr [tss + 4], {}\nmov dword ptr [tss + 8], {}\n"
    gate = f"callgate T0, K64, {entry}\n{at.format(3)}"
    frame = {"[rsp0_top - 8]": "UDATA", "[rsp0_top - 16]": "ustack", "[rsp0_top - 24]": "U64", "[rsp0_top - 32]": "@behind"}
    rows += [
        Row("call gate to CPL 0: SS is null, the frame on RSP0", manual, far, runs(entry, cs="K64", ss=0, rsp="rsp0_top - 32",
            **frame), gate, "long3"),
        Row("call gate to CPL 1: SS is 1, the frame on RSP1", manual, far, runs(entry, cs="C1_64", ss=1, rsp="rsp1_top - 32"),
            f"callgate T0, C1_64, {entry}\n{at.format(3)}", "long3"),
        Row("call gate from CPL 1 to CPL 0", manual, far, runs(entry, cs="K64", rsp="rsp0_top - 32"), gate, "long1"),
        Row("call gate to conforming code keeps CPL and stack", manual, far, runs(entry, cs="T2 | 3", rsp="ustack - 16"),
            f"segment T2, 0x9E, 0xA\ncallgate T0, T2, {entry}\n{at.format(3)}", "long3"),
        Row("call gate, type field of the upper half not 0", manual, far, gp("T0"),
            f"callgate T0, K64, {entry}, 0xEC, 0x100\n{at.format(3)}", "long3"),
        Row("call gate, RSP0 not canonical", manual, far, fault(SS, 0), top.format(0, 0x8000) + gate + "\nist 12, 1", "long3"),
        Row("call gate, the new stack on a page that is not present", manual, far, page_fault(2, "WIN + 0xFFF8"),
            top.format(0x10000, 0x80) + gate + "\nist 14, 1", "long3"),
        Row("call gate of protected mode, three parameters", "SDM 3A 5.8.5",
            "push 33\npush 22\npush 11\ncall fword ptr [user_data]",
            runs(entry, cs="K32", rsp="rsp0_top - 28", **{"[rsp0_top - 16]": "22 | (33 << 32)",
                "[rsp0_top - 24]": "U32 | (11 << 32)"}),
            f"callgate32 T0, K32, {entry}, 0xEC, 3\n{at.format(3)}", "prot3"),
        *(Row(f"call gate of protected mode, SS1 {name}", "SDM 3A 5.8.5", far, fault(vector, error),
              f"{setup}mov dword ptr [tss32 + 16], {selector}\ncallgate32 T0, C1_32, {entry}\n{at.format(3)}", "prot3")
          for name, selector, setup, vector, error in (
              ("null", "0", "", TS, 0), ("of DPL 3", "UDATA", "", TS, "UDATA & ~3"), ("with RPL 0", "D1 & ~3", "", TS, "D1 & ~3"),
              ("read-only", "T2 + 1", "segment T2, 0xB1\n", TS, "T2"), ("code", "C1_32", "", TS, "C1_32 & ~3"),
              ("outside of the GDT", "OUTSIDE + 1", "", TS, "OUTSIDE"), ("not present", "T2 + 1", "segment T2, 0x33\n", SS, "T2"))),
    ]  # fmt: skip
    return rows


def _returns() -> list[Row]:
    rows = []
    pushes = {"retfq": "push {cs}\npush offset uland\nretfq", "iretq": "push 2\npush {cs}\npush offset uland\niretq"}
    for word, kind, dpl, present, rpl, cpl in product(pushes, (CODE, CONFORMING), (0, 1, 3), (True, False), (0, 1, 3), (0, 3)):
        found = return_fault(kind, dpl, present, rpl, cpl)
        outer = rpl > cpl
        if outer and rpl == 1 and found is None and not kind.conforming:
            continue  # D1 below
        data = {0: "KDATA", 1: "D1", 3: "UDATA"}[rpl if rpl >= cpl else cpl]
        stack = f"push {data}\npush offset ustack\n" if outer or word == "iretq" else ""
        name = f"{word} to {kind.name}, DPL {dpl}, RPL {rpl}{'' if present else ', not present'}, at CPL {cpl}"
        expected = found or runs("uland", cs=f"T0 | {rpl}")
        code = stack + pushes[word].format(cs=f"T0 | {rpl}")
        rows.append(
            Row(name, f"SDM 2 {word[:-1].upper()}", code, expected, f"segment T0, {kind.access(dpl, present)}, 0xA", f"long{cpl}")
        )
    frame = "push {ss}\npush offset ustack\npush {flags}\npush {cs}\npush offset uland\niretq"
    manual = "SDM 2A IRET"
    stacks = {
        "SS null to 64-bit code of CPL 3": ("3", "U64", "", GP0),
        "SS null to 64-bit code of CPL 0": ("0", "K64", "", runs("uland", ss=0, rsp="ustack")),
        "SS null with RPL 1 to 64-bit code of CPL 1": ("1", "C1_64", "", runs("uland", ss=1)),
        "SS null with RPL 0 to 64-bit code of CPL 1": ("0", "C1_64", "", GP0),
        "SS null to 32-bit code of CPL 3": ("0", "U32", "", GP0),
        "SS outside of the GDT": ("OUTSIDE + 3", "U64", "", gp("OUTSIDE")),
        "SS with RPL 0 to CPL 3": ("KDATA", "U64", "", gp("KDATA")),
        "SS of DPL 0 with RPL 3": ("KDATA + 3", "U64", "", gp("KDATA")),
        "SS that is code": ("U64", "U64", "", gp("U64 & ~3")),
        "SS that is read-only": ("T2 + 3", "U64", "segment T2, 0xF1", gp("T2")),
        "SS that is not present": ("T2 + 3", "U64", "segment T2, 0x73", fault(SS, "T2")),
        "SS of DPL 3 to CPL 0": ("UDATA", "K64", "", gp("UDATA & ~3")),
        "CS null": ("UDATA", "3", "", GP0),
        "CS outside of the GDT": ("UDATA", "OUTSIDE + 3", "", gp("OUTSIDE")),
        "CS that is data": ("UDATA", "UDATA", "", gp("UDATA & ~3")),
        "CS with L and D": ("UDATA", "T2 + 3", "segment T2, 0xFB, 0xE", gp("T2")),
        "CS that is a TSS": ("UDATA", "TSS + 3", "", gp("TSS")),
    }
    rows += [
        Row(f"iretq, {name}", manual, frame.format(ss=ss, flags=2, cs=cs), expected, setup)
        for name, (ss, cs, setup, expected) in stacks.items()
    ]
    wide = "push UDATA\npush offset ustack\npush 2\npush U64\npush rbx\niretq"
    flags = "push UDATA\npush offset ustack\npush {flags}\npush U64\npush offset uland\niretq"
    rows += [
        Row("iretq with NT in long mode", "SDM 3A 7.5", frame.format(ss="UDATA", flags=2, cs="U64"), GP0, flags="NT"),
        Row("iretq, RIP not canonical", manual, wide, GP0, "movabs rbx, NONCANON", needs=("intel",)),
        Row("iretq to 32-bit code, offset beyond its limit", manual,
            "push UDATA\npush offset ustack\npush 2\npush T0 | 3\npush offset uland\niretq", GP0,
            "segment T0, 0xFB, 4, 0, 0xFFFF"),
        Row("iretq to CPL 3 changes IOPL and IF", manual, flags.format(flags="0x3202"), runs("uland",
            **{"rflags&0x3200": 0x3200})),
        Row("iretq at CPL 3 does not change IOPL or IF", manual, flags.format(flags="0x3202"), runs("uland",
            **{"rflags&0x3200": 0}), mode="long3"),
        Row("iretq at CPL 3 with IOPL 3 changes IF alone", manual, flags.format(flags="0x0202"), runs("uland",
            **{"rflags&0x3200": 0x3200}),
            mode="long3", flags="IOPL3"),
        Row("iretq at CPL 3 does not set VIF and VIP", manual, flags.format(flags="0x180002"), runs("uland",
            **{"rflags&0x180000": 0}), mode="long3"),
        Row("iretq at CPL 0 ignores VM in long mode", manual, flags.format(flags="0x20002"), runs("uland", **{"rflags&VM": 0}),
            needs=("intel",)),
        Row("iretq sets AC and ID", manual, flags.format(flags="0x240002"), runs("uland", **{"rflags&0x240000": 0x240000})),
        Row("iretq to CPL 3 makes DS of DPL 0 null", "SDM 3A 5.8.6", flags.format(flags=2), runs("uland", ds=0),
            "mov eax, KDATA\nmov ds, eax"),
        *(Row(f"iretq to CPL 3 makes null selectors with an RPL 0: {name}", "SDM 2A IRET", flags.format(flags=2),
            runs("uland", **{name: 0}), f"mov eax, 3\nmov {name}, eax") for name in ("ds", "es", "fs", "gs")),
        Row("retfq to CPL 3 makes null selectors with an RPL 0", "SDM 2B RET",
            "push UDATA\npush offset ustack\npush U64\npush offset uland\nretfq", runs("uland", ds=0, es=0),
            "mov eax, 2\nmov ds, eax\nmov es, eax"),
        Row("iretq to the same level keeps them", "SDM 2A IRET",
            "mov rbx, rsp\npush KDATA\npush rbx\npush 2\npush K64\npush offset @here\niretq\n@here:nop", runs(ds=3),
            "mov eax, 3\nmov ds, eax", "long0"),
        Row("iretq to CPL 3 keeps DS of DPL 3", "SDM 3A 5.8.6", flags.format(flags=2), runs("uland", ds="UDATA")),
        Row("iretq to CPL 3 keeps conforming code in DS", "SDM 3A 5.8.6", flags.format(flags=2), runs("uland", ds="T2"),
            "segment T2, 0x9E\nmov eax, T2\nmov ds, eax"),
        Row("iretd from 64-bit code", manual,
            "sub rsp, 20\nmov dword ptr [rsp], offset uland\nmov dword ptr [rsp + 4], U32\nmov dword ptr [rsp + 8], 2\n"
            "mov dword ptr [rsp + 12], offset ustack\nmov dword ptr [rsp + 16], UDATA\niretd", runs("uland", cs="U32",
                rsp="ustack")),
        Row("iretd in compatibility mode at the same level pops no SS", manual, "push 2\npush U32\npush offset uland\niretd",
            runs("uland", cs="U32", rsp="ustack"), mode="compat3"),
        Row("iretd in compatibility mode to 64-bit code", manual, "push 2\npush U64\npush offset uland\niretd", runs("uland",
            cs="U64"), mode="compat3"),
        Row("iretd in protected mode to CPL 3", manual,
            "push UDATA\npush offset ustack\npush 0x3202\npush U32\npush offset uland\niretd",
            runs("uland", cs="U32", ss="UDATA", rsp="ustack", **{"rflags&0x3200": 0x3200}), mode="prot0"),
        Row("iretd in protected mode to CPL 3, SS of DPL 0", manual,
            "push KDATA + 3\npush offset ustack\npush 2\npush U32\npush offset uland\niretd",
            gp("KDATA"), mode="prot0"),
        Row("iretd in protected mode to CPL 3, SS null", manual,
            "push 3\npush offset ustack\npush 2\npush U32\npush offset uland\niretd", GP0, mode="prot0"),
        Row("retfq with a count releases the outer stack, too", "SDM 2B RET",
            f"{STACK3}sub rsp, 16\npush U64\npush offset uland\nretfq 16",
            runs("uland", cs="U64", rsp="ustack + 16")),
        Row("retfq to CPL 3, SS null", "SDM 2B RET", "push 3\npush offset ustack\npush U64\npush offset uland\nretfq", GP0),
        Row("retfq, RIP not canonical", "SDM 2B RET", "push K64\npush rbx\nretfq", GP0, "movabs rbx, NONCANON", needs=("intel",)),
        Row("iretq in virtual-8086 mode with IOPL 0", "SDM 3B 20.2.8", "iret", GP0, mode="v86"),
    ]  # fmt: skip
    return rows


def rows() -> list[Row]:
    """All of them."""
    return [*_direct(), *_direct_others(), *_gates(), *_returns()]
