"""Holds the debugger's breakpoints: the table that a gdb session fills, as the engine wants it armed.

Inserting what is there and removing what is not are both fine (gdb repeats itself after a lost answer). Numbers given to hardware
breakpoints stay while they are armed, so that a hit names the same breakpoint before and after others come and go.
"""

from dataclasses import field
from heapq import heappop, heappush

from trapgate.errors import TrapgateError
from trapgate.values import dataclass
from trapgate.vcpu import Breakpoint, Kind, Owner

MAX_LENGTH = 1 << 16  # bytes one watchpoint may cover; more is a mistake
MAX_SOFTWARE, MAX_HARDWARE = 4096, 1024  # a client must not grow our memory without bound, nor what each arming costs


class BreakpointError(TrapgateError, ValueError):
    """A breakpoint that cannot be; the text is one line for the user."""


@dataclass(slots=True)
class BreakpointTable:
    """Software breakpoints (addresses) and hardware ones (kind, address, length), the debugger's only."""

    _software: dict[int, None] = field(default_factory=dict)  # ordered as inserted
    _hardware: dict[tuple[Kind, int, int], int] = field(default_factory=dict)  # to the breakpoint's number
    _free: list[int] = field(default_factory=list)  # numbers given back, a heap: with those of `_hardware` all below some number

    def insert_software(self, address: int) -> bool:
        """Plant a software breakpoint; whether it is new. BreakpointError when the table is full."""
        if address in self._software:
            return False
        _check_address(address, 1)
        if len(self._software) >= MAX_SOFTWARE:
            raise BreakpointError(f"{MAX_SOFTWARE} software breakpoints are planted already; remove some")
        self._software[address] = None
        return True

    def remove_software(self, address: int) -> bool:
        """Lift a software breakpoint; whether there was one."""
        return self._software.pop(address, self) is None

    def insert(self, kind: Kind, address: int, length: int) -> bool:
        """Arm a hardware breakpoint; whether it is new. An EXEC breakpoint has length 1. BreakpointError says what cannot be."""
        key = _key(kind, address, length)
        if key in self._hardware:
            return False
        _check_address(address, key[2])
        if not 1 <= key[2] <= MAX_LENGTH:
            raise BreakpointError(f"a watchpoint covers 1 to {MAX_LENGTH} bytes, not {length}")
        if kind is Kind.IO:
            raise BreakpointError("I/O breakpoints belong to the guest; the debugger has execution, write, read and access")
        if len(self._hardware) >= MAX_HARDWARE:
            raise BreakpointError(f"{MAX_HARDWARE} hardware breakpoints are armed already; remove some")
        self._hardware[key] = heappop(self._free) if self._free else len(self._hardware)
        return True

    def remove(self, kind: Kind, address: int, length: int) -> bool:
        """Disarm a hardware breakpoint; whether there was one."""
        number = self._hardware.pop(_key(kind, address, length), None)
        if number is None:
            return False
        heappush(self._free, number)
        return True

    def clear(self) -> None:
        """Forget everything: the debugger is gone."""
        self._software.clear()
        self._hardware.clear()
        self._free.clear()

    def software(self) -> tuple[int, ...]:
        """The addresses of the software breakpoints, as `Vcpu.arm` takes them."""
        return tuple(self._software)

    def hardware(self) -> tuple[Breakpoint, ...]:
        """The hardware breakpoints, as `Vcpu.arm` takes them; `slot` is the number that hits are told by."""
        return tuple(Breakpoint(Owner.DEBUGGER, n, *key) for key, n in self._hardware.items())

    def hit(self, hits: int) -> tuple[Breakpoint, ...]:
        """The breakpoints that a debugger's `Share.hits` names; those removed meanwhile are left out."""
        return tuple(one for one in self.hardware() if hits >> one.slot & 1)

    def count(self, kind: Kind | None = None) -> int:
        """How many hardware breakpoints of a kind are armed, or how many software ones are planted (None)."""
        return len(self._software) if kind is None else sum(key[0] is kind for key in self._hardware)

    def __len__(self) -> int:
        return len(self._software) + len(self._hardware)


def _key(kind: Kind, address: int, length: int) -> tuple[Kind, int, int]:
    return kind, address, 1 if kind is Kind.EXEC else length


def _check_address(address: int, length: int) -> None:
    if not 0 <= address < 1 << 64 or address + length > 1 << 64:
        raise BreakpointError(f"{address:#x}+{length:#x} is outside the 64-bit address space")
