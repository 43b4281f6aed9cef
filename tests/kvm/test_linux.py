"""Debian's unmodified 6.1 kernel on KVM: to its end, or as far as the host executes it."""

import sys
from pathlib import Path

import pytest

from trapgate.build import default_cpu, load_guest, make_machine
from trapgate.kvm.ioctl import KvmError
from trapgate.machine import MachineConfig
from trapgate.stops import ExitKind, MachineExit

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the tools are no part of the package

from tools import linux_guest
from tools.guests.sources import GuestError

pytestmark = [pytest.mark.kvm, pytest.mark.linux, pytest.mark.timeout(1800, method="signal")]
LIMIT = 1_500_000_000_000  # ns: a host that emulates takes minutes to unpack the kernel


def test_debians_kernel_runs_a_program_and_powers_off() -> None:
    try:
        kernel, initramfs = linux_guest.kernel("6.1"), linux_guest.initramfs()
    except (GuestError, OSError) as error:
        pytest.skip(f"no Linux guest: {error}")
    sent: list[bytes] = []
    machine = make_machine(MachineConfig(memory=512 << 20, cpu=default_cpu("kvm"), serial=sent.append), "kvm")
    load_guest(machine, str(kernel), "console=ttyS0 earlyprintk=ttyS0,115200 panic=-1 trapgate.run=splitlock,2", str(initramfs))
    machine.clock.at(LIMIT, machine.pause)
    gave_up = ""
    try:
        end = machine.resume()
    except KvmError as error:
        gave_up = str(error)
    finally:
        machine.close()
    text = b"".join(sent).decode(errors="replace")
    assert "Linux version 6.1" in text, gave_up or text
    assert "Hypervisor detected: KVM" in text
    assert "kvm-clock: Using msrs" in text
    if gave_up:
        pytest.skip(f"{gave_up}; the kernel's last line: {text.splitlines()[-1]}")
    assert "splitlock: 2 split locks done, counter 2" in text
    assert isinstance(end, MachineExit)
    assert end.kind is ExitKind.POWER_OFF
