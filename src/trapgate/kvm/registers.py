"""Registers of a vCPU on KVM by the names of `arch.registers`, read when asked for and written back at once.

KVM_SET_REGS drops an exception that waits for delivery, so whoever injects one does it after the last change (`cpu`).
"""

import contextlib
import ctypes
from collections.abc import Iterator

from trapgate.arch import debugregs
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
_WORDS = {"fctrl": (0, 2), "fstat": (2, 2), "fop": (6, 2), "fioff": (8, 4), "fiseg": (12, 2), "fooff": (16, 4), "foseg": (20, 2)}
_MXCSR, _ST0, _XMM0, _TAG, _XSTATE_BV = 24, 32, 160, 4, 512
MXCSR_MASK = 0xFFFF
X87_AND_SSE = 3
CPL_MASK = 3


class Registers:
    """All but CR8, which the local APIC has. `forget` after every run; values are asked of KVM once between two runs."""

    def __init__(self, fd: VcpuFd) -> None:
        self._fd = fd
        self._regs: abi.Regs | None = None
        self._sregs: abi.Sregs | None = None
        self._held = False

    def forget(self) -> None:
        """The guest has run."""
        self._regs = self._sregs = None

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

    def store_general(self) -> None:
        """Write the general registers back."""
        self._fd.set_regs(self.general)

    def store_system(self) -> None:
        """Write the system registers back; ValueError when KVM refuses them."""
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
        cs = self.system.cs
        if self.system.efer & 1 << 10 and cs.l:
            return 64
        return 32 if cs.db and self.system.cr0 & 1 else 16

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
            debug = self._fd.debug_registers()
            return int(debug.db[int(name[2:])] if int(name[2:]) < 4 else getattr(debug, name))
        return self._get_float(name)

    def set(self, name: str, value: int) -> None:
        """Change a register; ValueError when the CPU forbids the value, KeyError for no such register."""
        if name in abi.GENERAL:
            setattr(self.general, name, value)
            self.store_general()
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
        debug = self._fd.debug_registers()
        if number < 4:
            debug.db[number] = value
        elif number == 6:
            debug.dr6 = debugregs.store_dr6(value, amd=False, bus_lock=True, debugctl=0)
        else:
            debug.dr7 = debugregs.store_dr7(value)
        try:
            self._fd.set_debug_registers(debug)
        except KvmError as error:
            raise ValueError(f"dr{number} cannot hold {value:#x}") from error

    # x87 and SSE, in the legacy region of the XSAVE area (SDM vol. 1, 13.4.1)

    def _place(self, name: str) -> tuple[int, int]:
        if name in _WORDS:
            return _WORDS[name]
        if name == "mxcsr":
            return _MXCSR, 4
        for stem, start, size in (("st", _ST0, 10), ("xmm", _XMM0, 16)):
            number = name.removeprefix(stem)
            if name.startswith(stem) and number.isdigit() and int(number) < (8 if stem == "st" else 16):
                return start + 16 * int(number), size
        raise KeyError(f"no register is called {name!r}")

    def _get_float(self, name: str) -> int:
        if name == "ftag":
            return self._full_tags(bytes(self._fd.xsave())[:512])
        at, size = self._place(name)
        return int.from_bytes(bytes(self._fd.xsave())[at : at + size], "little")

    def _set_float(self, name: str, value: int) -> None:
        if name == "mxcsr" and value & ~MXCSR_MASK:
            raise ValueError(f"MXCSR {value:#x} has reserved bits")
        area = self._fd.xsave()
        raw = bytearray(area)
        if name == "ftag":
            raw[_TAG] = sum((value >> 2 * n & 3 != 3) << n for n in range(8))
        else:
            at, size = self._place(name)
            raw[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        raw[_XSTATE_BV] |= X87_AND_SSE
        ctypes.memmove(ctypes.addressof(area), bytes(raw), len(raw))
        self._fd.set_xsave(area)

    @staticmethod
    def _full_tags(image: bytes) -> int:
        """The tag word of FSTENV (0 valid, 1 zero, 2 special, 3 empty, by physical register) from the abridged one."""
        top, word = image[3] >> 3 & 7, 0
        for physical in range(8):
            at = _ST0 + 16 * (physical - top & 7)
            mantissa = int.from_bytes(image[at : at + 8], "little")
            exponent = int.from_bytes(image[at + 8 : at + 10], "little") & 0x7FFF
            if not image[_TAG] >> physical & 1:
                tag = 3
            elif not mantissa and not exponent:
                tag = 1
            else:
                tag = 2 if exponent in (0, 0x7FFF) or not mantissa >> 63 else 0
            word |= tag << 2 * physical
        return word
