"""A host's KVM that plays a script: each entry into the guest does what the test says. For hosts of either vendor, old and new."""

import copy
from collections import deque
from collections.abc import Callable
from typing import Any

from trapgate.arch.models import CpuModel
from trapgate.debug import slots
from trapgate.kvm import abi, core
from trapgate.kvm.cpu import KvmVcpu
from trapgate.memory import Ram

VENDORS = {"amd": b"AuthenticAMD", "intel": b"GenuineIntel"}
CODE, TABLES = 0x2000, 0xD000
Entry = Callable[["FakeVcpuFd"], bool | None]


class FakeVcpuFd:
    """Registers and events kept as they are stored; linear addresses are physical ones."""

    def __init__(self) -> None:
        self.page = memoryview(bytearray(8192))
        self.words, self.shared = self.page.cast("I"), abi.Run.from_buffer(self.page)
        self.script: deque[Entry] = deque()
        self.general, self.system, self.state = abi.Regs(rip=CODE, rflags=2, rsp=0x8000), abi.Sregs(), abi.VcpuEvents()
        self.debug = abi.DebugRegs(dr6=0xFFFF0FF0, dr7=0x400)
        self.msrs = {0x1D9: 0, 0xC0000082: 0x6000, 0xC0000084: 0}
        self.guest_debug: list[tuple[int, tuple[int, ...], int]] = []
        self.io = self.page
        cs = self.system.cs
        cs.present, cs.s, cs.type, cs.l = 1, 1, 11, 1
        self.system.cr0, self.system.efer, self.system.cr3, self.system.cr4 = 0x80000011, 0xD00, TABLES, 0x20
        self.system.idt.base, self.system.idt.limit = 0x4000, 0xFFF

    def regs(self) -> abi.Regs:
        return copy.copy(self.general)

    def set_regs(self, value: abi.Regs) -> None:
        self.general = copy.copy(value)
        self.state.exception_pending = 0  # as KVM does

    def sregs(self) -> abi.Sregs:
        return copy.copy(self.system)

    def set_sregs(self, value: abi.Sregs) -> None:
        self.system = copy.copy(value)

    def events(self) -> abi.VcpuEvents:
        return copy.copy(self.state)

    def set_events(self, value: abi.VcpuEvents) -> None:
        self.state = copy.copy(value)

    def debug_registers(self) -> abi.DebugRegs:
        return copy.copy(self.debug)

    def has_breakpoints(self) -> bool:
        return bool(self.debug.dr7 & 0xFF)

    def set_debug_registers(self, value: abi.DebugRegs) -> None:
        self.debug = copy.copy(value)

    def set_guest_debug(self, control: int, addresses: tuple[int, ...] = (0, 0, 0, 0), dr7: int = 0) -> None:
        self.guest_debug.append((control, addresses, dr7))

    def msr(self, index: int) -> int | None:
        return self.msrs.get(index)

    def set_msr(self, index: int, value: int) -> bool:
        known = index in self.msrs
        if known:
            self.msrs[index] = value
        return known

    def xsave(self) -> abi.Xsave:
        return abi.Xsave()

    def run(self) -> bool:
        if self.shared.immediate_exit:
            return False
        done = self.script.popleft()(self)
        return done is not False

    def io_bytes(self, offset: int, size: int) -> bytes:
        return bytes(self.io[offset : offset + size])

    def put_io_bytes(self, offset: int, data: bytes) -> None:
        self.io[offset : offset + len(data)] = data

    def tsc_khz(self) -> int:
        return 0

    def __getattr__(self, name: str) -> Any:
        """What changes nothing here: CPUID, signal mask, TSC rate."""
        if name.startswith("set_") or name in ("clock_paused", "close"):
            return lambda *anything: None
        raise AttributeError(name)


class FakeSystem:
    """The host. `capabilities`: those it has, by number."""

    def __init__(self, vendor: str, capabilities: dict[int, int], fd: FakeVcpuFd) -> None:
        self.vendor, self.capabilities, self.fd = vendor, capabilities, fd
        self.enabled: list[tuple[int, int]] = []

    def capability(self, number: int) -> int:
        return self.capabilities.get(number, 0)

    def supported_cpuid(self) -> list[abi.CpuidEntry]:
        ebx, edx, ecx = (int.from_bytes(VENDORS[self.vendor][n : n + 4], "little") for n in (0, 4, 8))
        return [abi.CpuidEntry(0, 0, 0, 0, ebx, ecx, edx), abi.CpuidEntry(1, 0, 0, 0, 0, 0, 0xFFFF_FFFF)]

    def create_vm(self) -> "FakeSystem":
        return self

    def enable(self, capability: int, argument: int) -> None:
        self.enabled.append((capability, argument))

    def create_vcpu(self, identifier: int) -> FakeVcpuFd:
        return self.fd

    def set_tss_address(self, address: int) -> None:
        pass

    def set_memory(self, slot: int, guest: int, size: int, host: int, read_only: bool = False) -> None:
        pass

    def close(self) -> None:
        pass


opened: list[KvmVcpu] = []
"""What `vcpu` made: closed when the test ends (`conftest`)."""


def vcpu(
    monkeypatch: Any,
    vendor: str = "amd",
    code: bytes = b"\x90" * 16,
    *,
    payload: bool = True,
    bus_locks: bool = False,
    cpl: int = 0,
) -> tuple[KvmVcpu, FakeVcpuFd]:
    """A vCPU on such a host, with code at `CODE`, in 64-bit mode."""
    fd = FakeVcpuFd()
    capabilities = dict.fromkeys(core.NEEDED.values(), 1) | {abi.CAP_EXCEPTION_PAYLOAD: int(payload), abi.CAP_BUS_LOCK_EXIT: 3}
    monkeypatch.setattr(core, "System", lambda: FakeSystem(vendor, capabilities, fd))
    ram = Ram(64 << 10)
    ram.write(CODE, code)
    ram.write_int(TABLES, 8, TABLES + 0x1000 | 7)
    ram.write_int(TABLES + 0x1000, 8, 0x87)
    for vector in range(32):
        at = 0x6000 + 16 * vector
        ram.write(0x4000 + 16 * vector, (at | 8 << 16 | 0x8E00 << 32).to_bytes(16, "little"))
    fd.system.ss.dpl = cpl
    made = KvmVcpu(ram, CpuModel.parse("EPYC-Turin"), None, slots.plan, core.Setup(bus_locks=bus_locks))
    opened.append(made)
    return made, fd


def debug_exit(dr6: int, rip: int | None = None, exception: int = 1, **registers: int) -> Entry:
    """KVM_EXIT_DEBUG with the guest where it then is."""

    def play(fd: FakeVcpuFd) -> None:
        if rip is not None:
            fd.general.rip = rip
        for name, value in registers.items():
            setattr(fd.general, name, value)
        fd.shared.exit_reason = abi.EXIT_DEBUG
        debug = fd.shared.exit.debug
        debug.exception, debug.pc, debug.dr6 = exception, fd.general.rip, dr6

    return play
