"""The guest programs that carry their expectation, on KVM, as far as this host executes them."""

from pathlib import Path

import pytest

from kvm.guest import KVM
from programs import build
from trapgate.cli.guest import load_guest, make_machine
from trapgate.kvm import probe
from trapgate.kvm.cpuid import OF_THE_APIC
from trapgate.kvm.handles import KvmError
from trapgate.machine import MachineConfig
from trapgate.stops import MachineExit, Paused

pytestmark = [*KVM, pytest.mark.skipif(bool(build.missing_tools()), reason=f"not installed: {build.missing_tools()}")]
LIMIT = 3_000_000_000  # ns


@pytest.fixture(scope="module")
def emulated() -> str:
    """Why the host is no judge, or '': a KVM within a virtual machine may emulate guest code, and not all of it."""
    lacking = [one.name for one in (probe.int1(), probe.int3(), probe.watchpoint()) if not one.holds]
    return f"this host's KVM does not do {', '.join(lacking)}" if lacking else ""


@pytest.mark.parametrize("program", build.programs(), ids=lambda program: program.name)
def test_program(program: build.Program, tmp_path: Path, emulated: str) -> None:
    written: list[bytes] = []
    machine = make_machine(MachineConfig(memory=64 << 20, cpu=program.cpu, debugcon=written.append), "kvm")
    lost = [name for name in machine.vcpu.lost_features if name not in OF_THE_APIC]  # type: ignore[attr-defined]
    load_guest(machine, str(build.assemble(program, tmp_path)))
    machine.clock.at(LIMIT, machine.pause)
    try:
        end = machine.resume()
    except KvmError as error:
        pytest.skip(str(error))
    finally:
        machine.close()
    lines = b"".join(written).decode().splitlines()
    failed = [line for line in lines if not line.startswith(("ok ", "finished"))]
    if (failed or isinstance(end, Paused)) and (emulated or lost):
        pytest.skip(emulated or f"this host lacks features of the program's CPU: {', '.join(lost)}")
    assert failed == []
    assert isinstance(end, MachineExit)
    assert end.kind.name.lower() == program.end
    assert len([line for line in lines if line.startswith("ok ")]) >= program.checks
