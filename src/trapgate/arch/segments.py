"""Converts segment and gate descriptors: bytes to fields and back (SDM vol. 3, 3.4.5, 3.5, 6.11, 6.14.1; APM vol. 2, 4.7, 4.8)."""

from enum import IntEnum
from typing import Self

from trapgate.values import dataclass, replace

TYPE_ACCESSED = 1  # code and data
TYPE_WRITABLE = 2  # data
TYPE_READABLE = 2  # code
TYPE_EXPAND_DOWN = 4  # data
TYPE_CONFORMING = 4  # code
TYPE_CODE = 8

SELECTOR_RPL = 3
SELECTOR_LDT = 4
SELECTOR_INDEX = 0xFFF8

# Attribute word: bits 23:8 of the descriptor's second dword, moved to bit 0. Same layout as VMX access rights without their bit 16.
ATTR_TYPE = 0xF
ATTR_S = 1 << 4
ATTR_DPL = 3 << 5
ATTR_P = 1 << 7
ATTR_AVL = 1 << 12
ATTR_L = 1 << 13
ATTR_DB = 1 << 14
ATTR_G = 1 << 15
ATTRIBUTES = 0xF0FF
"""All of them. Between their halves a descriptor has limit 19:16."""


class SystemType(IntEnum):
    """Types of descriptors with S = 0. In long mode 16-bit TSS, call, interrupt and trap gates and the task gate do not exist."""

    TSS16 = 1
    LDT = 2
    TSS16_BUSY = 3
    CALL_GATE16 = 4
    TASK_GATE = 5
    INTERRUPT_GATE16 = 6
    TRAP_GATE16 = 7
    TSS = 9
    TSS_BUSY = 11
    CALL_GATE = 12
    INTERRUPT_GATE = 14
    TRAP_GATE = 15


TSS_BUSY_BIT = 2


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A code, data, LDT or TSS descriptor. `limit` is the 20-bit field as stored; `byte_limit` is what it means."""

    base: int = 0
    limit: int = 0
    type: int = 0
    s: bool = True  # code or data, not system
    dpl: int = 0
    present: bool = False
    avl: bool = False
    long: bool = False  # CS.L
    db: bool = False  # default size 32 (CS.D, SS.B)
    granular: bool = False

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Decode 8 bytes, or the 16 of a long-mode LDT or TSS descriptor (base bits 63:32 in bytes 8-11)."""
        if len(raw) not in (8, 16):
            raise ValueError(f"a descriptor has 8 or 16 bytes, not {len(raw)}")
        low = int.from_bytes(raw[:8], "little")
        base = low >> 16 & 0xFFFFFF | low >> 32 & 0xFF000000
        if len(raw) == 16:
            base |= int.from_bytes(raw[8:12], "little") << 32
        return cls.from_attributes(base, low & 0xFFFF | low >> 32 & 0xF0000, low >> 40 & 0xFFFF)

    @classmethod
    def from_attributes(cls, base: int, limit: int, attributes: int) -> Self:
        """From base, the 20-bit limit field and the attribute word (ATTR_*; bits 11:8 are ignored)."""
        return cls(
            base=base,
            limit=limit,
            type=attributes & ATTR_TYPE,
            s=bool(attributes & ATTR_S),
            dpl=attributes >> 5 & 3,
            present=bool(attributes & ATTR_P),
            avl=bool(attributes & ATTR_AVL),
            long=bool(attributes & ATTR_L),
            db=bool(attributes & ATTR_DB),
            granular=bool(attributes & ATTR_G),
        )

    @property
    def attributes(self) -> int:
        """The attribute word: type, S, DPL, P in bits 7:0, AVL, L, D/B, G in bits 15:12."""
        return (
            self.type
            | self.s << 4
            | self.dpl << 5
            | self.present << 7
            | self.avl << 12
            | self.long << 13
            | self.db << 14
            | self.granular << 15
        )

    def to_bytes(self, size: int = 8) -> bytes:
        """Encode as 8 bytes (base cut to 32 bits) or 16 bytes (long-mode system descriptor)."""
        if size not in (8, 16):
            raise ValueError(f"a descriptor has 8 or 16 bytes, not {size}")
        low = self.limit & 0xFFFF | (self.base & 0xFFFFFF) << 16 | self.attributes << 40
        low |= (self.limit >> 16 & 0xF) << 48 | (self.base >> 24 & 0xFF) << 56
        return low.to_bytes(8, "little") + ((self.base >> 32).to_bytes(8, "little") if size == 16 else b"")

    @property
    def byte_limit(self) -> int:
        """The limit in bytes: the highest offset inside an expand-up segment."""
        return self.limit << 12 | 0xFFF if self.granular else self.limit

    @property
    def is_code(self) -> bool:
        """An executable segment."""
        return self.s and bool(self.type & TYPE_CODE)

    @property
    def is_data(self) -> bool:
        """A data (or stack) segment."""
        return self.s and not self.type & TYPE_CODE

    @property
    def writable(self) -> bool:
        """A data segment that may be written."""
        return self.is_data and bool(self.type & TYPE_WRITABLE)

    @property
    def readable(self) -> bool:
        """A segment that may be read: all data, and readable code."""
        return self.is_data or (self.is_code and bool(self.type & TYPE_READABLE))

    @property
    def conforming(self) -> bool:
        """Code that keeps the caller's CPL."""
        return self.is_code and bool(self.type & TYPE_CONFORMING)

    @property
    def expand_down(self) -> bool:
        """A data segment whose valid offsets lie above the limit."""
        return self.is_data and bool(self.type & TYPE_EXPAND_DOWN)

    def accessed(self) -> Self:
        """The same descriptor with the accessed bit set (code and data only)."""
        return replace(self, type=self.type | TYPE_ACCESSED) if self.s else self

    def contains(self, offset: int, size: int) -> bool:
        """Whether [offset, offset + size) lies within the limit (outside 64-bit mode; SDM vol. 3, 5.3)."""
        last = offset + size - 1
        if self.expand_down:
            return offset > self.byte_limit and last <= (0xFFFFFFFF if self.db else 0xFFFF)
        return last <= self.byte_limit


@dataclass(frozen=True, slots=True)
class Gate:
    """A call, interrupt or trap gate. In long mode it has 16 bytes, a 64-bit offset, and interrupt gates an IST index."""

    selector: int
    offset: int
    type: int
    dpl: int = 0
    present: bool = True
    ist: int = 0
    s: bool = False

    @classmethod
    def from_bytes(cls, raw: bytes) -> "Gate":
        """Decode 8 bytes (protected mode) or 16 (long mode)."""
        if len(raw) not in (8, 16):
            raise ValueError(f"a gate has 8 or 16 bytes, not {len(raw)}")
        low = int.from_bytes(raw[:8], "little")
        offset = low & 0xFFFF | low >> 32 & 0xFFFF0000
        if len(raw) == 16:
            offset |= int.from_bytes(raw[8:12], "little") << 32
        return cls(
            selector=low >> 16 & 0xFFFF,
            offset=offset,
            type=low >> 40 & 0xF,
            dpl=low >> 45 & 3,
            present=bool(low >> 47 & 1),
            ist=low >> 32 & 7 if len(raw) == 16 else 0,
            s=bool(low >> 44 & 1),
        )

    def to_bytes(self, size: int = 16) -> bytes:
        """Encode as 8 bytes (protected mode) or 16 (long mode)."""
        if size not in (8, 16):
            raise ValueError(f"a gate has 8 or 16 bytes, not {size}")
        low = self.offset & 0xFFFF | self.selector << 16 | (self.offset >> 16 & 0xFFFF) << 48
        low |= self.type << 40 | self.s << 44 | self.dpl << 45 | self.present << 47
        if size == 8:
            return low.to_bytes(8, "little")
        return (low | self.ist << 32).to_bytes(8, "little") + (self.offset >> 32).to_bytes(8, "little")
