"""Reads the text screen that many a small guest writes to: characters and attributes at B8000h, which no card shows here.

Source: IBM PS/2 and PC BIOS Interface Technical Reference, "BIOS data area" (video display data area 1, 449h, and 2, 484h).
"""

from collections.abc import Callable

MEMORY, SIZE = 0xB8000, 0x8000
_DATA, _DATA_SIZE = 0x400, 0x100
_COLUMNS, _PAGE, _LAST_ROW = 0x4A, 0x4E, 0x84  # offsets in the data area: a word, a word in bytes, a byte
_USUAL = 80, 25
_WIDTHS, _HEIGHTS = (40, 80, 132), range(24, 61)
# Code page 437 as the card draws it: below 20h there are pictures, and 00h is as blank as 20h.
_GLYPHS = (
    " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
    + bytes(range(0x20, 0x7F)).decode("ascii")
    + "⌂"
    + bytes(range(0x80, 0xFF)).decode("cp437")
    + " "
)


def text(read: Callable[[int, int], bytes]) -> list[str]:
    """The lines of the screen without attributes, nor blanks at their ends; none when it is blank. `read`: RAM at an address.

    It has 80 columns and 25 rows, or what the BIOS data area says, where that is sensible: a guest may keep other things there.
    """
    data = read(_DATA, _DATA_SIZE)
    columns, rows = int.from_bytes(data[_COLUMNS : _COLUMNS + 2], "little"), data[_LAST_ROW] + 1
    if columns not in _WIDTHS or rows not in _HEIGHTS:
        columns, rows = _USUAL if columns not in _WIDTHS else (columns, _USUAL[1])
    start, size = int.from_bytes(data[_PAGE : _PAGE + 2], "little"), 2 * columns * rows
    if start + size > SIZE or start % 2:
        start = 0
    characters = read(MEMORY + start, size)[::2]
    shown = "".join(_GLYPHS[code] for code in characters)
    lines = [shown[at : at + columns].rstrip() for at in range(0, len(shown), columns)]
    while lines and not lines[-1]:
        lines.pop()
    return lines
