"""Kinds of descriptors by their type field, for rows that take every one of them in turn (SDM vol. 3, 3.4.5.1 and 3.5)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A descriptor type: `type` is its four bits, `segment` bit S."""

    name: str
    type: int
    segment: bool

    @property
    def code(self) -> bool:
        """An executable segment."""
        return self.segment and bool(self.type & 8)

    @property
    def conforming(self) -> bool:
        """Code that runs at its caller's level."""
        return self.code and bool(self.type & 4)

    @property
    def readable(self) -> bool:
        """Data, or code that may be read."""
        return self.segment and (not self.code or bool(self.type & 2))

    @property
    def writable(self) -> bool:
        """Data that may be written."""
        return self.segment and not self.code and bool(self.type & 2)

    def access(self, dpl: int, present: bool = True) -> int:
        """The access byte."""
        return self.type | (0x10 if self.segment else 0) | dpl << 5 | (0x80 if present else 0)


SEGMENTS = tuple(
    Kind(name, type, True)
    for type, name in enumerate(
        f"{kind}{accessed}"
        for kind in ("read-only data", "data", "read-only expand-down data", "expand-down data",
                     "execute-only code", "code", "execute-only conforming code", "conforming code")
        for accessed in ("", ", accessed")
    )
)  # fmt: skip
SYSTEM = tuple(
    Kind(name, type, False)
    for type, name in enumerate(
        ("type 0", "16-bit TSS", "LDT", "busy 16-bit TSS", "16-bit call gate", "task gate", "16-bit interrupt gate",
         "16-bit trap gate", "type 8", "TSS", "type 10", "busy TSS", "call gate", "type 13", "interrupt gate", "trap gate")
    )
)  # fmt: skip
FRESH = SEGMENTS[::2]  # not accessed
EVERY = SYSTEM + SEGMENTS
