"""A machine on KVM at rest, its interrupt controllers in the kernel: another one goes on with it, there or on the software CPU."""

from dataclasses import replace
from pathlib import Path

import pytest

from kvm.guest import CHIPS, DATA, KVM, Loaded, empty
from kvm.test_chips import APIC, ENABLE, EOI, NO_PIC, ONCE, PIC, drive, finish, load, pin, timer, until
from trapgate import snapshot
from trapgate.arch.models import DEFAULT_MODEL
from trapgate.cpustate import model_text
from trapgate.kvm.cpu import KvmVcpu
from trapgate.kvm.resting import SYSTEM_TIME
from trapgate.machine import Machine
from trapgate.soft.resting import NOTHING
from trapgate.stops import MachineExit, StepDone

pytestmark = KVM

WAIT = "sti\nnop\nnop\ncli"
TICK = "mov al, 0x34\nout 0x43, al\nmov al, 0\nout 0x40, al\nmov al, 0x80\nout 0x40, al"
PERIODIC = f"{ENABLE}\n{ONCE}\nmov dword ptr [{APIC + 0x320}], 0x20040\nmov dword ptr [{APIC + 0x380}], 1000000"
COUNT = "mov al, 3\nout 0x61, al\nmov al, 0xB0\nout 0x43, al\nmov al, 0xFF\nout 0x42, al\nout 0x42, al"
GUESTS = {
    "8259, line 4": f"{PIC}\n{drive(4, 1)}\n{until(0)}\n{drive(4, 0)}",
    "8259, line 12": f"{PIC}\n{drive(12, 1)}\n{until(0)}\n{drive(12, 0)}",
    "8259 and its timer": f"{PIC}\n{TICK}\n{until(0)}",
    "I/O APIC, an edge": f"{NO_PIC}\n{ENABLE}\n{pin(20, 0x50)}\n{drive(20, 1)}\n{until(0)}\n{EOI}\n{WAIT}\n{drive(20, 0)}",
    "I/O APIC, a level": f"{NO_PIC}\n{ENABLE}\n{pin(9, 0x8050)}\n{drive(9, 1)}\n{until(0)}\n{EOI}\n{until(1)}\n{drive(9, 0)}",
    "local APIC, one-shot": f"{NO_PIC}\n{timer(3_000_000)}\n{until(0)}\n{EOI}",
    "local APIC, HLT": f"{NO_PIC}\n{timer(3_000_000)}\nsti\nhlt\ncli\n{EOI}",
    "local APIC, periodic": f"{NO_PIC}\n{PERIODIC}\n{until(0)}\n{EOI}\n{until(1)}",
    "port 61h": f"{COUNT}\nin al, 0x61\nand al, 3\nmovzx ebx, al",
}


def again(path: Path, engine: str) -> Machine:
    machine = empty(engine, snapshot.config_of(path))
    snapshot.restore(machine, path)
    return machine


def seen(guest: Loaded) -> tuple[list[int], int]:
    return [one.vector for one in finish(guest)], guest.machine.vcpu.get("rbx")


def stepped(text: str, steps: int, engine: str = CHIPS, cpu: str = DEFAULT_MODEL) -> Loaded | None:
    """A guest after so many steps; None when it has ended meanwhile."""
    guest = load(text, engine, cpu)
    for _ in range(steps):
        if not isinstance(guest.machine.resume(step=True), StepDone):
            return None
    guest.machine.vcpu.step(False)
    return guest


@pytest.mark.parametrize("name", GUESTS)
def test_another_machine_goes_on(name: str, tmp_path: Path) -> None:
    """There and on the software CPU, from different moments of each guest."""
    for steps in range(len(name) % 4, 26, 7):
        if (one := stepped(GUESTS[name], steps)) is None:
            break
        snapshot.save(one.machine, tmp_path / "kept")
        expected = seen(one)
        for engine in (CHIPS, "soft"):
            two = load(GUESTS[name], CHIPS)
            two.machine = again(tmp_path / "kept", engine)
            assert seen(two) == expected, (engine, steps)


@pytest.mark.parametrize("name", GUESTS)
def test_what_the_software_cpu_began_goes_on(name: str, tmp_path: Path) -> None:
    cpu = model_text(load("nop", CHIPS).machine.vcpu.model)
    for steps in range(len(name) % 5, 26, 9):
        if (one := stepped(GUESTS[name], steps, "soft", cpu)) is None:
            break
        snapshot.save(one.machine, tmp_path / "kept")
        two = load(GUESTS[name], CHIPS, cpu)
        if one.machine.vcpu.save().underway == replace(NOTHING, halting=True):  # behind HLT, before its owner has heard of it
            with pytest.raises(snapshot.SnapshotError, match="another engine"):
                again(tmp_path / "kept", CHIPS)
            continue
        two.machine = again(tmp_path / "kept", CHIPS)
        assert seen(two) == seen(one), steps


CLOCK = f"mov ecx, {SYSTEM_TIME}\nmov eax, {DATA + 1}\nxor edx, edx\nwrmsr\nnop\nnop\nmov rbx, [{DATA} + 16]"


def test_kvmclock_goes_on_and_is_kvms_alone(tmp_path: Path) -> None:
    one = stepped(CLOCK, 5)
    assert one is not None
    vcpu = one.machine.vcpu
    assert isinstance(vcpu, KvmVcpu)
    if vcpu.fd.msr(SYSTEM_TIME) is None:
        pytest.skip("this host's KVM has no kvmclock")
    before = vcpu.vm.clock().clock
    snapshot.save(one.machine, tmp_path / "kept")
    machine = again(tmp_path / "kept", CHIPS)
    assert isinstance(machine.vcpu, KvmVcpu)
    assert machine.vcpu.fd.msr(SYSTEM_TIME) == DATA + 1
    assert isinstance(machine.resume(), MachineExit)
    assert before <= machine.vcpu.get("rbx") < before + 60_000_000_000
    with pytest.raises(snapshot.SnapshotError, match="another engine"):
        again(tmp_path / "kept", "soft")
