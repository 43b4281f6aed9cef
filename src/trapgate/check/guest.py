"""Shows the demo guest to Python: its table of cases, the events its handler recorded, and whether they are what they must be."""

import struct
from collections.abc import Callable
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from trapgate import guests
from trapgate.values import dataclass

TF = 1 << 8  # RFLAGS
GENERAL_DETECT = 1 << 13  # DR7.GD
BRANCH_STEP = 1 << 1  # DEBUGCTL.BTF
DB, BP = 1, 3
EXCEPTIONS = {1: "#DB", 3: "#BP", 6: "#UD", 13: "#GP", 14: "#PF"}
NEEDS_BUS_LOCK = 1
_MAX_EVENTS = 128
_WORDS = {64: "Q", 32: "I"}  # by the width of the guest's mode


@dataclass(frozen=True, slots=True)
class Expected:
    """An exception that a case must raise, as its handler must find it."""

    vector: int
    dr6: int
    rip: int
    tf: bool


@dataclass(frozen=True, slots=True)
class Case:
    """One case: what the guest arms, where the instruction that matters is, and what must come of it."""

    number: int
    name: str
    at: int
    ring: int
    rflags: int
    dr: tuple[int, ...]
    dr7: int
    debugctl: int
    needs: int
    value_mask: int
    value: int
    expected: tuple[Expected, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """One exception taken, as the guest's handler found it."""

    case: int
    vector: int
    dr6: int
    dr7: int
    rip: int
    rflags: int
    debugctl: int
    cs: int


@dataclass(frozen=True, slots=True)
class Results:
    """What one run of the guest left in its memory. `values` and `verdicts` (0 skipped, 1 right, 2 wrong) have one entry a case."""

    events: tuple[Event, ...]
    values: tuple[int, ...]
    verdicts: tuple[int, ...]

    def of(self, case: Case) -> tuple[Event, ...]:
        """The events of one case, in order."""
        return tuple(event for event in self.events if event.case == case.number)


class DemoGuest:
    """A shipped image, read once: symbols and cases. `bits`: of its mode, 64 or 32."""

    def __init__(self, path: Path = guests.DEMO) -> None:
        self.path = path
        with path.open("rb") as file:
            elf = ELFFile(file)
            self.bits: int = elf.elfclass
            table = elf.get_section_by_name(".symtab")
            assert isinstance(table, SymbolTableSection)
            self.symbols: dict[str, int] = {symbol.name: symbol["st_value"] for symbol in table.iter_symbols() if symbol.name}
            segment = next(one for one in elf.iter_segments() if one["p_type"] == "PT_LOAD")
            self.base, self.offset, self.size, self.memory = (
                segment[name] for name in ("p_vaddr", "p_offset", "p_filesz", "p_memsz")
            )
            """Of its one segment: address, place in the file, bytes there, bytes in memory."""
            self._data = segment.data()
        word = _WORDS[self.bits]
        self._case_format = struct.Struct(f"<14{word}2Q9{word}")  # struct test_case of guests/demo/demo.h
        self._event_format = struct.Struct(f"<8{word}")
        count = int.from_bytes(self._read(self.symbols["case_count"], 8), "little")
        self.cases = tuple(self._case(number) for number in range(count))

    def _read(self, address: int, length: int) -> bytes:
        start = address - self.base
        assert 0 <= start <= len(self._data) - length, f"{address:#x} is not in the image"
        return self._data[start : start + length]

    def _case(self, number: int) -> Case:
        size = self._case_format.size
        values = self._case_format.unpack(self._read(self.symbols["cases"] + number * size, size))
        name, _entry, at, _resume, ring, rflags = values[:6]
        dr7, debugctl, needs, _flags, value_mask, value, count = values[10:17]
        text = self._data[name - self.base :].split(b"\0", 1)[0].decode("ascii")
        rows = [values[17 + 4 * index : 21 + 4 * index] for index in range(count)]
        expected = tuple(Expected(vector, dr6, rip, bool(tf)) for vector, dr6, rip, tf in rows)
        return Case(number, text, at, ring, rflags, values[6:10], dr7, debugctl, needs, value_mask, value, expected)

    def results(self, read: Callable[[int, int], bytes]) -> Results:
        """What a run left, from a reader of guest-physical memory (address, length)."""

        def integers(symbol: str, count: int) -> tuple[int, ...]:
            return struct.unpack(f"<{count}Q", read(self.symbols[symbol], 8 * count))

        count = min(integers("event_count", 1)[0], _MAX_EVENTS)
        rows = self._event_format.iter_unpack(read(self.symbols["events"], count * self._event_format.size))
        events = tuple(Event(*row) for row in rows)
        return Results(events, integers("values", len(self.cases)), integers("verdicts", len(self.cases)))


def differences(case: Case, results: Results) -> list[str]:
    """What one run got wrong in one case, each a few words; empty when all is right. It trusts nothing that the guest concluded."""
    events = results.of(case)
    wrong = []
    if len(events) != len(case.expected):
        wrong.append(f"{len(events)} exceptions instead of {len(case.expected)}")
    for event, expected in zip(events, case.expected, strict=False):
        debugctl = case.debugctl & ~(BRANCH_STEP if event.vector == DB else 0)  # SDM vol. 3, 18.4.4: #DB clears BTF
        pairs = (
            ("vector", event.vector, expected.vector),
            ("DR6", event.dr6, expected.dr6),
            ("DR7", event.dr7, case.dr7 & ~GENERAL_DETECT),
            ("RIP", event.rip, expected.rip),
            ("RFLAGS.TF", event.rflags >> 8 & 1, int(expected.tf)),
            ("DEBUGCTL", event.debugctl, debugctl),
        )
        wrong += [f"{name} {got:x} instead of {want:x}" for name, got, want in pairs if got != want]
    got = results.values[case.number] & case.value_mask
    if got != case.value:
        wrong.append(f"value {got:x} instead of {case.value:x}")
    if not wrong and results.verdicts[case.number] != 1:
        wrong.append("skipped by the guest" if results.verdicts[case.number] == 0 else "the guest itself found it wrong")
    return wrong


def seen(case: Case, results: Results) -> str:
    """What the guest read in one run: DR6 in its handler, or the value that the case asked for. A line for each exception."""
    if results.verdicts[case.number] == 0:
        return "skipped"
    events = results.of(case)
    if events:
        return "\n".join(f"{event.dr6:08X}" if event.vector == DB else EXCEPTIONS.get(event.vector, "?") for event in events)
    if case.value_mask:
        value = results.values[case.number] & case.value_mask
        return f"{value:X}" if value < 1 << 32 else f"{value >> 32:08X}\n{value & 0xFFFFFFFF:08X}"
    return "-"
