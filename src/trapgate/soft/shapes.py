"""Instructions that differ in a displacement or in the target of a branch alone: lowered twice, then only moved.

A kernel is full of them, and lowering is the most that translation costs. As with parameters, what follows from the constant is
observed, and where anything else differs each instruction is lowered by itself.
"""

from collections.abc import Callable

from iced_x86 import ConstantOffsets, Instruction, Register

from trapgate.soft.followers import Followers, followers
from trapgate.soft.template import Builder, Template


def variable(i: Instruction, places: ConstantOffsets) -> tuple[int, int]:
    """(offset, bytes) of the displacement or branch distance of a 64-bit instruction; (0, 0) where it has none."""
    if places.has_displacement and int(i.memory_base) != Register.EIP:  # cut to 32 bits: not by the difference
        return places.displacement_offset, places.displacement_size
    if places.has_immediate and i.near_branch_target:
        return places.immediate_offset, places.immediate_size
    return 0, 0


class Shape:
    """One such family, known by the first of its members."""

    def __init__(self, first: Builder, value: int) -> None:
        self._first, self._value = first, value
        self._made: dict[bool, Template] = {}
        self._followers: dict[bool, Followers | None] = {}

    def template(self, value: int, dead: bool, lower: Callable[[], Builder | None]) -> Template:
        """The template of the member with this constant, which `lower` lowers if need be; `dead`: flags are not stored."""
        one = self._made.get(dead)
        if one is None:
            one = self._made[dead] = self._first.finish(dead)
        by = value - self._value
        if not by:
            return one
        if dead in self._followers:
            known = self._followers[dead]
            if known is not None:
                return known.moved(one, by)
        builder = lower()
        assert builder is not None, "a member of the family is lowered as the first is"
        two = builder.finish(dead)
        if dead not in self._followers:
            self._first.finish(dead)  # for its fields
            self._followers[dead] = followers(one, self._first.fields, two, builder.fields, by)
        return two
