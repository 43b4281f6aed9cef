"""What every test of exits says: who gets what of a #DB, and what KVM is given when the guest's share is delivered."""

from typing import Any

import pytest

from trapgate.debug.router import Share, Verdict, route
from trapgate.exits import DebugException, Interrupted
from trapgate.kvm import abi
from trapgate.kvm.cpu import KvmVcpu
from trapgate.vcpu import Breakpoint, Kind, Owner
from unit.kvm.fake_kvm import CODE, FakeVcpuFd

NONE = 0xFFFF0FF0
TF = 1 << 8
EXEC = Breakpoint(Owner.DEBUGGER, 5, Kind.EXEC, CODE + 8, 1)
VENDORS = pytest.mark.parametrize("vendor", ["amd", "intel"])
ANY = pytest.MonkeyPatch
LOCK_INC = bytes.fromhex("f0 ff 47 3d")  # LOCK INC DWORD PTR [RDI + 61]


def verdict(cpu: KvmVcpu, event: Any, stepping: bool = False) -> Verdict:
    assert isinstance(event, DebugException), event
    return route(event, cpu.armed(), cpu.guest_debug(), stepping)


def settled(cpu: KvmVcpu, fd: FakeVcpuFd, share: Share) -> abi.VcpuEvents:
    """The events that KVM is given when the guest's share is delivered and the guest entered."""
    seen: list[abi.VcpuEvents] = []

    def look(one: FakeVcpuFd) -> None:
        seen.append(one.events())
        one.shared.exit_reason = abi.EXIT_INTR

    cpu.deliver_debug(share.causes, share.hits, share.icebp)
    fd.script.append(look)
    assert cpu.run() == Interrupted()
    return seen[0]
