"""kvmclock: the guest has it, and time that a debugger holds the guest for does not pass by it."""

import threading
import time
from dataclasses import dataclass

import pytest

from kvm.guest import CHIPS, DATA, KVM, Guest
from trapgate.kvm import abi_chips
from trapgate.kvm.cpuid import CLOCK, KVM_BASE, KVM_FEATURES, SIGNATURE, clock_features
from trapgate.kvm.handles import System
from trapgate.stops import MachineExit, Paused

pytestmark = KVM
SYSTEM_TIME = 0x4B564D01  # MSR: the address of the guest's clock page, bit 0 switches it on
PAGE = 0x9000
START, HELD = 0.5, 0.5  # s
STOPPED = 2  # flag: a watchdog that finds it set forgives the gap, and clears it
SPIN = f"mov ecx, {SYSTEM_TIME}\nmov eax, {PAGE | 1}\nxor edx, edx\nwrmsr\n1: test byte ptr [rdi], 1\njz 1b"


@dataclass(frozen=True)
class Page:
    """pvclock_vcpu_time_info (Linux, Documentation/virt/kvm/x86/msr.rst)."""

    version: int
    system_time: int
    mul: int
    flags: int


@pytest.fixture(autouse=True, params=["kvm", CHIPS])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not clock_features(System().supported_cpuid()):
        pytest.skip("this host's KVM has no clock for guests")
    monkeypatch.setattr(Guest, "engine", request.param)


def page(guest: Guest) -> Page:
    at = guest.machine.ram.read_int
    return Page(at(PAGE, 4), at(PAGE + 16, 8), at(PAGE + 24, 4), at(PAGE + 29, 1))


def pause(guest: Guest, seconds: float = 0.05) -> None:
    """Let it run so long; a busy host needs the time to begin."""
    timer = threading.Timer(seconds, guest.machine.pause)
    timer.start()
    assert guest.machine.resume() == Paused()
    timer.join()


def test_the_guest_finds_kvm_and_its_clock() -> None:
    guest = Guest(
        f"mov eax, {KVM_BASE}\ncpuid\nmov [rdi], ebx\nmov [rdi+4], ecx\nmov [rdi+8], edx\nmov esi, eax\n"
        f"mov eax, {KVM_FEATURES}\ncpuid\nmov ebp, eax"
    )
    guest.run()
    assert guest.machine.ram.read(DATA, 12) == SIGNATURE
    assert guest.vcpu.get("rsi") == KVM_FEATURES
    assert guest.vcpu.get("rbp") & CLOCK
    assert guest.vcpu.get("rbp") & ~(CLOCK | 1 << 24) == 0  # and nothing else of KVM's


def test_time_stands_still_while_the_guest_is_stopped() -> None:
    guest = Guest(SPIN)
    pause(guest, START)
    began, before = time.monotonic_ns(), guest.vcpu.vm.clock().clock
    assert page(guest).version % 2 == 0
    assert page(guest).mul
    time.sleep(HELD)
    pause(guest)
    passed = guest.vcpu.vm.clock().clock - before
    assert 0 < passed < time.monotonic_ns() - began - 0.9e9 * HELD
    assert page(guest).system_time <= before + passed


def test_a_stop_is_told_to_the_guest_and_a_run_without_one_is_not() -> None:
    guest = Guest(SPIN)
    pause(guest, START)
    assert not page(guest).flags & STOPPED
    pause(guest)
    assert page(guest).flags & STOPPED
    guest.machine.ram.write(DATA, b"\1")
    assert isinstance(guest.machine.resume(), MachineExit)


@pytest.mark.parametrize(("mode", "forgotten"), [(0x34, True), (0x30, False)])
def test_ticks_of_a_long_stop_are_forgotten_but_a_single_one_is_not_repeated(
    mode: int, forgotten: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = Guest(
        f"mov al, {mode}\nout 0x43, al\nmov al, 0\nout 0x40, al\nmov al, 0x80\nout 0x40, al\n1: test byte ptr [rdi], 1\njz 1b"
    )
    if guest.vcpu.chips is None:
        pytest.skip("the PIT is ours: it stands still with the machine's clock")
    asked: list[abi_chips.PitState] = []
    pause(guest, START)
    monkeypatch.setattr("trapgate.kvm.cpu.LONG", 0)
    monkeypatch.setattr(guest.vcpu.vm, "set_pit", asked.append)
    pause(guest)
    assert bool(asked) is forgotten
