"""Which constants of an instruction its code merely carries along: such a template serves every value they may have.

A kernel that is loaded elsewhere at each boot (KASLR) differs in the addresses that its instructions hold, and in nothing else.
What becomes of such a constant is not asked of the decoders but observed: the instruction is lowered with another value, too, and
where the two differ by just that difference, the constant goes.
"""

from collections.abc import Callable

from iced_x86 import ConstantOffsets, Instruction, Register

from trapgate.isa.native.placing import EXTENDED, LEAST_PARAMETER, MOST_PARAMETER, PLAIN, RELATIVE
from trapgate.soft.followers import followers
from trapgate.soft.template import Builder, Template

_OTHER = 0x00155540  # bits that the second value has flipped


def addresses(i: Instruction, places: ConstantOffsets, raw: bytes) -> tuple[int, ...]:
    """Offsets of the 32-bit constants of an instruction that look like addresses of a kernel, or like distances from them."""
    found = []
    if places.has_displacement and places.displacement_size == 4 and not _moves_along(i):
        found.append(places.displacement_offset)
    if (
        places.has_immediate
        and not i.near_branch_target
        and (places.immediate_size == 4 or raw[places.immediate_offset + 4 :] == b"\xff" * 4)
    ):
        found.append(places.immediate_offset)
    return tuple(at for at in found if LEAST_PARAMETER <= int.from_bytes(raw[at : at + 4], "little") < MOST_PARAMETER)


def without(raw: bytes, places: tuple[int, ...]) -> bytes:
    """Instruction bytes with nothing but the signs of some 32-bit constants left."""
    for at in places:
        raw = raw[:at] + bytes((0, 0, 0, raw[at + 3] & 0x80)) + raw[at + 4 :]
    return raw


def _moves_along(i: Instruction) -> bool:
    """The displacement is relative to RIP and names a place that moves with the code."""
    return i.is_ip_rel_memory_operand and i.memory_segment not in (Register.FS, Register.GS)


def parametrised(raw: bytes, places: tuple[int, ...], dead: bool, lower: Callable[[bytes], Builder | None]) -> Template:
    """The template of an instruction, the constants at `places` split off where they can be. `dead`: flags are not stored."""
    builder = lower(raw)
    assert builder is not None
    template = builder.finish(dead)
    parameters: list[tuple[int, int, int, int]] = []
    gone = set[int]()  # RIP holes
    for at in places:
        value = int.from_bytes(raw[at : at + 4], "little")
        other = lower(raw[:at] + (value ^ _OTHER).to_bytes(4, "little") + raw[at + 4 :])
        if other is None:
            continue
        two = other.finish(dead)
        found = followers(template, builder.fields, two, other.fields, (value ^ _OTHER) - value)
        if found is None or found.exits:
            continue
        signed = value - (1 << 32) if value >> 31 else value
        parameters += [(at, PLAIN if size == 4 else EXTENDED, hole, held - signed) for hole, size, held in found.fields]
        parameters += [(at, RELATIVE, template.rips[n][0], template.rips[n][1] - signed) for n in found.rips]
        gone.update(found.rips)
    if not parameters:
        return template
    rips = tuple(rip for n, rip in enumerate(template.rips) if n not in gone)
    return template._replace(parameters=tuple(parameters), rips=rips)
