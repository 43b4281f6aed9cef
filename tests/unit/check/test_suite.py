"""A check of monitors that are not there, whose stub lacks things, dies amid a row or lies: one line each, and the others go on."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from trapgate.check import suite
from trapgate.check.guest import Case, DemoGuest
from trapgate.check.manners import BY_NAME, MANNERS, Manner
from trapgate.check.suite import READY, Cell, State, cells
from trapgate.check.vmm import Running, Spawned, VmmError
from unit.check.liar import SILENCE, Liar

GUEST = DemoGuest()
AT = GUEST.symbols
CASES = GUEST.cases[:3]
STEP = next(one for one in GUEST.cases if one.name == "single step")
BEYOND = 1 << 64
PATIENCE = 0.5  # s


class Monitor:
    """A guest that takes orders and does what it must, as far as `lacks` lets it. Memory is what was written."""

    def __init__(self, *lacks: bytes) -> None:
        self.lacks = lacks
        self.memory = {AT["ready"]: READY, AT["done"]: 0, AT["selected"]: BEYOND - 1}
        self.event = [0, 1, 0xFFFF4FF0, 0x400, STEP.expected[0].rip, 0x3102, 0, 0x23]
        self.rip = AT["parked"]

    def __call__(self, payload: bytes) -> bytes | None:
        if payload.startswith((*self.lacks, b"vCont", b"qSupported", b"QStart")):
            return b""
        match payload[:1]:
            case b"?":
                return b"S05"
            case b"p":
                return self.rip.to_bytes(8, "little").hex().encode()
            case b"m":
                address, length = (int(part, 16) for part in payload[1:].split(b","))
                return self.read(address, length).hex().encode()
            case b"M":
                place, _, data = payload[1:].partition(b":")
                self.memory[int(place.split(b",")[0], 16)] = int.from_bytes(bytes.fromhex(data.decode()), "little")
                return b"OK"
            case b"Z" | b"z":
                return b"OK"
            case b"\x03":
                return SILENCE if self.rip == AT["parked"] else b"T02"
        return self.run(payload)

    def run(self, payload: bytes) -> bytes | None:
        """The guest goes, and is stopped on the spot: its case is over."""
        self.memory[AT["done"]] += 1
        self.memory[AT["selected"]] = BEYOND - 1
        return b"T02" if payload == b"c" else b"T05"

    def read(self, address: int, length: int) -> bytes:
        """Memory by quadwords; the one event of a single step."""
        words = dict(self.memory) | {AT["event_count"]: 1} | {AT["verdicts"] + 8 * n: 1 for n in range(len(GUEST.cases))}
        words |= {AT["events"] + 8 * n: value for n, value in enumerate(self.event)}
        return b"".join(words.get(address + at, 0).to_bytes(8, "little") for at in range(0, length, 8))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "BOOTS", 1)
    monkeypatch.setattr(suite, "BOOT_LOOK", 0.02)


def checked(answer: Any, cases: Sequence[Case] = (STEP,), manners: Sequence[Manner] = MANNERS[:1]) -> list[Cell]:
    with Liar(answer) as stub:
        return list(cells(Running(stub.address), GUEST, cases, manners, PATIENCE))


def test_a_stub_that_does_all_it_must() -> None:
    (cell,) = checked(Monitor())
    assert (cell.state, cell.read, cell.trouble) == (State.RIGHT, "FFFF4FF0", ())


def test_what_the_guest_reads_is_compared_with_the_manual() -> None:
    monitor = Monitor()
    monitor.event[2] = 0x4000
    (cell,) = checked(monitor)
    assert (cell.state, cell.read, cell.trouble) == (State.WRONG, "00004000", ("DR6 4000 instead of ffff4ff0",))


def test_a_stub_without_breakpoints_lacks_them_and_is_not_wrong() -> None:
    found = checked(Monitor(b"Z1"), manners=[BY_NAME[name] for name in ("hbreak", "nothing")])
    assert [(one.state, one.trouble) for one in found] == [(State.LACKS, ("the stub has no Z1",)), (State.RIGHT, ())]


def test_a_stub_without_p_tells_rip_by_g() -> None:
    class Old(Monitor):
        def __call__(self, payload: bytes) -> bytes | None:
            return (bytes(128) + self.rip.to_bytes(8, "little")).hex().encode() if payload == b"g" else super().__call__(payload)

    assert checked(Old(b"p"))[0].state is State.RIGHT


@pytest.mark.parametrize("how", ["p", "g", "g without XMM", "stop"])
def test_a_stub_may_be_of_i386(how: str) -> None:
    """EIP is its register 8, ST0 the one that RIP is elsewhere; without p the length of g tells."""

    class Narrow(Monitor):
        def __call__(self, payload: bytes) -> bytes | None:
            eip = self.rip.to_bytes(4, "little").hex().encode()
            if payload == b"p10" and how in ("p", "stop"):
                return b"00" * 10
            if payload == b"p8" and how in ("p", "stop"):
                return eip
            if payload[:1] == b"p":
                return b""
            if payload == b"g":
                return b"00" * 32 + eip + b"00" * (140 if how == "g without XMM" else 272)
            reply = super().__call__(payload)
            return b"T05f0:00;05:0000000000000000;08:%s;10:%s;" % (eip, b"11" * 10) if how == "stop" and reply == b"T05" else reply

    (cell,) = checked(Narrow(), manners=[BY_NAME["steps"]])
    assert (cell.state, cell.trouble) == (State.RIGHT, ())


@pytest.mark.parametrize(("lacks", "text"), [
    ((b"p", b"g"), "the stub does not tell RIP"),
    ((b"m",), "did not take orders"),
    ((b"M",), "M10"),
    ((b"?",), "'?': not understood"),
])  # fmt: skip
def test_what_no_check_can_do_without(lacks: tuple[bytes, ...], text: str) -> None:
    found = checked(Monitor(*lacks), CASES)
    assert all(one.bad for one in found)
    assert text in found[0].trouble[0]
    assert "\n" not in found[0].trouble[0]


def test_a_stub_that_dies_amid_a_row_costs_that_row() -> None:
    class Mortal(Monitor):
        runs = 0

        def run(self, payload: bytes) -> bytes | None:
            self.runs += 1
            return None if self.runs == 1 else super().run(payload)

    first, second = checked(Mortal(), [STEP, STEP])
    assert first.state is State.WRONG
    assert "closed the connection" in first.trouble[0]
    assert second.state is State.RIGHT


def test_a_monitor_that_ends_amid_a_row() -> None:
    class Ending(Monitor):
        def run(self, payload: bytes) -> bytes | None:
            return b"W00"

    (cell,) = checked(Ending())
    assert cell.trouble == ("the machine has ended: W00",)


@pytest.mark.parametrize("reply", [b"m", b"zz", b"T", b"", b"E01", b"OK"])
def test_nonsense_in_place_of_a_stop(reply: bytes) -> None:
    class Lying(Monitor):
        def run(self, payload: bytes) -> bytes | None:
            return reply

    (cell,) = checked(Lying())
    assert cell.state is State.WRONG
    assert len(cell.trouble) == 1


def test_memory_that_is_short() -> None:
    class Short(Monitor):
        def read(self, address: int, length: int) -> bytes:
            return super().read(address, length)[: 4 if address == AT["events"] else length]

    (cell,) = checked(Short())
    assert "bytes of memory" in cell.trouble[0]


def test_a_stop_that_nobody_asked_for_is_told_and_counted() -> None:
    class Stopping(Monitor):
        stops = 0

        def run(self, payload: bytes) -> bytes | None:
            self.stops += 1
            self.rip = STEP.at if self.stops == 1 else AT["parked"]
            return b"T05" if self.stops == 1 else super().run(payload)

    (cell,) = checked(Stopping(), manners=[BY_NAME["hbreak"]])
    assert (cell.state, cell.unasked, cell.trouble) == (State.WRONG, 1, (f"the debugger was stopped at {STEP.at:#x}, unasked",))


def test_a_breakpoint_that_is_not_hit_is_told() -> None:
    (cell,) = checked(Monitor(), manners=[BY_NAME["hbreak-there"]])
    assert cell.trouble == (f"the debugger's hardware breakpoint at {STEP.at:#x} was not hit",)


@pytest.mark.parametrize("manner", ["nothing", "steps"])
def test_a_case_without_end(manner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(Monitor):
        def run(self, payload: bytes) -> bytes | None:
            self.rip = STEP.at
            return SILENCE if payload == b"c" else b"T05"

    monkeypatch.setattr(suite, "MOST_STEPS", 20)
    first, second = checked(Endless(), [STEP, STEP], [BY_NAME[manner]])
    assert "does not end" in first.trouble[0] or "lead to no end" in first.trouble[0]
    assert second.bad


# --- monitors that cannot be had


def spawned(command: str, folder: Path) -> list[Cell]:
    return list(cells(Spawned(command, GUEST, folder), GUEST, CASES, MANNERS[:2]))


@pytest.mark.parametrize(("command", "text"), [
    ("no-such-monitor {port}", "cannot start no-such-monitor: No such file or directory"),
    ("sh -c 'echo out of order; exit 3' {port}", "sh ended with status 3: out of order"),
])  # fmt: skip
def test_a_monitor_that_cannot_be_started_is_told_once(command: str, text: str, tmp_path: Path) -> None:
    found = spawned(command, tmp_path)
    assert {one.state for one in found} == {State.NOT_RUN}
    assert {one.trouble for one in found} == {(text,)}


@pytest.mark.parametrize(("command", "text"), [("qemu {image}", "needs {port}"), ("qemu 'x {port}", "No closing quotation")])
def test_a_command_that_is_none(command: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(VmmError, match=text):
        Spawned(command, GUEST, tmp_path)


def test_nobody_listens() -> None:
    with Liar(Monitor()) as stub:
        address = stub.address
    found: Iterator[Cell] = cells(Running(address), GUEST, CASES, MANNERS[:1])
    assert [one.state for one in found] == [State.NOT_RUN] * 3
