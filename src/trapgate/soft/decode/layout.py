"""Strings micro-ops together: the code of their stencils before any hole is filled, made once for each list of names."""

from trapgate.stencil.library import Library
from trapgate.values import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The stencils of some micro-ops, one behind the other. Offsets are bytes into `code`."""

    code: bytes
    starts: tuple[int, ...]  # of each micro-op, and the end of the last
    values: tuple[tuple[int, int, str, int, int], ...]  # holes for values: (offset, bytes, name, addend, micro-op)
    branches: tuple[tuple[int, int], ...]  # taken branches: (offset, micro-op)
    colds: tuple[tuple[int, str, int], ...]  # 4-byte branches: (offset, native function, offset to resume at)
    natives: tuple[tuple[int, str], ...]  # 4-byte branches straight to a native function
    reads_flags: bool  # the flags before it matter
    sets_flags: bool  # no flag from before it survives, but those it reads
    has_dead: bool  # there is a variant for places where nobody reads its flags


class Layouts:
    """All that one library's stencils were strung to so far."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._made: dict[tuple[tuple[str, ...], bool, bool], Layout] = {}

    def of(self, names: tuple[str, ...], labelled: bool, dead: bool) -> Layout:
        """The layout of some stencils, by their names. `labelled`: some are branched over; `dead`: in variants without flags."""
        key = names, labelled, dead
        found = self._made.get(key)
        if found is None:
            if dead:
                names = tuple(f"{name}!" if f"{name}!" in self.library.stencils else name for name in names)
            found = self._made[key] = self._make(names, labelled)
        return found

    def _make(self, names: tuple[str, ...], labelled: bool) -> Layout:
        stencils, entries = self.library.stencils, self.library.entries
        code, starts = bytearray(), list[int]()
        values, branches, colds, natives = (
            list[tuple[int, int, str, int, int]](), list[tuple[int, int]](), list[tuple[int, str, int]](), list[tuple[int, str]]()
        )  # fmt: skip
        for number, name in enumerate(names):
            stencil = stencils[name]
            start = len(code)
            starts.append(start)
            body, holes = stencil.code, stencil.holes
            last = holes[-1] if holes else None
            falls = last is not None and last.name == "NEXT" and last.offset + 4 == len(body)
            code += body[:-5] if falls else body
            end = len(code)
            for hole in holes[:-1] if falls else holes:
                at = start + hole.offset
                if hole.name.startswith("COLD_"):
                    colds.append((at, hole.name[5:], end))
                elif hole.name == "NEXT":
                    code[at : at + 4] = (end - at - 4).to_bytes(4, "little", signed=True)
                elif hole.name == "TAKEN":
                    branches.append((at, number))
                elif hole.name in entries:
                    natives.append((at, hole.name))
                else:
                    assert hole.name[0] in "RSUBQ", f"{name}: nobody knows hole {hole.name}"
                    values.append((at, hole.size, hole.name, 0 if hole.relative else hole.addend, number))
        starts.append(len(code))
        reads, sets, has_dead = self._flags(names, labelled)
        return Layout(
            bytes(code), tuple(starts), tuple(values), tuple(branches), tuple(colds), tuple(natives), reads, sets, has_dead
        )  # fmt: skip

    def _flags(self, names: tuple[str, ...], labelled: bool) -> tuple[bool, bool, bool]:
        """`reads_flags`, `sets_flags` and `has_dead` of the micro-ops together."""
        reads = sets = has_dead = False
        certain = not labelled  # behind a branch inside the instruction nothing is certain
        stencils = self.library.stencils
        for name in names:
            stencil = stencils[name]
            reads = reads or (stencil.reads_flags and not sets)
            sets = sets or (stencil.sets_flags and certain)
            certain = certain and not any(hole.name == "TAKEN" for hole in stencil.holes)
            has_dead = has_dead or f"{name}!" in stencils
        return reads, sets, has_dead and "lock_end" not in names  # a debug exception behind it shows its flags
