"""Running a machine beside the main thread: ends, quits, failures, a machine that does not stop; and what each end tells."""

import contextlib
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from trapgate.cli import run as module
from trapgate.cli import runner as thread
from trapgate.cli.options import BusLockChoice, DiskChoice, WhereChoice
from trapgate.cli.request import Request
from trapgate.cli.run import run
from trapgate.cli.runner import Runner
from trapgate.debug.buslock import Mode
from trapgate.disk import Disk, DiskError
from trapgate.errors import TrapgateError
from trapgate.machine import ClockKind
from trapgate.stops import ExitKind, MachineExit

REQUEST = Request(
    *("/nonexistent/image", None, (), "", 16 << 20, 1, None, "soft", None, False),
    *(WhereChoice("stdio"), WhereChoice("none"), BusLockChoice(Mode.OFF), "host"),
)


def test_an_end() -> None:
    end = MachineExit(ExitKind.EXIT_PORT, 5)
    assert Runner(lambda: end, lambda: None).run() is end


def test_quitting_stops_the_machine() -> None:
    asked = threading.Event()

    def body() -> MachineExit:
        assert asked.wait(10)
        return MachineExit(ExitKind.STOPPED, 1)

    runner = Runner(body, asked.set)
    threading.Timer(0.02, runner.quit, [130]).start()
    assert runner.run() == 130
    assert not runner.stuck


def test_a_machine_that_does_not_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread, "PATIENCE", 0.05)
    release = threading.Event()

    def body() -> MachineExit:
        release.wait(10)
        return MachineExit(ExitKind.POWER_OFF)

    runner = Runner(body, lambda: None)
    runner.quit(143)
    assert runner.run() == 143
    assert runner.stuck
    release.set()


SHUT_DOWN = "triple fault: the guest has shut down; what led to it:"


def test_a_failure_of_ours_comes_through() -> None:
    def body() -> MachineExit:
        raise ZeroDivisionError("ours")

    with pytest.raises(ZeroDivisionError, match="ours"):
        Runner(body, lambda: None).run()


@pytest.mark.parametrize(
    ("end", "status", "told"),
    [
        (MachineExit(ExitKind.POWER_OFF), 0, ""),
        (MachineExit(ExitKind.EXIT_PORT, 33), 33, ""),
        (MachineExit(ExitKind.EXIT_PORT, 0x201), 1, ""),
        (MachineExit(ExitKind.RESET), 0, "trapgate: the guest asked for a reset; the machine ends here\n"),
        (MachineExit(ExitKind.SHUTDOWN, 1, "#DF\nrip=0"), 1, f"trapgate: {SHUT_DOWN}\ntrapgate: #DF\ntrapgate: rip=0\n"),
    ],
)
def test_statuses(end: MachineExit, status: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert module._status(end) == status
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cpus": 2, "engine": "kvm"}, "use the engine 'soft'|open /dev/kvm"),
        ({"engine": "kvm", "clock": "instructions"}, "KVM does not count|open /dev/kvm"),
    ],
)
def test_what_cannot_be_is_said(change: dict[str, object], words: str) -> None:
    with pytest.raises(TrapgateError, match=words):
        run(replace(REQUEST, **change))  # type: ignore[arg-type]


def test_disks_are_open_as_long_as_the_run(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(bytes(512))
    request = replace(REQUEST, disks=(DiskChoice(str(tmp_path / "one")), DiskChoice(str(tmp_path / "none"))), rng=True)
    with contextlib.ExitStack() as stack:
        assert len(module._devices(replace(request, disks=request.disks[:1]), ClockKind.HOST, stack)) == 2
        with pytest.raises(DiskError, match="in use"):
            Disk(tmp_path / "one")
    with contextlib.ExitStack() as stack, pytest.raises(DiskError, match="none: No such file"):
        module._devices(request, ClockKind.HOST, stack)
    Disk(tmp_path / "one").close()
