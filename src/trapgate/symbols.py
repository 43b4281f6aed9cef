"""Names guest addresses: from the symbol table of an ELF file, or from a System.map."""

import errno
import os
import re
import struct
from bisect import bisect_right
from collections.abc import Sequence
from typing import BinaryIO

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Section

from trapgate.errors import TrapgateError
from trapgate.hostcall import NotAFile, open_file

LISTED = re.compile(rb"[0-9a-fA-F]{8,16} [A-Za-z] \S")  # the first line of a System.map
LONGEST_LINE = 256
MOST_LISTED = 1 << 28  # bytes of a System.map: none comes near
FUNCTION_OR_LABEL = (0, 2)  # STT_NOTYPE, STT_FUNC
RESERVED = 0xFF00  # SHN_LORESERVE: absolute and common symbols name no code
EXECUTABLE = 4  # SHF_EXECINSTR
FURTHEST = 1 << 20  # an address further behind the last symbol than this belongs to something without a name


class SymbolsError(TrapgateError):
    """A file that no symbols can be had from."""


class Symbols:
    """Functions and labels of executable sections, by address."""

    def __init__(self, named: list[tuple[int, str]]) -> None:
        self.named = named = sorted(named)
        self._addresses = [address for address, _ in named]
        self._names = [name for _, name in named]

    def __bool__(self) -> bool:
        return bool(self._names)

    def find(self, address: int) -> tuple[str, int] | None:
        """(name, offset behind it) of the symbol that an address belongs to, or None."""
        at = bisect_right(self._addresses, address) - 1
        if at < 0 or address - self._addresses[at] >= FURTHEST:
            return None
        return self._names[at], address - self._addresses[at]


def read_symbols(path: str) -> Symbols:
    """The symbols of an ELF file, none when it has been stripped, or of a System.map (`nm` prints one). All else: SymbolsError."""
    try:
        with os.fdopen(open_file(path), "rb") as file:
            if LISTED.match(file.read(LONGEST_LINE)):
                file.seek(0)
                return Symbols(_listed(file.read(MOST_LISTED)))
            return Symbols(_named(file))
    except (OSError, ELFError, struct.error, LookupError, ValueError, ArithmeticError, AttributeError, TypeError) as error:
        if isinstance(error, OSError) and (isinstance(error, NotAFile) or error.errno != errno.EINVAL):
            # EINVAL: the file names an offset that no file can have
            raise SymbolsError(f"cannot read symbols from {path}: {error.strerror}") from error
        raise SymbolsError(f"{path} holds no symbols that can be read: it is neither a whole ELF file nor a System.map") from error


def symbols_of(image: str, given: Sequence[str]) -> Symbols:
    """The symbols of the files that the user gave, or of the image when it has any. SymbolsError when those given cannot be had."""
    if not given:
        try:
            return read_symbols(image)
        except SymbolsError:
            return Symbols([])  # most images are no ELF files
    named = []
    for path in given:
        symbols = read_symbols(path)
        if not symbols:
            raise SymbolsError(f"{path} has been stripped of its symbols")
        named += symbols.named
    return Symbols(named)


def _listed(text: bytes) -> list[tuple[int, str]]:
    """Code of a list: address, T, t, W or w, name."""
    found = []
    for line in text.decode("latin-1").splitlines():
        address, kind, name, *_ = [*line.split(), "", "", ""]
        if kind and kind in "TtWw" and name:
            found.append((int(address, 16), name))
    return found


def _named(file: BinaryIO) -> list[tuple[int, str]]:
    """Read directly: a kernel has 150,000 symbols, of which pyelftools would make objects for seconds."""
    elf = ELFFile(file)
    table = elf.get_section_by_name(".symtab")
    if table is None:
        return []
    entries, names = _content(file, table), _content(file, elf.get_section(table["sh_link"]))
    code = {n for n, section in enumerate(elf.iter_sections()) if section["sh_flags"] & EXECUTABLE}
    wide = elf.elfclass == 64
    found = []
    for fields in struct.iter_unpack("<IBBHQQ" if wide else "<IIIBBH", entries):
        name, value, info, section = (fields[0], fields[4], fields[1], fields[3]) if wide else (*fields[:2], fields[3], fields[5])
        if info & 0xF in FUNCTION_OR_LABEL and section in code and 0 < section < RESERVED and name:
            found.append((value, names[name : names.index(b"\0", name)].decode(errors="replace")))
    return found


def _content(file: BinaryIO, section: Section) -> bytes:
    """The bytes of a section that lies in the file as it is; ValueError for any other, before memory is asked for."""
    at, size = section["sh_offset"], section["sh_size"]
    if section["sh_type"] not in ("SHT_SYMTAB", "SHT_STRTAB") or at + size > file.seek(0, os.SEEK_END):
        raise ValueError("a section outside its file")
    file.seek(at)
    return file.read(size)
