"""What in a template follows from one constant of the instruction: observed on two instructions that differ in it alone."""

from typing import NamedTuple

from trapgate.soft.template import Exit, Template

_ALL = (1 << 64) - 1
Field = tuple[int, int, int]  # a constant in the code: (offset, bytes, value)


class Followers(NamedTuple):
    """What is greater by as much as the constant: fields of the code, RIP holes and ways out, by their place in the template."""

    fields: tuple[Field, ...]
    rips: tuple[int, ...]
    exits: tuple[int, ...]

    def moved(self, template: Template, by: int) -> Template:
        """The template of the instruction whose constant is greater by so much."""
        code, rips, exits = template.code, template.rips, template.exits
        if self.fields:
            changed = bytearray(code)
            for at, size, held in self.fields:
                changed[at : at + size] = (held + by & (1 << 8 * size) - 1).to_bytes(size, "little")
            code = bytes(changed)
        if self.rips:
            rips = tuple((at, addend + by) if n in self.rips else (at, addend) for n, (at, addend) in enumerate(rips))
        if self.exits:
            exits = tuple(Exit(way.at, way.by + by) if n in self.exits else way for n, way in enumerate(exits))
        return template._replace(code=code, rips=rips, exits=exits)


def followers(one: Template, fields: list[Field], two: Template, other_fields: list[Field], by: int) -> Followers | None:
    """What is greater by `by` in the second template; None where anything else differs. `fields`: constants in the code."""
    shape = (len(one.code), len(fields), len(one.rips), one.colds, one.natives, one.ends, one.reads_flags, one.sets_flags)
    other = (len(two.code), len(other_fields), len(two.rips), two.colds, two.natives, two.ends, two.reads_flags, two.sets_flags)
    if shape != other or one.python or len(one.exits) != len(two.exits):
        return None
    changed = []
    code, other_code = bytearray(one.code), bytearray(two.code)
    for (at, size, held), (other_at, other_size, other_held) in zip(fields, other_fields, strict=True):
        if (at, size) != (other_at, other_size):
            return None
        if held != other_held:
            if size not in (4, 8) or (other_held - held - by) & (1 << 8 * size) - 1:
                return None
            changed.append((at, size, held))
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
