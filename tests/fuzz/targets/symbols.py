"""Symbol tables of ELF files, and lists of symbols as `nm` prints them."""

import atexit
import shutil
import struct
from pathlib import Path
from tempfile import mkdtemp
from typing import BinaryIO

from elftools.common.exceptions import ELFError

from fuzz.target import Target, without_numbers
from trapgate import symbols

_FILE = Path(mkdtemp(prefix="trapgate-fuzz-")) / "symbols"
atexit.register(shutil.rmtree, _FILE.parent)
_NAMES = b"\0.text\0.symtab\0.strtab\0start\0loop\0"


def _elf() -> bytes:
    """An ELF64 file of three sections: code, two symbols in it, names."""
    code, table = b"\x90" * 16, b""
    for name, value in ((_NAMES.find(b"start"), 0x1000), (_NAMES.find(b"loop"), 0x1008)):
        table += struct.pack("<IBBHQQ", name, 2, 0, 1, value, 8)
    body, headers, at = b"", bytes(64), 64
    for title, kind, flags, data, link, size in (
        (b".text", 1, 6, code, 0, 0),
        (b".symtab", 2, 0, table, 3, 24),
        (b".strtab", 3, 0, _NAMES, 0, 0),
    ):
        headers += struct.pack("<IIQQQQIIQQ", _NAMES.find(title), kind, flags, 0x1000, at + len(body), len(data), link, 0, 1, size)
        body += data
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x1000, 0, 64 + len(body), 0, 64, 56, 0, 64, 4, 3)
    return head + body + headers


def run(data: bytes) -> str:
    """Read the symbols of a file and ask for one."""
    _FILE.write_bytes(data)
    try:
        found = symbols.read_symbols(str(_FILE))
    except symbols.SymbolsError as error:
        text = str(error)
        assert text.isprintable()
        assert "holds no symbols" in text, text  # reading it is no trouble
        return without_numbers(text.replace(str(_FILE), "it"))
    for address in (0, 0x1000, 0x1004, (1 << 64) - 1):
        known = found.find(address)
        assert known is None or (isinstance(known[0], str) and 0 <= known[1] < symbols.FURTHEST)
    return "symbols" if found else "none"


def plant() -> None:
    """What is no whole ELF file was not expected."""
    right = symbols.__dict__["ELFFile"]

    def whole(file: BinaryIO) -> object:
        try:
            return right(file)
        except ELFError as error:
            raise AssertionError("not whole") from error

    symbols.__dict__["ELFFile"] = whole


TARGET = Target(
    run,
    [_elf(), b"0000000000001000 T start\n0000000000001008 t loop\n", b"ffffffff81000000 W _text\n" * 3],
    plant,
    words=(b"\n00001000 T ", b" t ", b"\x02\0\0\0\x03\0\0\0"),
    short=400,
)
