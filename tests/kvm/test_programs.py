"""The guest programs that carry their expectation, on KVM as far as this host goes, and the state that both engines come to."""

from pathlib import Path

import pytest

from kvm.alone import excused
from kvm.guest import KVM, SLOWER, opened
from kvm.states import GENERAL, differences, left_open, pages, registers
from programs import build
from trapgate.arch.flags import RF
from trapgate.build import load_guest, make_machine
from trapgate.kvm import probe, probe_machine
from trapgate.kvm.cpu import KvmVcpu
from trapgate.kvm.cpuid import OF_THE_APIC
from trapgate.kvm.ioctl import KvmError
from trapgate.machine import ClockKind, Machine, MachineConfig
from trapgate.soft.cpu import SoftVcpu
from trapgate.stops import BreakpointHit, MachineExit, Paused, Stop
from trapgate.vcpu import Breakpoint, Kind, Owner

pytestmark = [*KVM, pytest.mark.skipif(bool(build.missing_tools()), reason=f"not installed: {build.missing_tools()}")]
LIMIT = 3_000_000_000 * SLOWER  # ns


@pytest.fixture(scope="module")
def emulated() -> str:
    """Why the host is no judge, or '': a KVM within a virtual machine may emulate guest code, and not all of it."""
    lacking = [one.name for one in (probe.watchpoint(), probe.interrupt(), probe.iret()) if not one.holds]
    return f"this host's KVM does not do {', '.join(lacking)}" if lacking else ""


def loaded(image: Path, engine: str, clock: ClockKind, cpu: str) -> tuple[Machine, list[bytes]]:
    """A machine with a time limit, and what its guest writes."""
    written: list[bytes] = []
    machine = opened(make_machine(MachineConfig(memory=64 << 20, cpu=cpu, clock=clock, debugcon=written.append), engine))
    load_guest(machine, str(image))
    machine.clock.at(LIMIT * (SLOWER if engine == "soft" else 1), machine.pause)  # an emulated host makes that slower still
    return machine, written


def run(image: Path, program: build.Program, asks_cpuid: bool = True) -> tuple[Machine, Stop, list[str], list[str]]:
    """(machine on KVM, its end, lines that the guest wrote, features that the host could not give it). Skips where KVM gives up."""
    cpu = program.cpu
    machine, written = loaded(image, "kvm", ClockKind.HOST, cpu)
    vcpu = machine.vcpu
    assert isinstance(vcpu, KvmVcpu)
    lost = [name for name in vcpu.lost_features if name not in OF_THE_APIC]
    try:
        end = machine.resume()
    except KvmError as error:
        if asks_cpuid and not probe_machine.cpuid().holds:
            pytest.skip(f"{error} (and it changes CPUID, which the program asks)")
        if reason := excused(program.name, failed(said(written)), ended=False):
            pytest.skip(reason)
        check_same_way(machine, image, without(cpu, lost))
        pytest.skip(f"{error} (until there the state was the software CPU's)")
    return machine, end, said(written), lost


def said(written: list[bytes]) -> list[str]:
    """What a guest wrote, by lines."""
    return b"".join(written).decode().splitlines()


def failed(lines: list[str]) -> list[str]:
    """The lines of checks that failed."""
    return [line for line in lines if not line.startswith(("ok ", "finished"))]


def values(machine: Machine) -> dict[str, object]:
    """All registers. RF is left out: what it is behind the last exception, a host that emulates may have otherwise."""
    vcpu = machine.vcpu
    assert isinstance(vcpu, (SoftVcpu, KvmVcpu))
    return {**registers(vcpu), "rflags": vcpu.get("rflags") & ~RF}


def state(machine: Machine) -> dict[object, object]:
    """All registers and RAM."""
    return {name: value for part in (values(machine), pages(machine.ram)) for name, value in part.items()}


def without(cpu: str, lost: list[str]) -> str:
    """The CPU that the guest had on KVM, for the software CPU."""
    return ",".join((cpu, *(f"-{name}" for name in lost)))


def check_same_way(machine: Machine, image: Path, cpu: str) -> None:
    """The software CPU comes by where KVM has given up, and at one of its visits it is in the same state."""
    here = machine.vcpu
    assert isinstance(here, KvmVcpu)
    at = here.registers.linear(here.get("rip"))
    soft, _ = loaded(image, "soft", ClockKind.INSTRUCTIONS, cpu)
    soft.vcpu.arm([Breakpoint(Owner.DEBUGGER, 0, Kind.EXEC, at, 1)], [])
    names = [*GENERAL[:-1], "cr0", "cr2", "cr3", "cr4"]
    visits = 0
    while isinstance(soft.resume(), BreakpointHit):
        visits += 1
        if all(here.get(name) == soft.vcpu.get(name) for name in names):
            assert values(machine) == values(soft)
            stack = here.get("rsp") >> 12
            words = differences(machine.ram, soft.ram)
            assert [word for word in words if not left_open(word[1], word[2], word[0] >> 12 == stack)] == []
            return
    raise AssertionError(f"in none of {visits} visits to {at:#x} had the software CPU these registers: {registers(here)}")


def check_same_end(machine: Machine, image: Path, cpu: str) -> None:
    """The software CPU ends in the same state. What differs between two clocks of its own depends on time, and is not compared."""
    ends = []
    for clock in (ClockKind.HOST, ClockKind.INSTRUCTIONS):
        soft, _ = loaded(image, "soft", clock, cpu)
        soft.resume()
        ends.append(state(soft))
        soft.close()
    first, second = ends
    timeless = {name for name in first.keys() | second.keys() if first.get(name) == second.get(name)}
    got = state(machine)
    assert {name: got.get(name) for name in timeless} == {name: first.get(name) for name in timeless}
    assert got.keys() <= first.keys() | second.keys()


def on_soft(image: Path, program: build.Program, cpu: str) -> tuple[Stop, list[str]]:
    """(end, lines) on the software CPU."""
    machine, written = loaded(image, "soft", ClockKind(program.clock), cpu)
    end = machine.resume()
    return end, said(written)


@pytest.mark.parametrize("program", build.programs(), ids=lambda program: program.name)
def test_program(program: build.Program, tmp_path: Path, emulated: str) -> None:
    """It says what it says on the software CPU, which lacks what this host lacks, and leaves the same state."""
    if program.kvm != "yes":
        pytest.skip(f"kvm: {program.kvm}")
    image = build.assemble(program, tmp_path)
    machine, end, lines, lost = run(image, program, "cpuid" in program.source.read_text().split())
    expected_end, expected = on_soft(image, program, without(program.cpu, lost))
    wrong = [line for line in failed(lines) if line not in expected]
    ended = not isinstance(end, Paused)
    if not (ended and not wrong) and (reason := emulated or excused(program.name, wrong, ended)):
        pytest.skip(reason)
    assert wrong == []
    assert isinstance(end, MachineExit)
    if isinstance(expected_end, Paused):
        pytest.skip("the software CPU does not end in time on this host; what the program said is right")
    assert lines == expected
    assert isinstance(expected_end, MachineExit)
    assert (end.kind, end.status) == (expected_end.kind, expected_end.status)
    if "does not tell where" in end.story:
        pytest.skip("this host's KVM resets the CPU at a triple fault; what the program said is right")
    check_same_end(machine, image, without(program.cpu, lost))
