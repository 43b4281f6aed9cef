"""Rows: each cause of #DB in each mode and at each CPL, alone, with TF, behind MOV SS; every size and place of a data breakpoint.

SDM vol. 3, 17.2 (debug registers), 17.3 (exceptions), 6.8.3 (MOV SS). What DR6 holds is read into `extra`.
"""

from itertools import product

from behaviour.row import BP, DB, GP0, RUNS, Expected, Row, runs

MODES = ("long0", "long1", "long3", "compat0", "compat3", "prot0", "prot3", "v86", "real")
STACK = {
    "long0": "KDATA",
    "long1": "D1",
    "long3": "UDATA",
    "compat0": "KDATA",
    "compat3": "UDATA",
    "prot0": "KDATA",
    "prot3": "UDATA",
}
B0, B1, B2, BD, BS = 1, 2, 4, 1 << 13, 1 << 14
CAUSES = B0 | B1 | B2 | 8 | BD | BS
DR6 = "mov rax, dr6\nmov [seen_extra], rax\nmov eax, 0xFFFF0FF0\nmov dr6, rax\nmov eax, 0x400\nmov dr7, rax"
EXECUTION, WRITE, IO, ACCESS = range(4)


def _arm(mode: str, n: int, at: str, kind: int, length: int = 1) -> str:
    """DRn on `at`, DR7 for it alone, DR6 clear; RAX is lost."""
    dr7 = 0x400 | 2 << 2 * n | (kind | {1: 0, 2: 1, 8: 2, 4: 3}[length] << 2) << 16 + 4 * n
    a = "rax" if mode.startswith(("long", "compat")) else "eax"
    return f"mov eax, {at}\nmov dr{n}, {a}\nmov eax, 0xFFFF0FF0\nmov dr6, {a}\nmov eax, {dr7:#x}\nmov dr7, {a}\n"


def _trap(cause: int, rip: str = "@behind", /, **then: int | str) -> Expected:
    return Expected(DB, rip=rip, then={f"extra&{CAUSES:#x}": cause, **then})


def _every_mode() -> list[Row]:
    rows = []
    for mode in MODES:
        wide = mode.startswith(("long", "compat"))
        memory = "low_scratch" if mode in ("v86", "real") else "user_data"
        stack = f"mov eax, {STACK.get(mode, '0')}\n"
        clean = _arm(mode, 0, "0", EXECUTION).replace("mov eax, 0x402", "mov eax, 0x400")
        tf = "TF | IOPL3"
        opened = {"v86": "mov word ptr [tss32 + 0x88 + 0x10], 0\n", "real": ""}.get(mode, "")
        gates = {"real": ""}.get(mode, "idt_access 3, 0xEE\n" if wide else "mov byte ptr [idt32 + 8 * 3 + 5], 0xEE\n")
        store, load = f"mov [{memory}], eax", f"mov eax, [{memory}]"
        write, access = _arm(mode, 1, f"offset {memory}", WRITE, 4), _arm(mode, 1, f"offset {memory}", ACCESS, 4)
        execution = _arm(mode, 0, "offset @at", EXECUTION)
        selector = f"mov word ptr [{memory}], {STACK.get(mode, '0')}\n"
        data, code, step = "SDM 3B 17.3.1.2", "SDM 3B 17.3.1.1", "SDM 3B 17.3.1.4"
        stepped: dict[str, int | str] = {"rflags&TF": "TF", "handler_rflags&TF": 0}

        def row(name: str, manual: str, text: str, expected: Expected, setup: str, flags: str = "IOPL3", mode: str = mode) -> None:
            rows.append(Row(f"{name}, {mode}", manual, text, expected, setup, mode, flags, ("de",), DR6))

        row("TF", step, "nop\nnop", _trap(BS, "@at", **stepped), clean, tf)
        row("TF: MOV SS holds it back", "SDM 3A 6.8.3", "mov ss, eax\nnop\nnop", _trap(BS, "@at"), clean + stack, tf)
        row("TF and a data breakpoint at once", step, store, _trap(BS | B1), write, tf)
        row("TF and an execution breakpoint: the fault is first", step, "nop", _trap(B0, "@at"), execution, tf)
        row("an execution breakpoint", code, "nop", _trap(B0, "@at"), execution)
        row("an execution breakpoint elsewhere", code, "nop\nnop", RUNS, _arm(mode, 0, "offset @behind + 2", EXECUTION))
        row("a breakpoint on writes, a write", data, store, _trap(B1), write)
        row("a breakpoint on writes, a read", data, load, RUNS, write)
        row("a breakpoint on accesses, a read", data, load, _trap(B1), access)
        row("a breakpoint on accesses, a read-modify-write", data, f"inc dword ptr [{memory}]", _trap(B1), access)
        row("a data breakpoint behind MOV SS", data, f"mov ss, eax\n{store}", _trap(B1), write + stack)
        row("MOV SS reads what is watched", "SDM 3A 6.8.3", f"mov ss, [{memory}]\nnop", _trap(B1), selector + access)
        row(
            "a breakpoint on code, its bytes read as data",
            data,
            "mov al, [@at]" if not wide else "mov al, byte ptr [@at]",
            _trap(B0, "@at"),
            execution,
        )
        row("an I/O breakpoint", data, "out 0x80, al", _trap(B2), f"or_cr 4, 8\n{opened}" + _arm(mode, 2, "0x80", IO))
        row("an I/O breakpoint, IN", data, "in al, 0x80", _trap(B2), f"or_cr 4, 8\n{opened}" + _arm(mode, 2, "0x80", IO))
        row("an I/O breakpoint, another port", data, "out 0x80, al", RUNS, f"or_cr 4, 8\n{opened}" + _arm(mode, 2, "0x81", IO))
        row("INT1", "SDM 3B 17.3.1.6", ".byte 0xF1", _trap(0), clean)
        row(
            "INT3: no cause in DR6",
            "SDM 3B 17.3.2",
            "int3",
            Expected(BP, rip="@behind", then={f"extra&{CAUSES:#x}": 0}),
            gates + clean,
        )
        row(
            "a breakpoint that DR7 does not enable",
            data,
            store,
            RUNS,
            write + f"mov eax, 0x400\nmov dr7, {'rax' if wide else 'eax'}\n",
        )
        if mode != "real":
            row("RF: no execution breakpoint", code, "nop", RUNS, execution, "IOPL3 | RF")
        if mode[-1] == "0" or mode == "real":
            guarded = clean.replace("mov eax, 0x400\n", "mov eax, 0x2400\n")
            register = "rax" if mode == "long0" else "eax"
            row("GD", "SDM 3B 17.2.4", f"mov {register}, dr0", _trap(BD, "@at"), guarded)
        else:
            row("MOV from DR0", "SDM 2B MOV DR", f"mov {'rax' if mode.startswith('long') else 'eax'}, dr0", GP0, clean)
    return rows


def _sizes() -> list[Row]:
    """A breakpoint of each length, an access of each size that touches it or not (SDM vol. 3, 17.2.5)."""
    rows = []
    registers = {1: "al", 2: "ax", 4: "eax", 8: "rax"}
    for length, size, distance, kind in product(registers, registers, (-8, -4, -1, 0, 1, 2, 3, 4, 7, 8), (WRITE, ACCESS)):
        touches = distance < length and distance + size > 0
        name = f"a breakpoint of {length} on {'writes' if kind == WRITE else 'accesses'}, {size} bytes at {distance:+}"
        code = f"mov [user_data + 64 + {distance}], {registers[size]}"
        expected = _trap(B1) if touches else runs()
        setup = _arm("long3", 1, "offset user_data + 64", kind, length)
        rows.append(Row(name, "SDM 3B 17.2.5", code, expected, setup, "long3", "0", ("de",), DR6))
    return rows


def rows() -> list[Row]:
    """All of them."""
    return [*_every_mode(), *_sizes()]
