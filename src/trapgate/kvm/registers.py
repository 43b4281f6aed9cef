"""Reads the registers of a vCPU on KVM by the names of `arch.registers`, when asked for, and writes them back at once.

KVM_SET_REGS drops an exception that waits for delivery. By name a register changes without that, for whoever asks does not know of
it; the engine itself injects what it has behind its last change.
"""

import contextlib
import ctypes
from collections.abc import Iterator

from trapgate.arch import debugregs, xstate
from trapgate.arch.flags import TF
from trapgate.kvm import abi, convert
from trapgate.kvm.ioctl import KvmError
from trapgate.kvm.vcpu_handle import VcpuFd

SELECTORS = {"cs": "cs", "ss": "ss", "ds": "ds", "es": "es", "fs": "fs", "gs": "gs", "ldtr": "ldt", "tr": "tr"}
_DEBUG = ("dr0", "dr1", "dr2", "dr3", "dr6", "dr7")
_CONTROL = ("cr0", "cr2", "cr3", "cr4", "efer")
_MSRS = {
    "star": 0xC0000081, "lstar": 0xC0000082, "cstar": 0xC0000083, "sfmask": 0xC0000084, "k_gs_base": 0xC0000102, "tsc": 0x10,
}  # fmt: skip
CPL_MASK = 3


class Registers:
    """All but CR8, which the local APIC has. `forget` after every run; values are asked of KVM once between two runs."""

    def __init__(self, fd: VcpuFd, components: int = xstate.ALL) -> None:
        """`components`: those that XCR0 may have."""
        self._fd, self._components = fd, components
        self._regs: abi.Regs | None = None
        self._sregs: abi.Sregs | None = None
        self._debug: abi.DebugRegs | None = None
        self._bits = 0  # of running code; 0: not known
        self._held = False

    def forget(self) -> None:
        """The guest has run."""
        self._regs = self._sregs = self._debug = None
        self._bits = 0

    def forget_general(self) -> None:
        """KVM has changed RFLAGS: it puts TF in and out with KVM_SET_GUEST_DEBUG."""
        self._regs = None

    @property
    def general(self) -> abi.Regs:
        """General registers; `store_general` after a change."""
        if self._regs is None:
            self._regs = self._fd.regs()
        return self._regs

    @property
    def system(self) -> abi.Sregs:
        """Segments and control registers; `store_system` after a change."""
        if self._sregs is None:
            self._sregs = self._fd.sregs()
        return self._sregs

    @property
    def debug(self) -> abi.DebugRegs:
        """The guest's own debug registers; `store_debug` after a change."""
        if self._debug is None:
            self._debug = self._fd.debug_registers()
        return self._debug

    def store_debug(self) -> None:
        """Write the debug registers back; KvmError when KVM refuses them."""
        try:
            self._fd.set_debug_registers(self.debug)
        except KvmError:
            self._debug = None
            raise

    def store_general(self) -> None:
        """Write the general registers back."""
        self._fd.set_regs(self.general)

    def store_system(self) -> None:
        """Write the system registers back; ValueError when KVM refuses them."""
        self._bits = 0
        if self._held:
            return
        try:
            # Queued interrupts belong to KVM_SET_VCPU_EVENTS: what stands in the bitmap would be queued a second time.
            self.system.interrupt_bitmap[:] = [0] * 4
            events = self._fd.events()
            self._fd.set_sregs(self.system)
            self._fd.set_events(events)
        except KvmError as error:
            self._sregs = None
            raise ValueError(f"these control and segment registers do not go together: {error}") from error

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """System registers changed within are written at the end, for one alone may be no legal state."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self.store_system()

    # Shorthands

    @property
    def rip(self) -> int:
        """RIP."""
        return int(self.general.rip)

    @rip.setter
    def rip(self, value: int) -> None:
        self.general.rip = value
        self.store_general()

    @property
    def tf(self) -> bool:
        """RFLAGS.TF."""
        return bool(self.general.rflags & TF)

    @property
    def cpl(self) -> int:
        """The current privilege level (SS.DPL holds it)."""
        return int(self.system.ss.dpl) & CPL_MASK if self.system.cr0 & 1 else 0

    @property
    def bits(self) -> int:
        """The width of running code: 16, 32 or 64."""
        if not self._bits:
            system = self.system
            narrow = 32 if system.cs.db and system.cr0 & 1 else 16
            self._bits = 64 if system.efer & 1 << 10 and system.cs.l else narrow
        return self._bits

    def linear(self, offset: int, segment: str = "cs") -> int:
        """A linear address in a segment."""
        if self.bits == 64:
            return offset
        return offset + int(getattr(self.system, segment).base) & 0xFFFF_FFFF

    # By name

    def get(self, name: str) -> int:
        """The value of a register; KeyError for no such register."""
        if name in abi.GENERAL:
            return int(getattr(self.general, name))
        if name in _CONTROL:
            return int(getattr(self.system, name))
        if name in SELECTORS:
            return int(getattr(self.system, SELECTORS[name]).selector)
        stem, _, part = name.rpartition("_")
        if part == "base" and stem in SELECTORS:
            return int(getattr(self.system, SELECTORS[stem]).base)
        if name == "cs_attributes":
            return convert.attributes(self.system.cs) & ~convert.UNUSABLE
        if stem in ("gdt", "idt"):
            return int(getattr(getattr(self.system, stem), part))
        if name in _MSRS:
            return self._fd.msr(_MSRS[name]) or 0
        if name == "xcr0":
            return self._fd.xcr0()
        if name in _DEBUG:
            debug = self.debug
            return int(debug.db[int(name[2:])] if int(name[2:]) < 4 else getattr(debug, name))
        return self._get_float(name)

    def set(self, name: str, value: int) -> None:
        """Change a register; ValueError when the CPU forbids the value, KeyError for no such register."""
        if name in abi.GENERAL:
            setattr(self.general, name, value)
            events = self._fd.events()
            self.store_general()
            if events.exception_pending:
                self._fd.set_events(events)
        elif name in _CONTROL:
            setattr(self.system, name, value)
            self.store_system()
        elif name in SELECTORS:
            self._set_selector(name, value)
        elif name == "cs_attributes":
            raise ValueError("the hidden part of CS changes only by the guest's own instructions")
        elif name.endswith("_base") and name[:-5] in SELECTORS:
            getattr(self.system, SELECTORS[name[:-5]]).base = value
            self.store_system()
        elif name.startswith(("gdt_", "idt_")):
            setattr(getattr(self.system, name[:3]), name[4:], value)
            self.store_system()
        elif name in _MSRS:
            if not self._fd.set_msr(_MSRS[name], value):
                raise ValueError(f"{name} cannot hold {value:#x}")
        elif name == "xcr0":
            try:
                self._fd.set_xcr0(value)
            except KvmError as error:
                raise ValueError(f"xcr0 cannot hold {value:#x}") from error
        elif name in _DEBUG:
            self._set_debug(int(name[2:]), value)
        else:
            self._set_float(name, value)

    def put_segment(self, name: str, selector: int, base: int, limit: int, attributes: int) -> None:
        """Load a segment register with its hidden part, without looking at any table."""
        setattr(self.system, SELECTORS[name], convert.segment(selector, base, limit, attributes))
        self.store_system()

    def _set_selector(self, name: str, value: int) -> None:
        segment = getattr(self.system, SELECTORS[name])
        if value == segment.selector:
            return
        if self.system.cr0 & 1:
            raise ValueError(f"{name} changes only by the guest's own instructions")
        segment.selector, segment.base = value, value << 4
        self.store_system()

    def _set_debug(self, number: int, value: int) -> None:
        debug = self.debug
        if number < 4:
            debug.db[number] = value
        elif number == 6:
            debug.dr6 = debugregs.store_dr6(value, amd=False, bus_lock=True, debugctl=0)
        else:
            debug.dr7 = debugregs.store_dr7(value)
        try:
            self.store_debug()
        except KvmError as error:
            raise ValueError(f"dr{number} cannot hold {value:#x}") from error

    # x87 and vector registers, in the XSAVE area

    def _check_float(self, name: str) -> None:
        if xstate.components_of(name) & ~self._components & ~xstate.LEGACY:
            raise KeyError(f"this CPU has no {name}")

    def _get_float(self, name: str) -> int:
        self._check_float(name)
        return xstate.read(bytes(self._fd.xsave()), name)

    def _set_float(self, name: str, value: int) -> None:
        self._check_float(name)
        if name == "mxcsr":
            xstate.check_mxcsr(value)
        area = self._fd.xsave()
        raw = bytearray(area)
        xstate.write(raw, name, value)
        present = int.from_bytes(raw[xstate.XSTATE_BV : xstate.XSTATE_BV + 8], "little") | xstate.components_of(name)
        raw[xstate.XSTATE_BV : xstate.XSTATE_BV + 8] = present.to_bytes(8, "little")
        ctypes.memmove(ctypes.addressof(area), bytes(raw), len(raw))
        self._fd.set_xsave(area)
