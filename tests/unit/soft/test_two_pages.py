"""Operands in two pages: native code reads, writes and modifies them, and leaves what the exact path leaves."""

import random

import pytest

from trapgate.exits import Halted, Shutdown
from trapgate.isa import state as s
from unit.soft.bench import CODE, STACK0, Bench
from unit.soft.test_hostile import architectural, different
from unit.soft.test_native_frames import LOWER, STACK, UPPER, _all_in_python, _made, _run

OPERATIONS = (
    "mov eax, [rdi]", "mov rdx, [rdi]", "mov bx, [rdi]", "mov [rdi], rax", "mov [rdi], ecx", "mov [rdi], dx",
    "add dword ptr [rdi], 7",
    "sub [rdi], rdx", "not word ptr [rdi]", "lock add qword ptr [rdi], 3", "lock xadd [rdi], eax", "xchg [rdi], rbx",
    "lock cmpxchg [rdi], edx", "movups xmm0, [rdi]", "movups [rdi], xmm0", "movsd xmm1, [rdi]", "cvtsi2sd xmm2, dword ptr [rdi]",
    "fld tbyte ptr [rdi]", "fstp tbyte ptr [rdi]", "fild qword ptr [rdi]", "fstp dword ptr [rdi]",
    "shl dword ptr [rdi], 3", "bts qword ptr [rdi], 5", "sgdt [rdi]",
)  # fmt: skip


def _program(chance: random.Random, rows: int) -> str:
    lines = ["fninit"]
    for _ in range(rows):
        lines.append(f"mov edi, {STACK - chance.randrange(1, 12)}")
        lines.append(chance.choice(OPERATIONS))
    return "\n".join([*lines, "hlt"])


def _filled(program: str, chance: random.Random, upper: bool = True) -> Bench:
    made = _made(STACK + chance.randrange(-12, 12), upper, program)
    made.ram.write(LOWER, chance.randbytes(4096))
    made.ram.write(UPPER, chance.randbytes(4096))
    for name in ("rax", "rbx", "rcx", "rdx"):
        setattr(made.st, name, chance.getrandbits(64))
    return made


@pytest.mark.parametrize("seed", range(12))
def test_operands_in_two_pages(seed: int) -> None:
    program = _program(random.Random(seed), 20)
    made, exact = (_filled(program, random.Random(seed)) for _ in range(2))
    _all_in_python(exact)
    end, left = _run(made)
    assert (end, exact.cpu.run()) == (Halted(), Halted()), program
    assert left[s.EXIT_ACCESS] == 0
    exact.st.pending_debug = 0
    changed = [name for name in different(architectural(made), architectural(exact)) if not name.startswith("x87_f")]
    assert not changed, program
    assert made.ram.read(0, 1 << 20) == exact.ram.read(0, 1 << 20), program


@pytest.mark.parametrize("operation", OPERATIONS[:18])
def test_a_second_page_that_is_not_there_leaves_the_first_alone(operation: str) -> None:
    made = _filled(f"mov edi, {STACK - 1}\n{operation}\nhlt", random.Random(operation), upper=False)
    made.st.rsp, before = STACK0, made.ram.read(LOWER, 4096)
    assert isinstance(made.cpu.run(), Halted | Shutdown)
    assert made.st.cr2 == STACK
    assert made.ram.read(LOWER, 4096) == before


def test_an_operand_in_two_pages_that_is_code() -> None:
    made = Bench("64")
    code = bytes.fromhex(
        "bf ff0f0100 b8 f4f4f4f4 8907 e9"
    )  # mov edi, the last byte of the page; mov eax, four HLT; mov [rdi], eax; jmp
    made.ram.write(CODE, code + (0xFFF - len(code) - 4).to_bytes(4, "little"))
    made.ram.write(CODE + 0xFFF, bytes.fromhex("90 0f0b0f0b"))
    assert made.cpu.run() == Halted()
    assert made.st.rip == CODE + 0x1000
