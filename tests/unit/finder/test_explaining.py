"""From an address that was told to the line of source, for programs as people build them."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from trapgate.finder import explaining, locks, program, spaces
from trapgate.finder.explaining import NotExplained
from trapgate.finder.lines import Line
from trapgate.finder.program import Program, ProgramError, Programs
from trapgate.finder.spaces import Mapped
from trapgate.finder.told import Told
from unit.finder.programs import LINE, WAYS, built, folder, functions, stripped

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
PAGE_OF_PIE = 0x5555_5555_4000


@pytest.fixture
def programs() -> Iterator[Programs]:
    with Programs() as programs:
        yield programs


def told(way: str, function: str, moved: int, programs: Programs, *, after: bool) -> Told:
    """What Linux would say of the first locked instruction of a function."""
    start = functions()[way][function]
    code = programs[str(built(way))].code(start, 64)
    for at in range(64):
        instruction = locks.at(code[at:], start + at, 64)
        if instruction is not None and instruction.has_lock_prefix:
            return Told(instruction.ip + moved + (instruction.len if after else 0), after)
    raise AssertionError("no lock in it")


@pytest.mark.parametrize("after", [False, True], ids=["#AC", "#DB"])
@pytest.mark.parametrize("way", WAYS)
def test_by_the_mappings_of_a_process(way: str, after: bool, programs: Programs) -> None:
    path, moved = str(built(way)), 0 if way == "static" else PAGE_OF_PIE
    space = [Mapped(at + moved, at + moved + size, offset, path) for at, offset, size, _ in programs[path].loaded]
    found = explaining.in_space(told(way, "bump_global", moved, programs, after=after), space, programs)
    assert found.moved == moved
    text = "\n".join(explaining.story(Told(0, after), found))
    assert f"{path} in bump_global+" in text
    assert "lock " in text
    assert ("HERE" in text) == (way != "no lines"), text
    if way != "library":
        assert "from byte 60 of a line of 64 into the next:" in text
        assert "|" + 60 * "." + "####|####..." in text


@pytest.mark.parametrize("after", [False, True], ids=["#AC", "#DB"])
@pytest.mark.parametrize("way", WAYS)
def test_by_the_file_alone(way: str, after: bool, programs: Programs) -> None:
    path, moved = str(built(way)), 0 if way == "static" else PAGE_OF_PIE
    event = told(way, "bump", moved, programs, after=after)
    found = explaining.in_files(event, [path], programs)
    assert programs[path].function(found[0].instruction.ip) == ("bump", functions()[way]["bump"])
    assert "an address in rdi, which the kernel does not tell" in "\n".join(explaining.story(event, found[0]))


def test_lines_of_every_kind_of_debug_information(programs: Programs) -> None:
    for way in ("static", "pie", "dwarf4", "library"):
        event = told(way, "bump_global", 0, programs, after=False)
        assert programs[str(built(way))].line(event.address) == Line(str(folder() / "source.c"), LINE + 1), way
    assert programs[str(built("no lines"))].line(functions()["no lines"]["main"]) is None


def test_more_debug_information_than_anybody_waits_for_is_left_alone(monkeypatch: pytest.MonkeyPatch, programs: Programs) -> None:
    start = functions()["pie"]["bump_global"]
    monkeypatch.setattr(program, "MOST_DEBUG", 100)
    assert programs[str(built("pie"))].line(start) is None
    assert programs[str(built("pie"))].function(start) == ("bump_global", start)


def test_symbols_in_a_file_apart(programs: Programs) -> None:
    start = functions()["pie"]["bump_global"]
    assert programs[str(stripped(True))].function(start) == ("bump_global", start)
    assert programs[str(stripped(True))].line(start) is not None
    bare = programs[str(stripped(False))]
    assert bare.line(start) is None
    event = told("pie", "bump_global", PAGE_OF_PIE, programs, after=True)
    known, guessed = (explaining.in_files(event, [path], programs)[0].instruction for path in (str(built("pie")), bare.path))
    assert (guessed.ip, guessed.len) == (known.ip, known.len)


def test_a_living_process(programs: Programs) -> None:
    with subprocess.Popen([str(built("pie"))]) as process:
        try:
            space: list[Mapped] = []
            while not any(one.path == str(built("pie")) for one in space):
                with suppress(spaces.SpaceError):  # it has nothing mapped while it becomes another program
                    space = spaces.of_process(process.pid)
            base = min(one.start for one in space if one.path == str(built("pie")))
            event = told("pie", "bump_global", base, programs, after=True)
            found = explaining.in_space(event, space, programs)
            assert found.moved == base
            assert programs[found.program.path].function(found.instruction.ip) is not None
        finally:
            process.kill()


def test_what_cannot_be_explained(programs: Programs, tmp_path: Path) -> None:
    path = str(built("pie"))
    main = functions()["pie"]["main"]
    with pytest.raises(NotExplained, match="no file is mapped"):
        explaining.in_space(Told(0x1000, False), [Mapped(0x5000, 0x6000, 0, path)], programs)
    with pytest.raises(NotExplained, match="no locked instruction there"):
        explaining.in_space(Told(main, False), [Mapped(main & ~0xFFF, (main & ~0xFFF) + 0x1000, main & ~0xFFF, path)], programs)
    with pytest.raises(NotExplained, match="another file by now"):
        explaining.in_space(Told(0x7000_0000, False), [Mapped(0x7000_0000, 0x7000_1000, 1 << 30, path)], programs)
    with pytest.raises(NotExplained, match="no locked instruction of"):
        explaining.in_files(Told(PAGE_OF_PIE + main, False), [path], programs)
    for name, data in (("text", b"#!/bin/sh\n"), ("empty", b""), ("cut", built("pie").read_bytes()[:70]), ("arm", _for_arm())):
        broken = tmp_path / name
        broken.write_bytes(data)
        with pytest.raises(ProgramError, match="no ELF program"):
            Program(str(broken))
    with pytest.raises(ProgramError, match="cannot be read"):
        Program(str(tmp_path / "none"))
    with pytest.raises(ProgramError, match="no regular file"):
        Program(str(tmp_path))


def _for_arm() -> bytes:
    data = bytearray(built("pie").read_bytes())
    data[18:20] = (183).to_bytes(2, "little")
    return bytes(data)


@pytest.mark.parametrize(
    ("first", "size", "drawing"),
    [(62, 4, "|" + "." * 62 + "##|##..."), (63, 2, "|" + "." * 63 + "#|#..."), (0, 8, "|########...")],
)
def test_the_drawing(first: int, size: int, drawing: str) -> None:
    assert explaining.drawn(first, size) == drawing
