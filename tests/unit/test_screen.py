"""The text screen as lines: its size, its page, its characters, and data areas that say nothing sensible."""

import pytest

from trapgate.screen import text

LETTERS = bytes(range(0x41, 0x5B))


def ram(area: dict[int, bytes], screen: dict[int, bytes]) -> bytearray:
    memory = bytearray(0x100000)
    for at, data in area.items():
        memory[0x400 + at : 0x400 + at + len(data)] = data
    for at, data in screen.items():
        memory[0xB8000 + at : 0xB8000 + at + 2 * len(data) : 2] = data
        memory[0xB8001 + at : 0xB8001 + at + 2 * len(data) : 2] = b"\x1f" * len(data)
    return memory


def lines(area: dict[int, bytes], screen: dict[int, bytes]) -> list[str]:
    memory = ram(area, screen)
    return text(lambda address, length: bytes(memory[address : address + length]))


def test_a_blank_screen_has_no_lines() -> None:
    assert lines({}, {}) == []
    assert lines({}, {0: b" " * 2000}) == []


def test_80_by_25_without_blanks_at_the_ends() -> None:
    assert lines({}, {0: b"Hello  ", 160: b"", 2 * 160 + 4: b"you"}) == ["Hello", "", "  you"]
    assert lines({}, {24 * 160 + 158: b"x"}) == [*[""] * 24, " " * 79 + "x"]
    assert lines({}, {25 * 160: b"beyond"}) == []


@pytest.mark.parametrize(
    ("area", "row"),
    [
        ({0x4A: b"\x28\0"}, 80),  # 40 columns
        ({0x4A: b"\x50\0", 0x84: b"\x31"}, 160),  # 80 by 50
        ({0x4A: b"\x84\0", 0x84: b"\x2b"}, 264),  # 132 by 44
        ({0x4A: b"\xff\xff", 0x84: b"\xff", 0x4E: b"\xff\xff"}, 160),  # nothing of the kind
        ({0x4A: b"\x50\0", 0x84: b"\0"}, 160),  # a BIOS before the EGA says nothing of rows
    ],
)
def test_its_size(area: dict[int, bytes], row: int) -> None:
    assert lines(area, {row: LETTERS, 3 * row: b"x"}) == ["", LETTERS.decode(), "", "x"]


def test_another_page() -> None:
    assert lines({0x4A: b"\x50\0", 0x4E: b"\0\x10"}, {0: b"first", 0x1000: b"second"}) == ["second"]
    assert lines({0x4E: b"\xff\x7f"}, {0: b"first"}) == ["first"]


def test_every_character_is_one_and_prints() -> None:
    (line,) = lines({0x4A: b"\x84\0"}, {0: bytes(range(1, 129))})
    assert line.startswith("☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼ !")
    assert line.endswith("~⌂Ç")
    assert line.isprintable()
    (line,) = lines({0x4A: b"\x84\0"}, {0: bytes(range(128, 255))})
    assert len(line) == 127
    assert "░▒▓│┤" in line
