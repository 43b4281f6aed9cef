"""Debug registers on invented hosts: a guest's accesses to them, and what is told of those."""

import pytest

from trapgate.arch.debugregs import DR6_BD
from trapgate.debug.router import Share, Verdict
from trapgate.exits import Interrupted, SoftwareBreakpoint
from trapgate.kvm import abi
from unit.kvm.fake_kvm import CODE, FakeVcpuFd, debug_exit, vcpu
from unit.kvm.sharing import ANY, EXEC, NONE, VENDORS, verdict


@VENDORS
def test_a_guests_access_to_debug_registers_is_run_alone_and_shared_out_anew(vendor: str, monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, vendor, b"\x0f\x23\xf8" + b"\x90" * 8)  # MOV DR7, RAX
    cpu.arm([EXEC], [])
    controls = []

    def moves(one: FakeVcpuFd) -> None:
        controls.append(one.guest_debug[-1])
        one.debug.db[0], one.debug.dr7 = 0x7000, 0x402 | 0x10000
        debug_exit(0xFFFF4FF0, CODE + 3)(one)

    fd.script.extend((debug_exit(NONE | DR6_BD, CODE), moves, debug_exit(NONE | 1, CODE + 5)))
    got = verdict(cpu, cpu.run())
    assert got == Verdict(Share(), Share(0, 1))  # the guest's new breakpoint is alive at once
    control, _, dr7 = controls[0]
    assert control & abi.DEBUG_STEP
    assert not dr7 & 1 << 13  # without our detection the instruction could run
    assert fd.guest_debug[-1][2] & 1 << 13  # and with it again


@pytest.mark.parametrize("leaves", [False, True])
def test_on_a_host_that_tells_of_no_such_access_the_guest_keeps_its_registers(leaves: bool, monkeypatch: ANY) -> None:
    """Software breakpoints alone: in free registers, or as INT3 bytes, with which #DB is KVM's and the guest's affair."""
    cpu, fd = vcpu(monkeypatch)
    cpu.leaves_debug_registers = leaves
    cpu.arm([], [CODE + 4])
    fd.script.append(lambda one: setattr(one.shared, "exit_reason", abi.EXIT_INTR))
    assert cpu.run() == Interrupted()
    control, addresses, _ = fd.guest_debug[-1]
    assert bool(control & abi.DEBUG_HARDWARE) is not leaves
    assert ((CODE + 4) in addresses) is not leaves
    assert cpu.ram.read(CODE + 4, 1) == (b"\xcc" if leaves else b"\x90")
    assert cpu.read_virtual(CODE + 4, 1) == b"\x90"
    fd.script.append(debug_exit(NONE, CODE + 4, exception=3) if leaves else debug_exit(NONE | 1, CODE + 4))
    assert cpu.run() == SoftwareBreakpoint(CODE + 4)
    cpu.arm([EXEC], [CODE + 4])
    fd.script.append(lambda one: setattr(one.shared, "exit_reason", abi.EXIT_INTR))
    assert cpu.run() == Interrupted()
    assert EXEC.address in fd.guest_debug[-1][1]


def test_an_exception_that_waits_in_kvm_outlives_a_register_that_is_changed_by_name(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch)
    fd.state.exception_pending, fd.state.exception_nr = 1, 1
    cpu.set("r15", 99)
    assert (fd.general.r15, fd.state.exception_pending) == (99, 1)


@VENDORS
def test_general_detect_of_the_guest_is_the_guests(vendor: str, monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, vendor)
    fd.debug.dr7 |= 1 << 13
    cpu.arm([EXEC], [])
    fd.script.append(debug_exit(NONE | DR6_BD, CODE))
    event = cpu.run()
    assert verdict(cpu, event) == Verdict(Share(), Share(DR6_BD))
    assert event.fault  # type: ignore[union-attr]
