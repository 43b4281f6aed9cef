"""Runs a vCPU on KVM below the debugger: its VM, entering the guest, being kicked out of it, devices' answers, guest memory."""

import contextlib
import errno
import signal
import threading
from typing import Protocol

from trapgate.arch import walk, xstate
from trapgate.arch.cpuid import Dynamic
from trapgate.arch.models import CpuModel
from trapgate.arch.msrs import MsrError, Rule, msrs_of
from trapgate.exits import Exit, MmioRead, MmioWrite, PortRead, PortWrite
from trapgate.kvm import abi, abi_chips, chips, cpuid
from trapgate.kvm.handles import System
from trapgate.kvm.ioctl import REMEDIES, KvmError
from trapgate.kvm.kicks import KICK, Kicks
from trapgate.kvm.memory import Planted, map_ram
from trapgate.kvm.registers import Registers
from trapgate.memory import PAGE_MASK, PAGE_SIZE, Ram, virtual_parts
from trapgate.values import dataclass

TSS_ADDRESS = 0xFFFB_D000  # below the place of firmware, in the hole of RAM
NOTHING_BLOCKED = bytes(8)
NEEDED = {
    "KVM_CAP_USER_MEMORY": abi.CAP_USER_MEMORY,
    "KVM_CAP_SET_GUEST_DEBUG": abi.CAP_SET_GUEST_DEBUG,
    "KVM_CAP_VCPU_EVENTS": abi.CAP_VCPU_EVENTS,
    "KVM_CAP_DEBUGREGS": abi.CAP_DEBUGREGS,
    "KVM_CAP_XSAVE": abi.CAP_XSAVE,
    "KVM_CAP_READONLY_MEM": abi.CAP_READONLY_MEM,
    "KVM_CAP_IMMEDIATE_EXIT": abi.CAP_IMMEDIATE_EXIT,
}
OUT = 1
APIC_BASE = 0x1B  # MSR
FCW_RESET, TAGS_RESET = 0x40, 0x5555  # SDM vol. 3, table 10-1; KVM begins with what FNINIT leaves
SETTABLE = (Rule.PLAIN, Rule.PAT_TYPES, Rule.MTRR_TYPES, Rule.MTRR_TYPE, Rule.MTRR_MASK)


class LocalApic(Protocol):
    """What the CPU reaches of its local APIC (`devices.lapic` is one): CR8 and MSRs."""

    cr8: int

    def read_msr(self, index: int) -> int:
        """IA32_APIC_BASE, 800h-8FFh, IA32_TSC_DEADLINE; MsrError for what is not there."""
        ...

    def write_msr(self, index: int, value: int) -> None:
        """The same; MsrError for a value it refuses, too."""
        ...


class NoApic:
    """For a vCPU that stands alone."""

    cr8 = 0

    def read_msr(self, index: int) -> int:
        """Nothing is here."""
        raise MsrError(f"MSR {index:#x}: no local APIC", missing=True)

    def write_msr(self, index: int, value: int) -> None:
        """Nothing is here."""
        raise MsrError(f"MSR {index:#x}: no local APIC", missing=True)


@dataclass(frozen=True, slots=True)
class Setup:
    """What is asked of the host besides the least. What it lacks of `bus_locks` and `chips` is left out."""

    tsc_hz: int = 0  # 0: the model's
    bus_locks: bool = False  # exits at bus locks
    chips: bool = False  # interrupt controllers and timer in the kernel


PLAIN = Setup()


@dataclass(slots=True)
class PortItems:
    """An IN or OUT under way: `count` items (more than one for REP INS and OUTS), of which `done` are through."""

    out: bool
    size: int
    port: int
    offset: int
    count: int
    done: int = 0


class Core:
    """Owns the VM. `registers` and memory are the guest's as of the last completed instruction, once `settle` was called."""

    def __init__(self, ram: Ram, model: CpuModel, lapic: LocalApic | None, setup: Setup = PLAIN) -> None:
        self.ram = ram
        self.lapic: LocalApic = lapic or NoApic()
        self.system = System()
        lacking = [name for name, number in NEEDED.items() if not self.system.capability(number)]
        if lacking:
            raise KvmError(f"this host's KVM lacks {', '.join(lacking)}", 0, REMEDIES[errno.ENOTTY])
        self.vm = self.system.create_vm()
        self.vm.set_tss_address(TSS_ADDRESS)
        map_ram(self.vm, ram)
        self.payload = bool(self.system.capability(abi.CAP_EXCEPTION_PAYLOAD))
        if self.payload:
            self.vm.enable(abi.CAP_EXCEPTION_PAYLOAD, 1)
        self.bus_lock_exits = setup.bus_locks and bool(self.system.capability(abi.CAP_BUS_LOCK_EXIT) & abi.BUS_LOCK_DETECTION_EXIT)
        if self.bus_lock_exits:
            self.vm.enable(abi.CAP_BUS_LOCK_EXIT, abi.BUS_LOCK_DETECTION_EXIT)
        self.chips = chips.Chips(self.system, self.vm, model) if setup.chips and chips.offered(self.system) else None
        supported = self.system.supported_cpuid()
        deadline = bool(self.system.capability(abi_chips.CAP_TSC_DEADLINE))
        self.model, self.lost_features = cpuid.filter_model(model, supported, apic=self.chips is not None, deadline=deadline)
        self.fd = self.vm.create_vcpu(0)
        self.fd.set_tsc_khz((setup.tsc_hz or model.tsc_hz) // 1000)
        tsc_known = self.fd.tsc_khz() * 1000 == model.tsc_hz and (self.chips is None or self.chips.timer_known)
        self.cpuid = list(cpuid.entries(self.model, Dynamic(), tsc_known, cpuid.clock_features(supported)))
        self.fd.set_cpuid(self.cpuid)
        self.amd_host = host_is_amd(supported)
        self.registers = Registers(self.fd, xstate.user_mask(self.model.has))
        if self.chips is not None:
            self.lapic = chips.KernelApic(self.fd, self.registers)
        self.planted = Planted(ram, self.translate)
        self.shared = self.fd.shared
        self.items: PortItems | None = None
        self.unread = False  # `shared` holds an exit that nobody has looked at
        self._reading: abi.ExitMmio | None = None
        self._waiting = False  # an I/O instruction completes with the next KVM_RUN
        self._kicked = False
        self._thread: int | None = None
        self._kicks = Kicks()
        self._inside = False
        self._apic_base = 0
        self.known_ready = False  # whether `ready_for_interrupt_injection` is of this moment
        self.registers.set("fctrl", FCW_RESET)
        self.registers.set("ftag", TAGS_RESET)
        for msr in msrs_of(self.model).values():
            if msr.rule in SETTABLE and msr.reset:
                self.fd.set_msr(msr.index, msr.reset)  # some are not KVM's: those read as KVM has them

    def close(self) -> None:
        """Give the VM back to the host; what is left is an empty shell."""
        if vars(self):
            self.leave_thread()
            for handle in (self.fd, self.vm, self.system):
                handle.close()
            vars(self).clear()  # it refers to itself, and its shared pages hold the VM

    # --- entering the guest

    def _own_thread(self) -> None:
        """KICK must be blocked in whatever thread runs the vCPU, and let through while the guest runs."""
        here = threading.get_ident()
        if here != self._thread:
            self._kicks.hold_back()
            self.fd.set_signal_mask(NOTHING_BLOCKED)
            self._thread = here

    def leave_thread(self) -> None:
        """Have KICK in this thread as it was before the guest ran here. Nobody may be about to kick."""
        self._thread = None
        self._kicks.let_through()

    def enter(self, immediate: bool = False) -> bool:
        """KVM_RUN. False when it ended without an exit: a kick, a signal, or (`immediate`) an instruction completed."""
        self._own_thread()
        shared = self.shared
        if self.chips is None:
            shared.cr8 = self.lapic.cr8
        shared.immediate_exit = immediate
        self._inside = True
        if self._kicked:  # asked after the store above: a kick from another thread is seen either here or by KVM
            shared.immediate_exit = 1
        happened = self.fd.run()
        self._inside = False
        self._waiting, self.known_ready = False, True
        self.registers.forget()
        if not happened:
            signal.sigtimedwait({KICK}, 0)
        if self.chips is None and shared.cr8 != self.lapic.cr8:
            self.lapic.cr8 = shared.cr8
        if self.chips is None and shared.apic_base != self._apic_base:
            self._apic_base = shared.apic_base
            with contextlib.suppress(MsrError):  # a place that ours cannot be at
                self.lapic.write_msr(APIC_BASE, shared.apic_base)
        return happened

    def kick(self) -> None:
        """Make `run` return Interrupted soon; from any thread."""
        self._kicked = True
        self.shared.immediate_exit = 1
        if self._inside and self._thread is not None:
            signal.pthread_kill(self._thread, KICK)

    def take_kick(self) -> bool:
        """Whether somebody kicked; forgotten with the asking."""
        kicked, self._kicked = self._kicked, False
        return kicked

    def settle(self) -> None:
        """Complete the I/O instruction that `run` returned from, so that registers are those behind it."""
        if self._waiting and self.items is None:
            self.unread = self.enter(immediate=True)

    # --- devices

    def port_exit(self) -> Exit:
        """The IN or OUT that KVM has just exited with."""
        io = self.shared.exit.io
        self.items = PortItems(io.direction == OUT, io.size, io.port, io.data_offset, io.count)
        self._waiting = True
        return self.next_item()

    def next_item(self) -> Exit:
        """The next item of the IN or OUT under way."""
        items = self.items
        assert items is not None
        if not items.out:
            return PortRead(items.port, items.size)
        data = self.fd.io_bytes(items.offset + items.done * items.size, items.size)
        self._item_done(items)
        return PortWrite(items.port, items.size, int.from_bytes(data, "little"))

    def _item_done(self, items: PortItems) -> None:
        items.done += 1
        if items.done == items.count:
            self.items = None

    def mmio_exit(self) -> Exit:
        """The access to memory that is no RAM, which KVM has just exited with."""
        mmio = self.shared.exit.mmio
        self._waiting = True
        if not mmio.is_write:
            self._reading = mmio
            return MmioRead(mmio.phys_addr, mmio.len)
        return MmioWrite(mmio.phys_addr, mmio.len, int.from_bytes(bytes(mmio.data[: mmio.len]), "little"))

    def complete(self, value: int) -> None:
        """Answer the PortRead or MmioRead that `run` returned last."""
        if self.items is not None:
            items = self.items
            self.fd.put_io_bytes(items.offset + items.done * items.size, value.to_bytes(items.size, "little"))
            self._item_done(items)
            return
        assert self._reading is not None, "nothing waits for an answer"
        self._reading.data[: self._reading.len] = value.to_bytes(self._reading.len, "little")
        self._reading = None

    # --- memory

    def translate(self, address: int) -> int | None:
        """The guest-physical address behind a linear one; None when unmapped."""
        system = self.registers.system
        return walk.translate(
            self.ram.int_at, address & (1 << 64) - 1, cr0=system.cr0, cr3=system.cr3, cr4=system.cr4, efer=system.efer
        )

    def read_virtual(self, address: int, length: int) -> bytes:
        """Guest memory without our INT3 bytes; short where a page is unmapped or not RAM."""
        if (address & PAGE_MASK) + length <= PAGE_SIZE:  # as nearly always
            place = self.translate(address)
            if place is None or not self.ram.contains(place, length):
                return b""
            return self.planted.hide(place, self.ram.read(place, length))
        parts = virtual_parts(self.ram, self.translate, address, length)
        return b"".join(self.planted.hide(physical, self.ram.read(physical, size)) for physical, size in parts)

    def write_virtual(self, address: int, data: bytes) -> bool:
        """Change guest memory whatever its page rights; False and nothing written when any of it is unmapped or not RAM."""
        parts = list(virtual_parts(self.ram, self.translate, address, len(data)))
        if sum(size for _, size in parts) < len(data):
            return False
        for physical, size in parts:
            self.ram.write(physical, self.planted.overwrite(physical, data[:size]))
            data = data[size:]
        return True


def host_is_amd(supported: list[abi.CpuidEntry]) -> bool:
    """Whether KVM runs on an AMD CPU (or a compatible one), by the vendor that it offers to guests."""
    zero = next(one for one in supported if one.function == 0)
    vendor = b"".join(int(part).to_bytes(4, "little") for part in (zero.ebx, zero.edx, zero.ecx))
    return vendor in (b"AuthenticAMD", b"HygonGenuine")
