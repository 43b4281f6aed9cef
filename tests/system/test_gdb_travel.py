"""A real gdb goes back in a recorded guest: steps, breakpoints with conditions, what is watched; a race is found by its history."""

import random
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from programs import build, race
from system.gdb_session import GuestUnderGdb, run_gdb
from system.test_recording import race_run
from trapgate.gdb.address import TcpAddress
from trapgate.gdb.host import DebugHost
from trapgate.hostcall import Helper
from trapgate.record.events import Event
from trapgate.record.recording import Moment, Recording

pytestmark = [
    pytest.mark.skipif(bool(build.missing_tools()), reason=f"not installed: {build.missing_tools()}"),
    pytest.mark.skipif(shutil.which("gdb") is None, reason="not installed: gdb"),
]
LOSES = range(200)  # seeds among which runs lose an update


@pytest.fixture
def guest() -> Iterator[GuestUnderGdb]:
    with GuestUnderGdb(recorded=True) as found:
        yield found


def numbers(text: str) -> list[str]:
    return re.findall(r"^\$\d+ = (\S+)", text, re.MULTILINE)


def moments(text: str) -> list[int]:
    return [int(one) for one in re.findall(r"^instruction (\d+),", text, re.MULTILINE)]


def test_steps_go_back_one_by_one(guest: GuestUnderGdb) -> None:
    text = guest.gdb(
        "break round_trip if rounds == 1000", "continue", "monitor when", "print $pc", "stepi", "stepi", "monitor when",
        "reverse-stepi", "monitor when", "reverse-stepi", "monitor when", "print $pc", "print rounds",
    )  # fmt: skip
    first, second, third, last = moments(text)
    assert (second, third, last) == (first + 2, first + 1, first)
    before, after, rounds = numbers(text)
    assert before == after and rounds == "1000"


def test_lines_and_calls_go_back(guest: GuestUnderGdb) -> None:
    text = guest.gdb(
        "break add if a == 63", "continue", "reverse-step", "reverse-next", "reverse-next",
        "continue", "next", "delete", "reverse-finish", "bt 1",
    )  # fmt: skip
    places = re.findall(r"^(?:\w+ \([^)]*\)|Breakpoint 1, add \(a=63, b=63\)|#0  .*?\)) at \S+main\.c:(\d+)$", text, re.MULTILINE)
    assert places[1:4] == ["17", "23", "34"], text
    assert re.search(r"#0 .*twice \(x=63\)", text), text


def test_conditions_hold_on_the_way_back(guest: GuestUnderGdb) -> None:
    text = guest.gdb(
        "break round_trip if rounds == 900", "continue", "delete", "break twice if rounds == 500", "reverse-continue",
        "print rounds", "monitor when", "reverse-continue", "monitor when", "continue", "print rounds", "continue", "print rounds",
    )  # fmt: skip
    assert numbers(text) == ["500", "500", "900"]
    assert moments(text)[1] == 0
    assert text.count("No more reverse-execution history") == 2


def test_the_last_change_of_what_is_watched(guest: GuestUnderGdb) -> None:
    text = guest.gdb(
        "break round_trip if rounds == 300", "continue", "print &rounds", "delete", "watch counter", "reverse-continue",
        "reverse-continue", "print counter", "print rounds", "delete", "hbreak add", "reverse-continue", "print rounds",
    )  # fmt: skip
    changes = re.findall(r"^Old value = (\d+)\nNew value = (\d+)", text, re.MULTILINE)
    assert changes == [("511", "255"), ("255", "127")], text
    assert numbers(text)[-3:] == ["127", "7", "7"]


def test_moments_and_who_wrote_last(guest: GuestUnderGdb) -> None:
    text = guest.gdb(
        "break round_trip if rounds == 300", "continue", "printf \"at %lx\\n\", &rounds", "monitor when", "monitor goto 5000",
        "maintenance flush register-cache", "monitor when", "monitor goto 1", "monitor goto end", "monitor goto 123456789",
    )  # fmt: skip
    address = re.findall(r"^at (\w+)$", text, re.MULTILINE)[0]
    end, *rest = moments(text)
    assert rest == [5000, 5000, 1, end]
    assert f"instruction 123456789 is not recorded: that goes from 0 to {end}" in text
    text = guest.gdb(f"monitor last-write {address}")  # the guest has run on since, and writes there all the time
    found = re.search(r"changed by the instruction at 0x(\w+), from 0x0*(\w+) to 0x0*(\w+)", text)
    assert found and int(found[3], 16) == int(found[2], 16) + 1, text
    goto = re.findall(r"monitor goto (\d+)", text)[0]
    text = guest.gdb(f"monitor goto {goto}", "maintenance flush register-cache", "print/x $pc", "print/x rounds")
    assert numbers(text) == [f"0x{found[1]}", f"0x{found[2]}"]


def test_a_change_begins_another_history(guest: GuestUnderGdb) -> None:
    text = guest.gdb(
        "break round_trip if rounds == 300", "continue", "monitor when", "delete", "break round_trip if rounds == 100",
        "reverse-continue", "print rounds", "set var rounds = 299", "delete", "break round_trip if rounds == 300", "continue",
        "print rounds", "monitor when", "reverse-continue", "monitor when", "monitor goto 0", "maintenance flush register-cache",
        "print rounds", "continue", "print rounds",
    )  # fmt: skip
    assert numbers(text) == ["100", "300", "0", "300"], text
    first, other, *_ = moments(text)
    assert other < first


def losing_run(image: Path) -> tuple[list[Event], Moment, bytes]:
    """What was recorded of the first run that loses an update, and what that said."""
    for seed in LOSES:
        written = list[bytes]()
        machine, recording, _ = race_run(partial(race.machine, image, written.append), seed, lambda recording: None)
        machine.close()
        if race.LOST in b"".join(written):
            return recording._events, recording.end, b"".join(written)
    raise AssertionError("no run loses an update")


def test_a_race_that_some_runs_lose_is_found_in_its_recording_every_time(tmp_path: Path) -> None:
    """Backwards from the end: what the program stored last was there already, so the last change is the handler's, amid that."""
    image = race.image(tmp_path)
    events, end, said = losing_run(image)
    for turn in range(3):
        written = list[bytes]()
        machine = race.machine(image, written.append)
        recording = Recording(machine, random.Random(turn).choice((1 << 20, 1 << 30)), events=events, end=end, live=False)
        host = DebugHost(machine, TcpAddress("127.0.0.1", 0), wait=True, recording=recording)
        thread = Helper("guest", host.run)
        thread.start()
        text = run_gdb(
            f"target remote {host.address}", "continue", "watch *(long *) &shared", "reverse-continue",
            "print $pc == (long) &tick_store", "print *(long *) ($rsp + 16) - (long) &user_store", "kill", file=str(image),
        )  # fmt: skip
        thread.join(20)
        machine.close()
        assert b"".join(written) == said
        by_tick, interrupted = numbers(text)
        assert by_tick == "1" and interrupted in ("0", "-4"), text  # behind the load, in front of the store
