"""Says which file lies at an address of a process: by /proc/PID/maps, a copy of it, or a core dump (proc(5), core(5))."""

import os
import re
import struct
from typing import BinaryIO

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from trapgate.errors import TrapgateError
from trapgate.hostcall import NotAFile, open_file
from trapgate.values import dataclass

MOST_TEXT = 64 << 20  # bytes of a list of mappings
_LINE = re.compile(r"(?P<start>[0-9a-f]+)-(?P<end>[0-9a-f]+) [r-][w-][x-][ps] (?P<offset>[0-9a-f]+) \S+ \d+ *(?P<path>.*)")
_NT_FILE = 0x46494C45
_DELETED = " (deleted)"


class SpaceError(TrapgateError):
    """What says which files a process has cannot be read."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """A file's bytes from `offset` on lie at addresses [start, end)."""

    start: int
    end: int
    offset: int
    path: str


def of_process(pid: int) -> list[Mapped]:
    """A living process's. SpaceError when there is none, or it is another user's."""
    return of_text(f"/proc/{pid}/maps", f"process {pid}")


def of_text(path: str, what: str = "") -> list[Mapped]:
    """What a file like /proc/PID/maps lists. SpaceError."""
    try:
        with open(path, "rb") as file:  # not `open_file`: those of /proc are read as they are made
            text = file.read(MOST_TEXT).decode("utf-8", "surrogateescape")
    except OSError as error:
        raise SpaceError(f"cannot read the mappings of {what or path}: {error.strerror}") from error
    found = [
        Mapped(int(match["start"], 16), int(match["end"], 16), int(match["offset"], 16), match["path"].removesuffix(_DELETED))
        for line in text.splitlines()
        if (match := _LINE.fullmatch(line)) is not None and match["path"].startswith("/")
    ]
    if not found:
        raise SpaceError(f"{what or path} lists no mapped file, as /proc/PID/maps does")
    return found


def of_core(path: str) -> list[Mapped]:
    """What a core dump says was mapped (its note NT_FILE). SpaceError."""
    try:
        with os.fdopen(open_file(path), "rb") as file:
            return _noted(file, path)
    except (OSError, ELFError, struct.error, ValueError, KeyError, AttributeError, TypeError) as error:
        if isinstance(error, OSError) and (isinstance(error, NotAFile) or error.errno is not None):
            raise SpaceError(f"cannot read {path}: {error.strerror}") from error
        raise SpaceError(f"{path} is no core dump that can be read") from error


def _noted(file: BinaryIO, path: str) -> list[Mapped]:
    elf = ELFFile(file)
    for segment in elf.iter_segments("PT_NOTE"):
        at, end = segment["p_offset"], segment["p_offset"] + segment["p_filesz"]
        file.seek(at)
        data = file.read(min(end - at, MOST_TEXT))
        at = 0
        while at + 12 <= len(data):
            name, size, kind = struct.unpack_from("<III", data, at)
            body = at + 12 + -(-name // 4) * 4
            if kind == _NT_FILE:
                return _files(data[body : body + size], 8 if elf.elfclass == 64 else 4)
            at = body + -(-size // 4) * 4
    raise SpaceError(f"{path} does not say which files its process had mapped; is it a core dump?")


def _files(note: bytes, word: int) -> list[Mapped]:
    letter = "Q" if word == 8 else "I"
    count, page = struct.unpack_from(f"<2{letter}", note)
    if count > len(note) // word:
        raise ValueError("a note that is longer than itself")
    triples = struct.unpack_from(f"<{3 * count}{letter}", note, 2 * word)
    names = note[(2 + 3 * count) * word :].split(b"\0")
    return [
        Mapped(triples[3 * n], triples[3 * n + 1], triples[3 * n + 2] * page, os.fsdecode(names[n]))
        for n in range(min(count, len(names)))
    ]


def find(space: list[Mapped], address: int) -> Mapped | None:
    """What lies at an address."""
    return next((one for one in space if one.start <= address < one.end), None)
