"""Accesses beside, across and on data breakpoints: native code against the exact path in Python, which here sees every access.

Two CPUs run the same random instructions with the same breakpoints. The lists that native code searches say for the second one
that everything is watched, so each of its accesses is performed and judged in Python. Every exit, all registers and all RAM are
compared.
"""

import random
from collections.abc import Iterator

import pytest

from silicon.assemble import assemble
from trapgate.exits import DebugException, Exit, Halted
from trapgate.soft.exact import debugging
from trapgate.soft.state.armed import LAST, Watch, WatchList, joined
from trapgate.vcpu import Breakpoint, Kind, Owner
from unit.soft.bench import CODE, DATA, K32, K64, Bench

HANDLER, EDGE = 0x18000, DATA + 0x1000
CR4_OSFXSR = 1 << 9
INSTRUCTIONS = 40
STATE = ("rip", "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "cs_selector", "ss_selector", "mode", "pending_debug")
ANYWHERE = """
mov al, [{0}]|mov ax, [{0}]|mov eax, [{0}]|mov [{0}], al|mov [{0}], ax|mov [{0}], eax|mov dword ptr [{0}], 1234567|add [{0}], bl
add [{0}], bx|add [{0}], ebx|adc eax, [{0}]|cmp [{0}], edx|test [{0}], dx|inc byte ptr [{0}]|not dword ptr [{0}]|neg word ptr [{0}]
shl dword ptr [{0}], 3|bts dword ptr [{0}], 5|setc byte ptr [{0}]|cmovs eax, [{0}]|xchg [{0}], edx|lock xadd [{0}], eax
lock inc word ptr [{0}]|lock cmpxchg [{0}], ebx|lock btr dword ptr [{0}], 3|cmpxchg8b [{0}]
movzx eax, byte ptr [{0}]|imul eax, [{0}]
push dword_or_qword ptr [{0}]|pop dword_or_qword ptr [{0}]|movups xmm1, [{0}]|movups [{0}], xmm2|movd [{0}], xmm1|movlps xmm3, [{0}]
movhps [{0}], xmm1|pinsrw xmm1, [{0}], 3|cvtsi2sd xmm2, dword ptr [{0}]|movq mm1, [{0}]|movq [{0}], mm2|fld tbyte ptr [{0}]
fstp tbyte ptr [{0}]|fild word ptr [{0}]|fistp qword ptr [{0}]|fnstcw [{0}]|fnstenv [{0}]|fnsave [{0}]
ldmxcsr [0x20000]|stmxcsr [{0}]
movsb|movsd|stosw|lodsd|scasb|cmpsw|rep movsb|rep stosd|repne scasb|repe cmpsb|std|cld|sgdt [{0}]|int3
push eax_or_rax|pop edx_or_rdx|push bx|pushf|enter 16, 0|clc
"""
LONG = """
mov rax, [{0}]|mov [{0}], rax|add [{0}], rbx|xchg [{0}], rdx|lock xadd [{0}], rax|lock cmpxchg16b [{1}]|cmpxchg16b [{1}]
maskmovdqu xmm1, xmm3|movaps xmm1, [{1}]
movaps [{1}], xmm4|fxsave [{1}]|movnti [{0}], rbx|movsq|rep movsq|rep stosq|rep stosb|paddd xmm1, [{1}]|crc32 rax, qword ptr [{0}]
"""


def _words(text: str, mode: str) -> list[str]:
    wide = ("qword", "rax", "rdx") if mode == "64" else ("dword", "eax", "edx")
    for both, one in zip(("dword_or_qword", "eax_or_rax", "edx_or_rdx"), wide, strict=True):
        text = text.replace(both, one)
    return [word for line in text.split("\n") for word in line.split("|") if word]


def program(chance: random.Random, mode: str, near: int) -> str:
    """Instructions that access bytes around `near`."""
    known = _words(ANYWHERE, mode) + (_words(LONG, mode) if mode == "64" else [])
    lines = ["fninit"] if mode == "64" else [".code32", "fninit"]
    for _ in range(INSTRUCTIONS):
        source, target, stack = (near + chance.randrange(-60, 60) for _ in range(3))
        place = chance.choice(("edi", f"edi + {chance.randrange(-40, 40)}", "ebp + ecx")).replace("e", "r" if mode == "64" else "e")
        lines += [f"mov edi, {target}", f"mov esi, {source}", f"mov esp, {stack & ~7 if chance.random() < 0.7 else stack}"]
        lines += [f"mov ebp, {near - 8}", f"mov ecx, {chance.choice((0, 1, 3, 17, 64))}"]
        lines.append(chance.choice(known).format(place, f"{target & ~15}"))
    return "\n".join([*lines, "cld", "hlt"])


def watches(chance: random.Random, near: int) -> tuple[list[tuple[int, int, int]], list[Breakpoint]]:
    """(the guest's: address, R/W, length as in DR7; the debugger's)."""
    places = [near + chance.randrange(-80, 80) for _ in range(8)]
    guest = [(place, chance.choice((1, 3)), chance.randrange(4)) for place in places[: chance.randrange(3)]]
    kinds, lengths = (Kind.WRITE, Kind.ACCESS, Kind.READ), (1, 1, 2, 4, 8, 8, 40, 5000)
    ours = [
        Breakpoint(Owner.DEBUGGER, n, chance.choice(kinds), place, chance.choice(lengths)) for n, place in enumerate(places[3:])
    ]
    return guest, ours[: chance.randrange(1, 6)]


def _made(code: bytes, mode: str, guest: list[tuple[int, int, int]], ours: list[Breakpoint], exact: bool) -> Bench:
    made = Bench(mode)
    st = made.st
    chance = random.Random(1)
    made.ram.write(DATA, b"\x80\x1f\0\0" + chance.randbytes(0x3000 - 4))
    made.ram.write(CODE, code)
    long = mode != "32"
    made.ram.write(HANDLER, b"\x48\xcf" if long else b"\xcf")  # IRETQ, IRETD
    made.gate(3, K64 if long else K32, HANDLER)
    for name in ("rax", "rbx", "rdx"):
        setattr(st, name, chance.getrandbits(64 if mode == "64" else 32))
    control = 0x400
    for n, (address, kind, length) in enumerate(guest):
        debugging.write_debug_register(made.cpu, n, address)
        control |= 2 << 2 * n | kind << 16 + 4 * n | length << 18 + 4 * n
    debugging.write_debug_register(made.cpu, 7, control)
    made.cpu.arm(ours, [])
    if exact:
        everything = Watch(0, LAST, Kind.ACCESS, 0)
        st.watched_reads, st.watched_reads_end = made.cpu.watched_reads.put([everything])
        st.watched_writes, st.watched_writes_end = made.cpu.watched_writes.put([everything])
        made.cpu.flush_all()
    st.cr4 |= CR4_OSFXSR
    made.cpu.update_mode()
    return made


def _run(made: Bench) -> Iterator[tuple[Exit, dict[str, int | bytes]]]:
    st = made.st
    for _ in range(2000):
        exit_ = made.cpu.run()
        names = (
            "rip",
            "rax",
            "rbx",
            "rcx",
            "rdx",
            "rsi",
            "rdi",
            "rbp",
            "rsp",
            "cs_selector",
            "ss_selector",
            "mode",
            "pending_debug",
        )
        state: dict[str, int | bytes] = {name: getattr(st, name) for name in names}
        state["rflags"] = st.get_rflags()
        state |= {f"xmm{n}": bytes(getattr(st, f"xmm{n}")) for n in range(5)}
        yield exit_, state
        if exit_ == Halted():
            return
        assert isinstance(exit_, DebugException), exit_
    raise AssertionError("no end")


def compared(seed: int) -> int:
    """Run one program on both: how many times breakpoints were hit."""
    chance = random.Random(seed)
    mode = chance.choice(("64", "64", "compat", "32"))
    near = chance.choice((EDGE, DATA + 0x800, CODE + 0x900, CODE + 0x900))
    code = assemble(program(chance, mode, near))
    assert len(code) < 0x800
    guest, ours = watches(chance, near)
    native, exact = (_made(code, mode, guest, ours, one) for one in (False, True))
    exits = 0
    for one, other in zip(_run(native), _run(exact), strict=True):
        assert one == other, f"seed {seed}"
        exits += 1
    assert native.ram.read(0, 4 << 20) == exact.ram.read(0, 4 << 20), f"seed {seed}"
    return exits - 1


def test_native_code_finds_what_python_finds() -> None:
    assert sum(compared(seed) for seed in range(30)) > 500


@pytest.mark.long
def test_native_code_finds_what_python_finds_many_times() -> None:
    for seed in range(1000, 6000):
        compared(seed)


def test_ranges_are_joined_and_found_by_both() -> None:
    chance, made = random.Random(2), Bench("64")
    search, top = made.cpu.code.function("watched", 64, 4), LAST - 300
    for count in (0, 1, 2, 3, 50, 700):
        places = [chance.choice((0, top)) + chance.randrange(300) if count < 9 else chance.randrange(90_000) for _ in range(count)]
        watched = [Watch(place, place + chance.choice((0, 1, 7, 40)), Kind.WRITE, 0) for place in places]
        held = WatchList("a test")
        ends = held.put(watched)
        for _ in range(400):
            first = min(chance.choice((0, top, *places)) + chance.randrange(-60, 60) & LAST, LAST - 15)
            last = first + chance.choice((0, 1, 7, 15))
            wanted = any(one.first <= last and first <= min(one.last, LAST) for one in watched)
            assert held.touched(first, last) is wanted
            assert search(made.cpu.address, first, last, *ends) == wanted
    assert joined([(5, 6), (0, 3), (4, 4), (8, 9), (2, 2)]) == [(0, 6), (8, 9)]


def test_what_is_watched_elsewhere_in_the_page_never_leaves_for_python() -> None:
    """Reads and stores beside a watchpoint, a store where reads are watched and the reverse: native to the end."""
    made = Bench("64")
    made.cpu.arm([Breakpoint(Owner.DEBUGGER, 0, Kind.WRITE, DATA, 8), Breakpoint(Owner.DEBUGGER, 1, Kind.READ, DATA + 8, 8)], [])
    made.ram.write(CODE, assemble(f"mov edi, {DATA}\nmov rax, [rdi]\nmov [rdi+8], rax\nadd qword ptr [rdi+16], 1\npush [rdi]\nhlt"))
    made.st.rsp = DATA + 0x800
    left = []
    made.cpu.note_access = lambda *access: left.append(access)  # type: ignore[method-assign]
    assert made.cpu.run() == Halted()
    assert (left, made.ram.read_int(DATA + 16, 8)) == ([], 1)
