"""32-bit and 16-bit code: cases that go to compatibility mode by a far return, and instructions for them from random bytes.

What 64-bit mode has no encodings for lives here: INC and DEC in one byte, PUSHA, BCD, BOUND, 16-bit addresses. 16-bit code and its
data lie in segments of the local descriptor table, with a base and a limit.
"""

import random
import struct
from typing import NamedTuple

from iced_x86 import CpuidFeature, Decoder, Formatter, FormatterSyntax, Mnemonic, OpKind, Register

from . import operands
from .compare import Case
from .draft import Draft
from .forms import Form, names
from .guest_kernel import USER_CS32, USER_SS
from .state import CODE, CODE16, CODE_PAGE, DATA16, FX_INIT, RSP, SCRATCH, SCRATCH_SIZE, Runner, State

# 64-bit code: mov ds, [selector]; mov es, [selector]; push USER_CS32; push entry; retfq; selector: .word USER_SS
_SIZE = 23
PREFIX = (
    b"\x8e\x1d" + struct.pack("<i", 15) + b"\x8e\x05" + struct.pack("<i", 9) + bytes((0x6A, USER_CS32))
    + b"\x68" + struct.pack("<I", CODE + _SIZE) + b"\x48\xcb" + struct.pack("<H", USER_SS)
)  # fmt: skip
assert len(PREFIX) == _SIZE
# The same for 16-bit code, SS as well: mov ss, [selector] just before retfq, which in 64-bit mode asks no segment
_SIZE16 = 29
PREFIX16 = (
    b"\x8e\x1d" + struct.pack("<i", 21) + b"\x8e\x05" + struct.pack("<i", 15) + bytes((0x6A, CODE16))
    + b"\x68" + struct.pack("<I", CODE - CODE_PAGE + _SIZE16) + b"\x8e\x15" + struct.pack("<i", 2)
    + b"\x48\xcb" + struct.pack("<H", DATA16)
)  # fmt: skip
assert len(PREFIX16) == _SIZE16


class Narrow(NamedTuple):
    """Code of so many bits: what goes there, and the instruction pointer of that."""

    bits: int
    prefix: bytes
    start: int

    @property
    def entry(self) -> int:
        """The instruction pointer of the first instruction behind the prefix."""
        return self.start + len(self.prefix)


CODE_32, CODE_16 = Narrow(32, PREFIX, CODE), Narrow(16, PREFIX16, CODE - CODE_PAGE)
_FEATURES = frozenset(getattr(CpuidFeature, f"INTEL{name}") for name in ("8086", "186", "286", "386", "486")) | {CpuidFeature.CMOV}
# What enters the host's kernel, reads or changes state that differs between host and guest, or would linger in the host's process.
_LEFT_OUT = frozenset(
    getattr(Mnemonic, name)
    for name in (
        "INT INT1 INT3 LDS LES LFS LGS LSS RETF IRET IRETD POPF POPFD SLDT STR SGDT SIDT SMSW LAR LSL VERR VERW UD0 UD1"
    ).split()
)
_SEGMENTS = frozenset(getattr(Register, name) for name in ("ES", "CS", "SS", "DS", "FS", "GS"))
_PREFIXES = (0x66, 0x67, 0xF2, 0xF3, 0x2E, 0x36, 0x3E, 0x26)
_formatter = Formatter(FormatterSyntax.INTEL)


def mode_of(code: bytes) -> Narrow | None:
    """The mode that a case goes to by its first bytes; None where it stays in 64-bit mode."""
    return next((mode for mode in (CODE_32, CODE_16) if code.startswith(mode.prefix)), None)


def goes_there(runner: Runner, mode: Narrow) -> bool:
    """Whether a runner's code can go to a mode: a kernel may give no process a 16-bit segment."""
    gpr = (SCRATCH + 0x1000,) * 16
    return runner.run(mode.prefix + b"\x90", State(gpr, 0x202, FX_INIT, bytes(SCRATCH_SIZE))).fault is None


def make_form(rng: random.Random, mode: Narrow = CODE_32) -> Form | None:
    """An instruction from random bytes, None when they make none that may run here. `code` holds the prefix, too."""
    prefixes = bytes(rng.choice(_PREFIXES) for _ in range(rng.choice((0, 0, 0, 1, 1, 2))))
    opcode = bytes((0x0F,)) * (rng.random() < 0.25) + bytes((rng.randrange(256),))
    raw = prefixes + opcode + rng.randbytes(10)
    i = Decoder(mode.bits, raw, ip=mode.entry).decode()
    if i.mnemonic in (Mnemonic.LOOPE, Mnemonic.LOOPNE) and {0xF2, 0xF3} & set(raw[: i.len - 2]):
        return None  # reserved; on AMD the prefix, not the opcode, says which of the two it is
    far = i.is_call_far or i.is_call_far_indirect or i.is_jmp_far or i.is_jmp_far_indirect
    if i.is_invalid or i.mnemonic in _LEFT_OUT or far or i.has_lock_prefix or i.is_privileged:
        return None
    if not set(i.cpuid_features()) <= _FEATURES:
        return None
    if mode.start <= i.near_branch_target < i.next_ip:
        return None  # a loop, through itself or PREFIX, of up to four thousand million rounds
    memory = any(i.op_kind(n) >= OpKind.MEMORY_SEG_SI for n in range(i.op_count))
    if memory and (i.mnemonic == Mnemonic.XCHG or i.memory_segment in (Register.FS, Register.GS)):
        return None
    if i.op_count and i.op0_kind == OpKind.REGISTER and i.op0_register in _SEGMENTS and i.mnemonic != Mnemonic.PUSH:
        return None
    if i.mnemonic == Mnemonic.PUSH and i.op0_kind == OpKind.REGISTER and i.op0_register in (Register.FS, Register.GS):
        return None
    return Form(mode.prefix + raw[: i.len], i, names(Mnemonic)[i.mnemonic].lower(), _formatter.format(i))


def make_case(rng: random.Random, mode: Narrow = CODE_32) -> Case:
    """A case with a state whose registers mostly point into the scratch area."""
    while (form := make_form(rng, mode)) is None:
        pass
    base = SCRATCH if mode is CODE_32 else rng.getrandbits(16) << 16
    draft = Draft(form, rng)
    stack = draft.gpr[RSP] & ~7
    for number in range(8):
        near = base + 0x1000 + rng.randrange(-0x700, 0x700)
        draft.gpr[number] = near if rng.random() < 0.6 else operands.integer(rng, 32)
    draft.gpr[RSP] = stack
    return Case(form, State(tuple(draft.gpr), draft.rflags, draft.fx, bytes(draft.memory)))
