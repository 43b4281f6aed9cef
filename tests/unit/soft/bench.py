"""A software CPU in a given mode, for tests of the instructions that Python executes: run one handler, look at the state."""

from functools import lru_cache

from iced_x86 import Decoder

import trapgate.soft.exact.handlers  # noqa: F401
from trapgate.arch.models import CpuModel
from trapgate.arch.segments import Descriptor, Gate, SystemType
from trapgate.clock import InstructionClock
from trapgate.exits import Exit, GuestException, SoftwareBreakpoint
from trapgate.isa import modes
from trapgate.memory import Ram
from trapgate.soft.cpu import SoftVcpu
from trapgate.soft.exact.segments import put_segment, refresh_rights
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.instructions import HANDLERS
from trapgate.stencil.cache import Cache
from trapgate.stencil.library import Library, load_library

GDT, IDT, TSS, LDT, STACK0, STACK3, CODE, DATA = 0x1000, 0x2000, 0x3000, 0x3800, 0x8000, 0x9000, 0x10000, 0x20000
# Selectors of the tables that `Bench` makes.
K64, K32, KDATA, U32, UDATA, U64, TSS_SELECTOR, GATE, CONFORMING, ABSENT, READONLY, DOWN = (
    0x08, 0x10, 0x18, 0x20, 0x28, 0x30, 0x38, 0x48, 0x58, 0x60, 0x68, 0x70,
)  # fmt: skip
K16 = 0x78


@lru_cache
def library() -> Library:
    """The stencils, built once."""
    return load_library(Cache())


class Bench:
    """A CPU with flat tables in RAM: `mode` is 'real', 'v86', '32', '64' or 'compat'."""

    def __init__(self, mode: str = "64", cpl: int = 0, model: str = "EPYC-Turin", counting: bool = False) -> None:
        self.ram = Ram(4 << 20)
        self.cpu = SoftVcpu(self.ram, CpuModel.parse(model), library(), InstructionClock(lambda: 1000), counting=counting)
        self.st = self.cpu.state
        self.mode, self.bits = mode, {"real": 16, "v86": 16, "64": 64}.get(mode, 32)
        if mode != "real":
            self._protected(mode, cpl)
        self.st.rsp = STACK3 if cpl == 3 else STACK0
        if mode in ("real", "v86"):
            put_segment(self.cpu, "cs", 0x100, 0x1000, 0xFFFF, 0xF3 if mode == "v86" else 0x9B)
            for name in ("ss", "ds", "es"):
                put_segment(self.cpu, name, 0, 0, 0xFFFF, 0xF3 if mode == "v86" else 0x93)
        self.st.rip = 0x40 if mode in ("real", "v86") else CODE
        self.cpu.update_mode()

    def descriptor(self, selector: int, **fields: int) -> None:
        """Write a code or data descriptor: flat, 32 bits, present unless told."""
        values = {"base": 0, "limit": 0xFFFFF, "type": 3, "present": 1, "db": 1, "granular": 1} | fields
        self.ram.write(GDT + (selector & 0xFFF8), Descriptor(**values).to_bytes())  # type: ignore[arg-type]

    def _protected(self, mode: str, cpl: int) -> None:
        st, long = self.st, mode in ("64", "compat")
        self.descriptor(K64, type=0xB, long=1, db=0)
        self.descriptor(K32, type=0xB)
        self.descriptor(KDATA)
        self.descriptor(U32, type=0xB, dpl=3)
        self.descriptor(UDATA, dpl=3)
        self.descriptor(U64, type=0xB, dpl=3, long=1, db=0)
        self.descriptor(CONFORMING, type=0xF, long=int(long), db=int(not long))
        self.descriptor(ABSENT, present=0)
        self.descriptor(READONLY, type=1)
        self.descriptor(DOWN, type=7, limit=0)  # offsets above FFFh
        self.descriptor(K16, type=0xB, db=0, granular=0, limit=0xFFFF)
        kind = SystemType.TSS
        self.ram.write(GDT + TSS_SELECTOR, Descriptor(TSS, 0x2FF, kind, s=False, present=True).to_bytes(16 if long else 8))
        st.gdt_base, st.gdt_limit, st.idt_base, st.idt_limit = GDT, 0xFF, IDT, 0xFFF
        put_segment(self.cpu, "tr", TSS_SELECTOR, TSS, 0x2FF, 0x8B)
        if long:
            self.ram.write_int(TSS + 4, 8, STACK0)
            self.ram.write_int(TSS + 0x24, 8, STACK0 - 0x800)  # IST1
            st.cr4, st.efer, st.cr3 = 1 << 5 | 1 << 9, 0xD01, 0x100000
            self.ram.write_int(0x100000, 8, 0x101007)
            self.ram.write_int(0x101000, 8, 0x102007)
            for n in range(2):
                self.ram.write_int(0x102000 + 8 * n, 8, n << 21 | 0x87)
        else:
            self.ram.write_int(TSS + 4, 4, STACK0)
            self.ram.write_int(TSS + 8, 4, KDATA)
        self.ram.write_int(TSS + 0x66, 2, 0x80)
        st.cr0 = 0x80000011 if long else 0x11
        if mode == "v86":
            st.set_rflags(2 | 1 << 17)
            return
        code = {"64": (K64, U64), "compat": (K32, U32), "32": (K32, U32)}[mode][cpl == 3] | cpl
        attributes = (0xA09B if mode == "64" else 0xC09B) | cpl << 5
        put_segment(self.cpu, "cs", code, 0, 0xFFFFFFFF, attributes)
        for name in ("ss", "ds", "es", "fs", "gs"):
            put_segment(self.cpu, name, UDATA | 3 if cpl == 3 else KDATA, 0, 0xFFFFFFFF, 0xC093 | cpl << 5)
        refresh_rights(self.cpu)

    def gate(self, vector: int, selector: int, offset: int, kind: int = 14, dpl: int = 0, ist: int = 0) -> None:
        """Write an IDT gate."""
        size = 16 if self.mode in ("64", "compat") else 8
        self.ram.write(IDT + size * vector, Gate(selector, offset, kind, dpl, ist=ist).to_bytes(size))

    def run(self, code: str) -> Exit | None:
        """Execute one instruction, given in hex, by its handler, or as a block where it has none; GuestFault comes through."""
        instruction = next(iter(Decoder(self.bits, bytes.fromhex(code), ip=0)))
        if instruction.mnemonic not in HANDLERS:
            self.ram.write(self.cpu.linear(self.st.rip), bytes.fromhex(code))
            return self.run_block(instruction.len)
        self.st.next_rip = self.st.rip + instruction.len
        exit_ = HANDLERS[instruction.mnemonic](self.cpu, instruction)
        self.st.rip = self.st.next_rip
        return exit_

    def run_block(self, length: int, stop: int | None = None) -> Exit | None:
        """Execute the instruction of so many bytes at RIP as translated code, to its end or its fault (GuestFault).

        `stop`: the linear address where it goes on, unless that is behind it.
        """
        cpu, start = self.cpu, self.st.rip
        cpu.catch(frozenset(range(32)))
        cpu.arm([], [cpu.linear(start) + length if stop is None else stop])
        exit_ = cpu.run()
        cpu.arm([], [])
        cpu.catch(frozenset())
        if isinstance(exit_, GuestException):
            cpu.abandon()
            if self.st.rip == start:  # else what follows cannot be fetched any more
                raise GuestFault(exit_.vector, exit_.error, exit_.address)
            return None
        return None if isinstance(exit_, SoftwareBreakpoint) else exit_

    def words(self, address: int, count: int, size: int) -> list[int]:
        """`count` integers of `size` bytes in RAM."""
        return [self.ram.read_int(address + n * size, size) for n in range(count)]

    @property
    def cpl(self) -> int:
        """The CPL that translated code would run at."""
        return int(self.st.mode >> modes.CPL_SHIFT & 3)
