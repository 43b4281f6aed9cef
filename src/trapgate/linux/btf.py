"""Reads the types of a running kernel, which describes them itself (CONFIG_DEBUG_INFO_BTF; Linux, Documentation/bpf/btf.rst).

So the members of its structures are found where this build has them, and nothing is assumed about releases.
"""

import struct
from functools import cache

from trapgate.errors import TrapgateError
from trapgate.values import dataclass

_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")  # magic, version, flags, header's length, offset and length of types, of strings
_TYPE = struct.Struct("<III")  # name, information, size or type
_MEMBER = struct.Struct("<III")  # name, type, offset in bits
_ARRAY, _STRUCT, _UNION, _TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG = 3, 4, 5, 8, 9, 10, 11, 18
_ALIASES = (_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG)
_INT, _ENUM, _FUNC_PROTO, _VAR, _DATASEC, _DECL_TAG, _ENUM64, _LAST = 1, 6, 13, 14, 15, 17, 19, 19
_FIXED = {_INT: 4, _ARRAY: 12, _VAR: 4, _DECL_TAG: 4}  # bytes behind the three words, by kind
_EACH = {_STRUCT: 12, _UNION: 12, _ENUM: 8, _FUNC_PROTO: 8, _DATASEC: 12, _ENUM64: 12}  # or for each of so many parts
_DEEPEST = 16


class TypesError(TrapgateError):
    """The kernel does not describe its types, or lacks one that is wanted."""


@dataclass(frozen=True, slots=True)
class Member:
    """Where a member of a structure lies, in bytes from its beginning, and the number of its type."""

    offset: int
    type: int


class Types:
    """All types of a kernel. TypesError when `data` is no description of any."""

    def __init__(self, data: bytes) -> None:
        if len(data) < _HEADER.size:
            raise TypesError("the kernel does not describe its types (CONFIG_DEBUG_INFO_BTF)")
        magic, version, _, length, types, types_size, strings, strings_size = _HEADER.unpack_from(data)
        if magic != _MAGIC or version != 1:
            raise TypesError("the kernel's description of its types is none that is known")
        self._types = data[length + types : length + types + types_size]
        self._strings = data[length + strings : length + strings + strings_size]
        self._places = [0]  # of each type, by number; 0 is void
        self._named: dict[bytes, int] = {}
        self._index()
        self.member = cache(self._member)

    def _index(self) -> None:
        at = 0
        while at + _TYPE.size <= len(self._types):
            name, information, _ = _TYPE.unpack_from(self._types, at)
            kind, parts = information >> 24 & 0x1F, information & 0xFFFF
            if kind > _LAST:
                raise TypesError(f"the kernel describes types of kind {kind}, which is not known")
            if kind in (_STRUCT, _UNION) and name:
                self._named.setdefault(self._string(name), len(self._places))
            self._places.append(at)
            at += _TYPE.size + _FIXED.get(kind, 0) + _EACH.get(kind, 0) * parts

    def _string(self, at: int) -> bytes:
        end = self._strings.find(b"\0", at)
        return self._strings[at : max(end, at)]

    def _member(self, structure: str, path: str) -> Member:
        """A member of a structure, of those inside it too: "signal", "se.vruntime". TypesError when there is none."""
        number = self._named.get(structure.encode())
        if number is None:
            raise TypesError(f"this kernel has no struct {structure}")
        offset = 0
        for name in path.split("."):
            found = self._find(number, name.encode(), 0)
            if found is None:
                raise TypesError(f"struct {structure} of this kernel has no {path}")
            offset += found.offset
            number = found.type
        return Member(offset, number)

    def offset(self, structure: str, path: str) -> int:
        """Where a member begins, in bytes; TypesError when there is none."""
        return self.member(structure, path).offset

    def _find(self, number: int, wanted: bytes, depth: int) -> Member | None:
        """A member of a type by its name, also in structures without a name of their own."""
        kind, parts, at, inner, mask = self._shape(number)
        if kind == _ARRAY and depth < _DEEPEST:  # its first element
            return self._find(int.from_bytes(self._types[at : at + 4], "little"), wanted, depth + 1)
        if kind in _ALIASES and depth < _DEEPEST:
            return self._find(inner, wanted, depth + 1)
        if kind not in (_STRUCT, _UNION):
            return None
        for place in range(at, min(at + _MEMBER.size * parts, len(self._types) - _MEMBER.size + 1), _MEMBER.size):
            name, type_, bits = _MEMBER.unpack_from(self._types, place)
            offset = (bits & mask) // 8
            if name and self._string(name) == wanted:
                return Member(offset, type_)
            if not name and depth < _DEEPEST and (inside := self._find(type_, wanted, depth + 1)) is not None:
                return Member(offset + inside.offset, inside.type)
        return None

    def _shape(self, number: int) -> tuple[int, int, int, int, int]:
        """Kind, number of parts, place of what follows, third word of a type, bits that are a member's offset.

        The shape of void when there is no such type.
        """
        if not 0 < number < len(self._places):
            return 0, 0, 0, 0, 0
        at = self._places[number]
        _, information, word = _TYPE.unpack_from(self._types, at)
        mask = 0xFF_FFFF if information >> 31 else 0xFFFF_FFFF  # bits 31:24 are the size of members of single bits
        return information >> 24 & 0x1F, information & 0xFFFF, at + _TYPE.size, word, mask
