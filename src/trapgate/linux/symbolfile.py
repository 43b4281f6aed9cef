"""Writes the symbols of a running kernel as an ELF file, for debuggers that take names from files (System V ABI, chapter 4)."""

import struct
from collections.abc import Sequence
from itertools import accumulate, pairwise

from trapgate.linux.kallsyms import KernelSymbol
from trapgate.values import dataclass

_EXECUTABLE = 2


@dataclass(frozen=True, slots=True)
class _Class:
    """What files of 64 and of 32 bits have apart: their number, machine, records, and the order in a symbol."""

    number: int
    machine: int
    header: struct.Struct
    section: struct.Struct
    symbol: struct.Struct
    value_first: bool

    def row(self, name: int, info: int, section: int, value: int, size: int) -> bytes:
        """A symbol."""
        if self.value_first:
            return self.symbol.pack(name, value, size, info, 0, section)
        return self.symbol.pack(name, info, 0, section, value, size)


_CLASSES = {
    8: _Class(2, 62, struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQIIQQ"), struct.Struct("<IBBHQQ"), False),
    4: _Class(1, 3, struct.Struct("<16sHHIIIIIHHHHHH"), struct.Struct("<10I"), struct.Struct("<IIIBBH"), True),
}  # by bytes of a pointer
_SYMTAB, _STRTAB, _NOBITS = 2, 3, 8
_WRITE, _ALLOC, _EXEC = 1, 2, 4
_FUNCTION, _OBJECT, _GLOBAL = 2, 1, 1 << 4
_TEXT, _DATA, _SYMBOLS, _STRINGS, _NAMES = range(1, 6)  # the sections, by number
_SECTION_NAMES = b"\0.text\0.data\0.symtab\0.strtab\0.shstrtab\0"
PER_CPU = "Aa"  # kinds of symbols that are no addresses: offsets in each vCPU's area, constants


def symbol_file(symbols: Sequence[KernelSymbol], word: int = 8) -> bytes:
    """An ELF file with these symbols, sorted by address, and no contents: debuggers read those from the guest.

    `word`: bytes of a pointer, 8 or 4.
    """
    elf = _CLASSES[word]
    placed = [one for one in symbols if one.label[0] not in PER_CPU]
    assert placed, "a kernel has code"
    local = [one for one in placed if one.label[0].islower()]
    table, names = _table(elf, local + [one for one in placed if not one.label[0].islower()], placed)
    start, end = placed[0].address, placed[-1].address + 1
    at = elf.header.size
    sections = [bytes(elf.section.size)]
    for name, kind, flags, data, extra in (
        (b".text", _NOBITS, _ALLOC | _EXEC, b"", (0, 0, 16, 0)),
        (b".data", _NOBITS, _ALLOC | _WRITE, b"", (0, 0, 16, 0)),
        (b".symtab", _SYMTAB, 0, table, (_STRINGS, len(local) + 1, word, elf.symbol.size)),
        (b".strtab", _STRTAB, 0, names, (0, 0, 1, 0)),
        (b".shstrtab", _STRTAB, 0, _SECTION_NAMES, (0, 0, 1, 0)),
    ):
        place, size = (start, end - start) if kind == _NOBITS else (0, len(data))
        sections.append(elf.section.pack(_SECTION_NAMES.index(name + b"\0"), kind, flags, place, at, size, *extra))
        at += len(data)
    ident = (b"\x7fELF" + bytes((elf.number, 1, 1))).ljust(16, b"\0")
    sizes = elf.header.size, 0, 0, elf.section.size, len(sections), _NAMES
    header = elf.header.pack(ident, _EXECUTABLE, elf.machine, 1, start, 0, at, 0, *sizes)
    return b"".join((header, table, names, _SECTION_NAMES, *sections))


def _table(elf: _Class, symbols: Sequence[KernelSymbol], placed: Sequence[KernelSymbol]) -> tuple[bytes, bytes]:
    """The symbol table and its strings. A symbol has the bytes up to the next address of one."""
    size = {a: b - a for a, b in pairwise(address for address, _ in placed) if a != b}
    kinds = {label[0] for _, label in symbols}
    known_as = {kind: (_OBJECT if kind not in "Tt" else _FUNCTION) | _GLOBAL * (not kind.islower()) for kind in kinds}
    section = {kind: _TEXT if kind in "Tt" else _DATA for kind in kinds}
    strings = b"\0" + "\0".join([label[1:] for _, label in symbols]).encode("latin-1") + b"\0"
    at = accumulate((len(label) for _, label in symbols), initial=1)  # a zero instead of the kind
    rows = [
        elf.row(place, known_as[label[0]], section[label[0]], address, size.get(address, 1))
        for place, (address, label) in zip(at, symbols, strict=False)
    ]
    return bytes(elf.symbol.size) + b"".join(rows), strings
