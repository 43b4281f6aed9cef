"""Looks into a program or library on disk: its code, its functions, its source lines; with debug information kept apart, too.

Names come from the symbol table or, in a stripped file, from the dynamic one; lines from DWARF (DWARF 5, 6.2).
"""

import os
import struct
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from elftools.common.exceptions import DWARFError, ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Section, SymbolTableSection

from trapgate.errors import TrapgateError
from trapgate.finder.inlines import Inlined, inlined
from trapgate.finder.lines import Line, line_of, units
from trapgate.finder.locals import Held, Local, local
from trapgate.finder.types import member, variable
from trapgate.hostcall import NotAFile, open_file

MOST_DEBUG = 128 << 20  # bytes of debug information; of more, no lines of source are looked for
DEBUG_FOLDER = Path("/usr/lib/debug")
_BROKEN = (ELFError, DWARFError, struct.error, LookupError, ValueError, ArithmeticError, AttributeError, TypeError, AssertionError)
_TABLES = (".symtab", ".dynsym")
_PROGRAM = ("ET_EXEC", "ET_DYN")
_X86 = {"EM_X86_64": 64, "EM_386": 32}


class ProgramError(TrapgateError):
    """A file that is no program for x86, or cannot be read."""


class Program:
    """An ELF program or library. ProgramError when the file is none. Addresses are those of the file, as it is linked.

    `file`: what has its bytes, where no file of that path does.
    """

    def __init__(self, path: str, file: BinaryIO | None = None) -> None:
        self.path = path
        try:
            self._file = os.fdopen(open_file(path), "rb") if file is None else file
        except OSError as error:
            where = "is no regular file" if isinstance(error, NotAFile) else f"cannot be read: {error.strerror}"
            raise ProgramError(f"{path} {where}") from error
        try:
            self._elf = ELFFile(self._file)
            self.bits = _X86[self._elf["e_machine"]]
            if self._elf["e_type"] not in _PROGRAM:
                raise ValueError("an object file")
            self.moves = self._elf["e_type"] == "ET_DYN"
            """Whether it is loaded anywhere: a shared library or position-independent program."""
            self.loaded = [
                (one["p_vaddr"], one["p_offset"], one["p_filesz"], bool(one["p_flags"] & 1))
                for one in self._elf.iter_segments("PT_LOAD")
            ]
            """(address, offset in the file, bytes, whether it is code) of each part that is loaded."""
        except _BROKEN as error:
            self._file.close()
            raise ProgramError(f"{path} is no ELF program or shared library for x86") from error

    def close(self) -> None:
        """Give its files back."""
        for elf in (self._elf, *self.__dict__.get("_apart", ())):
            elf.stream.close()

    def open_apart(self) -> None:
        """Open the files beside it that hold what was stripped from it: a sandbox may bar that later."""
        assert self._apart is not None

    def address_of(self, offset: int) -> int | None:
        """The address of a byte of the file; None when it is not loaded."""
        return next((address + offset - at for address, at, size, _ in self.loaded if at <= offset < at + size), None)

    def code(self, address: int, length: int) -> bytes:
        """Code from an address on, up to the end of the part that it is in; nothing where there is none."""
        return self.content(address, length, code=True)

    def content(self, address: int, length: int, *, code: bool = False) -> bytes:
        """What is loaded from an address on, up to the end of the part that it is in; nothing where there is none."""
        for start, at, size, executable in self.loaded:
            if (executable or not code) and start <= address < start + size:
                self._file.seek(at + address - start)
                return self._file.read(min(length, start + size - address))
        return b""

    def segment(self, kind: str) -> tuple[int, bytes] | None:
        """(address, content) of the first segment of a kind ("PT_GNU_EH_FRAME"); None where there is none."""
        try:
            one = next(self._elf.iter_segments(kind), None)
            return None if one is None else (one["p_vaddr"], self.content(one["p_vaddr"], one["p_filesz"]))
        except _BROKEN:
            return None

    def sections(self, name: str) -> Iterator[tuple[int, bytes]]:
        """(address, content) of each section of a name, in this file and those apart, if it is there and not beyond all bounds."""
        for elf in (self._elf, *self._apart):
            try:
                section = elf.get_section_by_name(name)
                if section is not None and section["sh_type"] != "SHT_NOBITS" and section.data_size <= MOST_DEBUG:
                    yield section["sh_addr"], section.data()
            except _BROKEN:
                continue

    def function(self, address: int) -> tuple[str, int] | None:
        """(name, address) of the function that an address is in, or of the last before it; None where nothing has a name."""
        at = bisect_right(self._starts, address) - 1
        return None if at < 0 else (self._functions[at][1], self._functions[at][0])

    def variable(self, address: int) -> tuple[str, int] | None:
        """(name, address) of the global variable that an address is in; None where none is known to be."""
        for elf in (self._elf, *self._apart):
            for name in _TABLES:
                try:
                    table = elf.get_section_by_name(name)
                    if isinstance(table, SymbolTableSection):
                        for one in table.iter_symbols():
                            start = one["st_value"]
                            if one["st_info"]["type"] == "STT_OBJECT" and one.name and start <= address < start + one["st_size"]:
                                return one.name, start
                except _BROKEN:
                    continue
        return None

    def line(self, address: int) -> Line | None:
        """The line of source that an address comes from; None where that is not known."""
        for elf in self._with_lines:
            try:
                for unit in units(elf, address):
                    if (found := line_of(unit, address)) is not None:
                        return found
            except _BROKEN:
                continue  # debug information is a help, and may be of a kind that is not known
        return None

    def inlined(self, address: int) -> list[Inlined]:
        """The functions that a compiler has put into each other at an address, the innermost first; none where there are none."""
        for elf in self._with_lines:
            try:
                for unit in units(elf, address):
                    if (found := inlined(unit, address)) is not None:
                        return found
            except _BROKEN:
                continue
        return []

    def member(self, code: int, name: str, offset: int) -> str:
        """The part of a global variable that code at an address sees there, as source says it behind its name; "" if not known."""
        for elf in self._with_lines:
            try:
                for unit in units(elf, code):
                    if (found := variable(unit, name)) is not None:
                        return member(found, offset)
            except _BROKEN:
                continue
        return ""

    def local(self, address: int, place: Held) -> Local | None:
        """The variable at a place of the frame of the function that has an address; None where none is known to be."""
        for elf in self._with_lines:
            try:
                for unit in units(elf, address):
                    if (found := local(unit, address, place)) is not None:
                        return found
            except _BROKEN:
                continue
        return None

    @cached_property
    def _functions(self) -> list[tuple[int, str]]:
        found: dict[int, str] = {}
        for elf in (self._elf, *self._apart):
            for name in _TABLES:
                try:
                    table = elf.get_section_by_name(name)
                    if isinstance(table, SymbolTableSection):
                        found.update({value: text for value, text in _functions_of(table) if value not in found})
                except _BROKEN:
                    continue
        return sorted(found.items())

    @cached_property
    def _starts(self) -> list[int]:
        return [address for address, _ in self._functions]

    @cached_property
    def _apart(self) -> list[ELFFile]:
        """Files beside this one that hold what was stripped from it (gdb manual, Separate Debug Files)."""
        found = []
        for path in self._debug_paths():
            try:
                found.append(ELFFile(os.fdopen(open_file(str(path)), "rb")))
            except (OSError, *_BROKEN):
                continue
        return found

    def _debug_paths(self) -> Iterator[Path]:
        try:
            note = self._elf.get_section_by_name(".note.gnu.build-id")
            if isinstance(note, Section):
                build = note.data()[16:].hex()
                yield DEBUG_FOLDER / ".build-id" / build[:2] / f"{build[2:]}.debug"
            link = self._elf.get_section_by_name(".gnu_debuglink")
            if isinstance(link, Section):
                name = os.fsdecode(link.data().partition(b"\0")[0])
                here = Path(self.path).resolve().parent
                if name and "/" not in name:
                    yield from (here / name, here / ".debug" / name, DEBUG_FOLDER / here.relative_to("/") / name)
        except _BROKEN:
            return

    @cached_property
    def _with_lines(self) -> list[ELFFile]:
        return [elf for elf in (self._elf, *self._apart) if elf.has_dwarf_info() and _debug_bytes(elf) <= MOST_DEBUG]


class Programs:
    """Programs that are looked into, each opened once; all are closed at the end of a `with` block."""

    def __init__(self) -> None:
        self._open: dict[str, Program] = {}

    def __enter__(self) -> "Programs":
        """These."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None) -> None:
        """Close them."""
        while self._open:
            self._open.popitem()[1].close()

    def __getitem__(self, path: str) -> Program:
        """The program at a path; ProgramError."""
        if path not in self._open:
            self._open[path] = Program(path)
        return self._open[path]


def _debug_bytes(elf: ELFFile) -> int:
    """How many bytes of debug information there are, uncompressed: a reader takes them all into memory."""
    return sum(section.data_size for section in elf.iter_sections() if section.name.startswith((".debug_", ".zdebug_")))


def _functions_of(table: SymbolTableSection) -> Iterator[tuple[int, str]]:
    for one in table.iter_symbols():
        if one["st_info"]["type"] == "STT_FUNC" and one["st_value"] and one.name:
            yield one["st_value"], one.name
