"""Finds which fields of a template change with each constant of the instruction, by lowering the instruction twice.

The decoders are not asked what becomes of a constant: the instruction is lowered with another value as well, and the fields that
differ by just that difference hold the constant. A constant that does anything else belongs to the bytes that a pattern shares.
Instructions of one encoding that became the same micro-ops need this only once.
"""

from collections.abc import Callable, Hashable
from typing import NamedTuple

from trapgate.soft.blocks.constants import Constant
from trapgate.soft.decode.template import Builder, Template

_ALL = (1 << 64) - 1
Field = tuple[int, int, int]  # a constant in the code: (offset, bytes, value)


class Followers(NamedTuple):
    """What is greater by as much as the constant: fields of the code, RIP holes and ways out, each by its number."""

    fields: tuple[int, ...]
    rips: tuple[int, ...]
    exits: tuple[int, ...]


Lower = Callable[[bytes], Builder | None]


class Observed(NamedTuple):
    """A template, the constants in its code, and what follows from those of the instruction that go somewhere."""

    template: Template
    fields: list[Field]
    moved: dict[Constant, Followers]


class Dependents:
    """Remembers which fields follow from which constants."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, list[Followers | None]] = {}

    def observe(
        self, raw: bytes, builder: Builder, free: tuple[Constant, ...], dead: bool, lower: Lower, encoding: Hashable
    ) -> Observed:
        """The template of an instruction with the constants `free`; `lower` lowers others. `dead`: flags are not stored."""
        template = builder.finish(dead)
        fields = builder.fields
        if not free:
            return Observed(template, fields, {})
        kinds, places = [constant[1:] for constant in free], [at for at, *_ in fields]
        key = (encoding, builder.laid_out, *kinds, *places)
        seen = self._seen.get(key)
        if seen is None:
            seen = self._seen[key] = _alone([_follows(raw, constant, template, fields, dead, lower) for constant in free])
        return Observed(template, fields, {constant: one for constant, one in zip(free, seen, strict=True) if one is not None})


def _alone(found: list[Followers | None]) -> list[Followers | None]:
    """The same without constants whose fields an earlier constant has already."""
    taken, alone = set[tuple[str, int]](), list[Followers | None]()
    for one in found:
        what = (
            {(kind, n) for kind, numbers in one._asdict().items() for n in numbers} if one is not None else set[tuple[str, int]]()
        )
        alone.append(None if what & taken else one)
        taken |= what
    return alone


def _follows(raw: bytes, constant: Constant, template: Template, fields: list[Field], dead: bool, lower: Lower) -> Followers | None:
    """Which fields follow from one constant; None where the code does more with it than carry it along."""
    other, by = constant.other(raw)
    builder = lower(other)
    if builder is None:
        return None
    found = followers(template, fields, builder.finish(dead), builder.fields, by)
    if found is None or any(fields[n][1] < min(constant.size, 4) for n in found.fields):
        return None
    return found


def followers(one: Template, fields: list[Field], two: Template, other_fields: list[Field], by: int) -> Followers | None:
    """What is greater by `by` in the second template; None where anything else differs. `fields`: constants in the code."""
    shape = (len(one.code), len(fields), len(one.rips), one.colds, one.natives, one.ends, one.reads_flags, one.sets_flags)
    other = (len(two.code), len(other_fields), len(two.rips), two.colds, two.natives, two.ends, two.reads_flags, two.sets_flags)
    if shape != other or one.python or len(one.exits) != len(two.exits):
        return None
    changed = []
    code, other_code = bytearray(one.code), bytearray(two.code)
    for n, ((at, size, held), (other_at, other_size, other_held)) in enumerate(zip(fields, other_fields, strict=True)):
        if (at, size) != (other_at, other_size):
            return None
        if held != other_held:
            if size not in (1, 4, 8) or (other_held - held - by) & (1 << 8 * size) - 1:
                return None
            changed.append(n)
            code[at : at + size] = other_code[at : at + size] = bytes(size)
    rips = _moved([addend for _, addend in one.rips], [addend for _, addend in two.rips], by)
    exits = _moved([way.by for way in one.exits], [way.by for way in two.exits], by)
    places = [at for at, _ in one.rips] == [at for at, _ in two.rips] and [w.at for w in one.exits] == [w.at for w in two.exits]
    if rips is None or exits is None or not places or code != other_code:
        return None
    return Followers(tuple(changed), rips, exits)


def _moved(one: list[int], two: list[int], by: int) -> tuple[int, ...] | None:
    """Which numbers are greater by `by`; None where one differs by anything else."""
    found = []
    for n, (a, b) in enumerate(zip(one, two, strict=True)):
        if a != b:
            if (b - a - by) & _ALL:
                return None
            found.append(n)
    return tuple(found)
