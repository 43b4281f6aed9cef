"""Which constants of an instruction its code merely carries along: such a template serves every value they may have.

A kernel that is loaded elsewhere at each boot (KASLR) differs in the addresses that its instructions hold, and in nothing else.
What becomes of such a constant is not asked of the decoders but observed: the instruction is lowered with another value, too, and
where the two differ by just that difference, the constant goes.
"""

from collections.abc import Callable
from dataclasses import replace

from iced_x86 import Decoder, Instruction, Register

from trapgate.isa.native.placing import EXTENDED, LEAST_PARAMETER, MOST_PARAMETER, PLAIN, RELATIVE
from trapgate.soft.template import Builder, Template

_OTHER = 0x00155540  # bits that the second value has flipped
_ALL = (1 << 64) - 1


def constants(raw: bytes, bits: int) -> list[int]:
    """Offsets of the 32-bit constants of an instruction that look like addresses of a kernel, or like distances from them."""
    if bits != 64 or len(raw) < 5:
        return []
    decoder = Decoder(bits, raw, ip=0)
    i = decoder.decode()
    places = decoder.get_constant_offsets(i)
    found = []
    if places.has_displacement and places.displacement_size == 4 and not _moves_along(i):
        found.append(places.displacement_offset)
    if places.has_immediate and (places.immediate_size == 4 or raw[places.immediate_offset + 4 :] == b"\xff" * 4):
        found.append(places.immediate_offset)
    return [at for at in found if LEAST_PARAMETER <= int.from_bytes(raw[at : at + 4], "little") < MOST_PARAMETER]


def _moves_along(i: Instruction) -> bool:
    """The displacement is relative to RIP and names a place that moves with the code."""
    return i.is_ip_rel_memory_operand and i.memory_segment not in (Register.FS, Register.GS)


def parametrised(raw: bytes, builder: Builder, dead: bool, lower: Callable[[bytes], Builder | None]) -> Template:
    """The template of a lowered instruction, its parameters split off; `lower` lowers other bytes, `dead`: flags are not stored."""
    template = builder.finish(dead)
    parameters: list[tuple[int, int, int, int]] = []
    rips = list(template.rips)
    for at in constants(raw, builder.code_size):
        value = int.from_bytes(raw[at : at + 4], "little")
        other = raw[:at] + (value ^ _OTHER).to_bytes(4, "little") + raw[at + 4 :]
        found = _followers(template, builder, lower(other), dead, (value ^ _OTHER) - value)
        if found is None:
            continue
        signed = value - (1 << 32) if value >> 31 else value
        fields, relative = found
        parameters += [(at, PLAIN if size == 4 else EXTENDED, hole, held - signed) for hole, size, held in fields]
        parameters += [(at, RELATIVE, hole, addend - signed) for hole, addend in relative]
        rips = [one for one in rips if one not in relative]
    return replace(template, parameters=tuple(parameters), rips=tuple(rips)) if parameters else template


def _followers(
    one: Template, first: Builder, second: Builder | None, dead: bool, by: int
) -> tuple[list[tuple[int, int, int]], list[tuple[int, int]]] | None:
    """The (constant fields, RIP holes) of `one` that are greater by `by` in the second; None where they differ in anything else."""
    if second is None:
        return None
    two = second.finish(dead)
    if one.python or len(one.code) != len(two.code) or len(first.fields) != len(second.fields) or len(one.rips) != len(two.rips):
        return None
    changed = []
    code, other_code = bytearray(one.code), bytearray(two.code)
    for (at, size, held), (other_at, other_size, other_held) in zip(first.fields, second.fields, strict=True):
        if (at, size) != (other_at, other_size):
            return None
        if held != other_held:
            if size not in (4, 8) or (other_held - held - by) & (1 << 8 * size) - 1:
                return None
            changed.append((at, size, held))
            code[at : at + size] = other_code[at : at + size] = bytes(size)
    relative = []
    for (at, addend), (other_at, other_addend) in zip(one.rips, two.rips, strict=True):
        moved = other_addend - addend & _ALL
        if at != other_at or moved not in (0, by & _ALL):
            return None
        if moved:
            relative.append((at, addend))
    same = (one.colds, one.natives, one.exits, one.ends) == (two.colds, two.natives, two.exits, two.ends)
    return (changed, relative) if same and code == other_code and (changed or relative) else None
