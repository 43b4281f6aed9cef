"""Makes descriptions of types as a kernel carries them (BTF), for whoever reads them."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

INT, POINTER, ARRAY, STRUCT, UNION, TYPEDEF, CONST = 1, 2, 3, 4, 5, 8, 10
Part = tuple[str, int, int]  # name, type, offset in bits


@dataclass
class Btf:
    """A description that grows type by type; each method returns the number of the new one."""

    types: bytearray = field(default_factory=bytearray)
    strings: bytearray = field(default_factory=lambda: bytearray(b"\0"))
    count: int = 0

    def _name(self, text: str) -> int:
        if not text:
            return 0
        self.strings += text.encode() + b"\0"
        return len(self.strings) - len(text) - 1

    def _add(self, kind: int, name: str, word: int, behind: bytes = b"", parts: int = 0, flag: bool = False) -> int:
        self.types += struct.pack("<III", self._name(name), flag << 31 | kind << 24 | parts, word) + behind
        self.count += 1
        return self.count

    def integer(self, name: str, size: int) -> int:
        """A number."""
        return self._add(INT, name, size, struct.pack("<I", 8 * size))

    def alias(self, name: str, of: int, kind: int = TYPEDEF) -> int:
        """Another name for a type, or a qualified one."""
        return self._add(kind, name, of)

    def array(self, of: int, count: int) -> int:
        """An array."""
        return self._add(ARRAY, "", 0, struct.pack("<III", of, of, count))

    def structure(self, name: str, parts: Sequence[Part], size: int = 64, *, union: bool = False, bits: bool = False) -> int:
        """A structure or union; `bits`: some of its members are single bits."""
        behind = b"".join(struct.pack("<III", self._name(part), of, at | (1 << 24 if bits else 0)) for part, of, at in parts)
        return self._add(UNION if union else STRUCT, name, size, behind, len(parts), flag=bits)

    def data(self) -> bytes:
        """All of it."""
        header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings))
        return header + bytes(self.types) + bytes(self.strings)
