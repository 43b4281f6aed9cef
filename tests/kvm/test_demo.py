"""The bundled guest on KVM, alone and under a real gdb: its cases tell what each exception left in DR6."""

import shutil

import pytest

from kvm import alone
from kvm.guest import KVM, SLOWER, opened
from trapgate import guests
from trapgate.build import default_cpu, load_guest, make_machine
from trapgate.check.guest import NEEDS_BUS_LOCK, Case, DemoGuest, Results, differences
from trapgate.cli import demo, demo_debugger, demo_guest
from trapgate.cli.demo_table import rows
from trapgate.kvm import probe, probe_machine
from trapgate.machine import Machine, MachineConfig
from trapgate.stops import MachineExit

pytestmark = KVM
GUEST = DemoGuest()


def new_machine() -> Machine:
    """The guest in a machine of the engine's, as `trapgate demo` has it on the software CPU."""
    machine = opened(make_machine(MachineConfig(memory=demo_guest.MEMORY, cpu=default_cpu("kvm")), "kvm"))
    load_guest(machine, str(guests.DEMO))
    return machine


@pytest.fixture(scope="module")
def lacking() -> list[str]:
    """What the host must do for the guest and does not."""
    return [one.name for one in (probe.watchpoint(), probe.interrupt(), probe.iret()) if not one.holds]


@pytest.fixture(scope="module")
def judged() -> list[Case]:
    """The cases that say something of KVM on this host."""
    bus_locks = probe_machine.bus_lock_trap().holds
    cases = [case for case in GUEST.cases if bus_locks or case.needs != NEEDS_BUS_LOCK]
    return [case for case in cases if case.name not in alone.demo_rows()]


def run_alone() -> Results:
    """One run without a debugger."""
    machine = new_machine()
    assert isinstance(machine.resume(), MachineExit)
    return GUEST.results(machine.ram.read)


def test_alone(lacking: list[str], judged: list[Case]) -> None:
    if lacking:
        pytest.skip(f"this host's KVM does not do {', '.join(lacking)}")
    results = run_alone()
    assert {case.name: found for case in judged if (found := differences(case, results))} == {}


@pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb")
@pytest.mark.parametrize("debugger", ["gdb", "our client"])
def test_under_a_debugger(
    debugger: str, lacking: list[str], judged: list[Case], lies_idle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a breakpoint on each case, or watches what the guest watches, and steps."""
    if lacking:
        pytest.skip(f"this host's KVM does not do {', '.join(lacking)}")
    monkeypatch.setattr(demo_debugger, "TIMEOUT", 60.0 * SLOWER)
    steps = [step for step in demo_debugger.plan(GUEST) if GUEST.cases[step.case] in judged]
    results, session = demo.run_debugged(GUEST, steps, shutil.which("gdb") if debugger == "gdb" else None, "kvm")
    assert not session.trouble
    cases = [case for case in judged if not (lies_idle and case.dr7 & 0xFF)]
    wrong = {row.case.name: row.wrong for row in rows(cases, run_alone(), steps, session, results) if row.wrong}
    assert wrong == {}
