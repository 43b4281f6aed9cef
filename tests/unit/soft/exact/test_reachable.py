"""Every handler in Python can be reached: some encoding, in some mode, is lowered to a call of it. The rest would be dead code."""

from collections.abc import Iterator
from itertools import product

from iced_x86 import Decoder, Instruction

from trapgate.arch.models import CpuModel
from trapgate.isa import modes
from trapgate.soft.decode.lowering import Lowering
from trapgate.soft.state.instructions import HANDLERS
from unit.soft.bench import library

MAPS = ("", "0f", "0f38", "0f3a")
PREFIXES = ("", "66", "f3", "f2", "48")
MODRM = ("06", "0e", "16", "1e", "26", "2e", "36", "3e", *(f"{n:02x}" for n in range(0xC0, 0x100)))
CPL3 = 3 << modes.CPL_SHIFT
MODES = {
    16: (modes.REAL, modes.REAL | CPL3),
    32: (modes.CODE32 | modes.FLAT, modes.CODE32 | CPL3),
    64: (modes.CODE64, modes.CODE64 | CPL3, modes.CODE64 | modes.SSE_UNMASKED | modes.AVX),
}
MODELS = ("EPYC-Turin", "SapphireRapids,+invpcid,+serialize")
VEX_MODRM = ("06", "16", "c2", "0413")  # the last one for gathers: [rbx + xmm2]
FOLLOWING = b"\1" * 8  # displacements, immediates: ENTER is Python's at levels above 0


def test_an_encoding_leads_to_each_handler() -> None:
    missing = set(HANDLERS)
    lowerings = [Lowering(library(), CpuModel.parse(name)) for name in MODELS]
    for bits, instruction, raw in encodings():
        if instruction.mnemonic in missing and any(_calls(one, raw, mode) for one in lowerings for mode in MODES[bits]):
            missing.remove(instruction.mnemonic)
    assert not missing, [HANDLERS[mnemonic].__qualname__ for mnemonic in missing]


def encodings() -> Iterator[tuple[int, Instruction, bytes]]:
    """One encoding of each iced-x86 `Code` and code size, with few of its operands."""
    seen = set[tuple[int, int]]()
    for bits, prefix, plane, opcode, modrm in product(MODES, PREFIXES, MAPS, range(256), MODRM):
        raw = bytes.fromhex(f"{prefix}{plane}{opcode:02x}{modrm}") + FOLLOWING
        yield from _new(seen, bits, raw)
    bit = (0, 1)
    for group, w, register, wide, pp, code, after in product((1, 2, 3), bit, bit, bit, range(4), range(256), VEX_MODRM):
        last = w << 7 | (register ^ 0xF) << 3 | wide << 2 | pp
        yield from _new(seen, 64, bytes((0xC4, 0xE0 | group, last, code)) + bytes.fromhex(after) + FOLLOWING)


def _new(seen: set[tuple[int, int]], bits: int, raw: bytes) -> Iterator[tuple[int, Instruction, bytes]]:
    instruction = Decoder(bits, raw).decode()
    if (key := (bits, instruction.code)) not in seen:
        seen.add(key)
        yield bits, instruction, raw[: instruction.len]


def _calls(lowering: Lowering, raw: bytes, mode: int) -> bool:
    """Whether the instruction may leave for its handler: at once, or when a native function finds its case not plain."""
    return any("Uop" in holes or name.startswith("native.") for name, holes in lowering.lowered(raw, mode).ops)
