"""Machines with several CPUs, by a guest that starts them all (`cases/smp.c`): each case checks itself, and its status says so."""

import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

from cases import kit
from trapgate.api import Machine as Library
from trapgate.build.guests import load_guest
from trapgate.build.machines import make_machine
from trapgate.debug.buslock import Mode
from trapgate.machine import ClockKind, Machine, MachineConfig
from trapgate.stops import STATUS, CountDone, ExitKind, MachineExit, Paused, StepDone

pytestmark = pytest.mark.skipif(bool(kit.LACKING), reason=kit.LACKING)
PASSED = MachineExit(ExitKind.EXIT_PORT, 1)
CASES = ("start", "lock", "ipi", "shootdown", "code", "patch", "timers")


@cache
def guest(case: str, cpus: int, *flags: str) -> str:
    return kit.program("smp", Path(mkdtemp()), f'-DCASE="{case}"', f"-DCPUS={cpus}", *flags)


class Several:
    """A machine with the guest in it."""

    def __init__(self, image: str, cpus: int, clock: ClockKind = ClockKind.INSTRUCTIONS, bus_locks: Mode = Mode.OFF) -> None:
        self.said, self.told = bytearray(), list[str]()
        self.machine: Machine = make_machine(
            MachineConfig(
                memory=160 << 20,
                cpus=cpus,
                clock=clock,
                serial=self.said.extend,
                bus_locks=bus_locks,
                report=self.told.append,
            )
        )
        load_guest(self.machine, image)

    def end(self) -> tuple[MachineExit, str]:
        """How it ends, and what it has said."""
        try:
            return self.machine.run(), self.said.decode()
        finally:
            self.machine.close()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("clock", ClockKind)
def test_case(case: str, clock: ClockKind) -> None:
    assert Several(guest(case, 4), 4, clock).end()[0] == PASSED


@pytest.mark.parametrize("cpus", [2, 3, 64])
def test_so_many_cpus_start(cpus: int) -> None:
    assert Several(guest("start", cpus), cpus).end()[0] == PASSED


def test_whoever_spins_without_pause_gets_the_lock_in_the_end() -> None:
    assert Several(guest("lock", 3, "-DNO_PAUSE", "-DROUNDS=20000"), 3).end()[0] == PASSED


def test_with_the_instruction_clock_all_turns_repeat() -> None:
    first, second = (Several(guest("lock", 4), 4).end() for _ in range(2))
    assert first == second
    assert "time=" in first[1]


@pytest.mark.parametrize("at", [40_000, 200_001, 500_000])
def test_a_run_that_was_loaded_goes_on_as_the_one_that_was_saved(at: int) -> None:
    one, other = (Several(guest("state", 3), 3) for _ in range(2))
    assert one.machine.resume(instructions=at) == CountDone()
    state, ram = one.machine.save(), one.machine.ram.save()
    assert len({cpu.general for cpu in state.cpus}) == 3
    other.machine.load(state, ram)
    assert one.end() == other.end()
    assert one.said.count(b"x=") == 3


def test_at_the_command_line_and_from_a_file(tmp_path: Path) -> None:
    command, file = [str(Path(sys.executable).with_name("trapgate")), "run"], str(tmp_path / "saved")
    image = [guest("lock", 3), "--cpus", "3", "--memory", "160M"]
    first = subprocess.run([*command, *image, "--save", file], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (first.returncode, first.stderr) == (1, "")
    again = subprocess.run([*command, "--restore", file], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert again.returncode == STATUS[ExitKind.DEAD]
    assert "nothing can wake it" in again.stderr
    kvm = subprocess.run([*command, *image, "--engine", "kvm"], capture_output=True, text=True)
    assert kvm.returncode == 2
    assert "--cpus 3: several vCPUs are our own CPU's; it needs --engine soft" in kvm.stderr


def test_in_the_library() -> None:
    code = bytes.fromhex("b8070000 00 f4".replace(" ", ""))  # mov eax, 7; hlt
    with Library(MachineConfig(memory=4 << 20, cpus=2, stop_when_dead=False)) as machine:
        machine.load_code(code)
        assert [len(machine.cpus), machine.running] == [2, 0]
        assert machine.cpu is machine.cpus[0]
        assert machine.step(1) == StepDone()  # it is not started: it makes none
        assert machine.cpus[1]["rip"] == 0xFFF0
        assert machine.step(0) == StepDone()
        assert (machine.cpu["rax"], machine.running) == (7, 0)


def test_a_start_that_has_come_is_not_forgotten_while_its_cpu_stands_still() -> None:
    starts = "48bb0003e0fe00000000 b800450c00 8903 b808460c00 8903 fa f4"  # rbx = ICR; INIT, SIPI 8 to all others; cli; hlt
    with Library(MachineConfig(memory=4 << 20, cpus=2)) as machine:
        machine.load_code(bytes.fromhex(starts))
        machine.ram.write(0x8000, bytes.fromhex("b005 e6f4"))  # mov al, 5; out 0F4h, al
        threading.Timer(0.3, machine.pause).start()
        assert machine._machine.resume(only=[0]) == Paused()
        assert machine.run() == MachineExit(ExitKind.EXIT_PORT, 11)


def test_a_bus_lock_is_told_with_its_cpu() -> None:
    several = Several(guest("buslocks", 2), 2, bus_locks=Mode.REPORT)
    assert several.end()[0] == PASSED
    (line,) = several.told
    assert line.endswith("crosses a 64-byte line, CPL 0, CPU 1")


def test_a_machine_has_64_cpus_at_most() -> None:
    for cpus in (0, 65):
        with pytest.raises(ValueError, match="1 to 64 CPUs"):
            make_machine(MachineConfig(memory=1 << 20, cpus=cpus))
