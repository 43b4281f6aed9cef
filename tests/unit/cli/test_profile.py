"""What `run --profile` prints, and where the names of guest addresses come from."""

import os
from collections import Counter
from pathlib import Path

import pytest

from trapgate import guests
from trapgate.cli.profile import MOST_EXITS, Profiler, lines
from trapgate.profile import Figures, Spent
from trapgate.symbols import FURTHEST, Symbols, SymbolsError, read_symbols
from trapgate.vcpu import Place


def figures() -> Figures:
    made = Figures(native=1_500_000_000, translation=Spent(1000, 500_000_000), asleep=Spent(3, 1_000_000_000))
    made.exits = {f"reason {n}": Spent(10, 100_000 * n) for n in range(MOST_EXITS + 2)}
    made.exits["IN from port 3FDh"] = Spent(4, 1_000_000_000 - sum(one.time for one in made.exits.values()))
    made.samples = Counter({Place(0x1010, 0): 60, Place(0x1000, 0): 20, Place(0x2004, 3): 15, Place(0x9000000, 3): 5})
    return made


def test_the_lines() -> None:
    said = list(lines(figures(), Symbols([(0x2000, "second"), (0x1000, "first")])))
    assert said[:5] == [
        "profile of 4.00 s:",
        "  native code             1.500 s   38%",
        "  translation             0.500 s   12%   1,000 blocks, 500.0 us each",
        "  Python and devices      1.000 s   25%",
        "  asleep in HLT           1.000 s   25%   3 times",
    ]
    exits = said[6 : 6 + MOST_EXITS + 1]
    assert exits[0].split() == ["IN", "from", "port", "3FDh", "4", "0.986", "246600.0"]
    assert exits[-1].split() == ["3", "more", "reasons", "30", "0.000", "10.0"]  # what takes least is told together
    assert said[6 + MOST_EXITS + 1 :] == [
        "hottest guest code, by 100 samples of native code:",
        "   80.0%  first (CPL 0, hottest at 0x1010)",
        "   15.0%  second (CPL 3, hottest at 0x2004)",
        "    5.0%  0x9000000 (CPL 3)",
    ]


def test_nothing_measured() -> None:
    said = list(lines(Figures(), Symbols([])))
    assert said[0] == "profile of 0.00 s:"
    assert said[-1] == "no samples of guest code were taken"


def test_symbols_by_address() -> None:
    symbols = Symbols([(0x2000, "b"), (0x1000, "a")])
    assert symbols.find(0xFFF) is None
    assert symbols.find(0x1000) == ("a", 0)
    assert symbols.find(0x1FFF) == ("a", 0xFFF)
    assert symbols.find(0x2000 + FURTHEST) is None
    assert not Symbols([])


def test_nobody_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SymbolsError, match="it is not a file"):
        read_symbols(str(tmp_path / "pipe"))


def test_symbols_of_an_elf_file() -> None:
    symbols = read_symbols(str(guests.DEMO))
    assert symbols
    named = dict(zip(symbols._names, symbols._addresses, strict=True))
    assert symbols.find(named["enter_ring3"] + 1) == ("enter_ring3", 1)


def test_symbols_of_a_system_map(tmp_path: Path) -> None:
    path = tmp_path / "System.map"
    path.write_text(
        "ffffffff81000000 T _text\nffffffff81000040 t early\nffffffff82000000 D jiffies\nffffffff81000080 W weak\n\n0 A none\n"
    )
    symbols = read_symbols(str(path))
    assert symbols._names == ["_text", "early", "weak"]
    assert symbols.find(0xFFFFFFFF81000050) == ("early", 0x10)
    path.write_text("ffffffff81000000 T _text\nnonsense T name\n")
    with pytest.raises(SymbolsError, match=r"neither a whole ELF file nor a System\.map"):
        read_symbols(str(path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "neither a whole ELF"),
        (b"\x7fELF", "neither a whole ELF"),
        (b"MZ" * 100, "neither a whole ELF"),
    ],
)
def test_symbols_that_cannot_be_read(content: bytes | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SymbolsError, match=reason):
        read_symbols(str(path))


def test_a_damaged_elf_file_ends_in_one_line(tmp_path: Path) -> None:
    """Every cut, and every byte of the headers changed: names, none, or a SymbolsError, never anything else."""
    whole = guests.DEMO.read_bytes()
    path = tmp_path / "damaged"
    cuts = [whole[:n] for n in range(0, len(whole), len(whole) // 40)]
    headers = [*range(64), *range(int.from_bytes(whole[40:48], "little"), len(whole), 3)]
    changed = [whole[:at] + bytes((whole[at] ^ 0xFF,)) + whole[at + 1 :] for at in headers]
    said = set[str]()
    for data in (*cuts, *changed):
        path.write_bytes(data)
        try:
            read_symbols(str(path))
        except SymbolsError as error:
            said.add(str(error))
    assert said == {f"{path} holds no symbols that can be read: it is neither a whole ELF file nor a System.map"}


def test_a_debuggers_stops_tell_it_when_a_second_is_new() -> None:
    told: list[str] = []
    profiler = object.__new__(Profiler)
    profiler._tell, profiler._told, profiler._symbols = told.append, 0, Symbols([])

    class Pretended:
        figures = Figures(native=999_999_999)

    profiler.profile = Pretended()  # type: ignore[assignment]
    profiler.stopped()
    assert told == []
    Pretended.figures.native += 1
    profiler.stopped()
    assert told[0] == "profile of 1.00 s:"
    count = len(told)
    profiler.stopped()
    assert len(told) == count
