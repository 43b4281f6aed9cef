"""Breakpoints as the software CPU holds them: the debugger's, and those of both as accesses are tested."""

from dataclasses import dataclass

from trapgate.vcpu import Breakpoint, Kind


@dataclass(frozen=True, slots=True)
class Armed:
    """The debugger's breakpoints."""

    hardware: tuple[Breakpoint, ...] = ()
    software: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Watch:
    """A data or I/O breakpoint as accesses are tested: [first, last], and which breakpoint of `armed` it is."""

    first: int
    last: int
    kind: Kind
    index: int
