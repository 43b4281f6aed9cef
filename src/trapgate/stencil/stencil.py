"""Holds a stencil: machine code with holes."""

from trapgate.values import dataclass


@dataclass(frozen=True, slots=True)
class Hole:
    """A place in a stencil that is filled when it is copied: `size` bytes at `offset`, PC-relative or not."""

    offset: int
    size: int
    relative: bool
    name: str
    addend: int


@dataclass(frozen=True, slots=True)
class Stencil:
    """Machine code with holes."""

    code: bytes
    holes: tuple[Hole, ...]
    reads_flags: bool = False  # as `isa.facts` found them in the body
    sets_flags: bool = False
