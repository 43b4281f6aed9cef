"""Gives instructions written in Python what they work on: the state, memory by linear address, the mode, the native functions."""

import ctypes

from trapgate.arch.control import EFER_LMA
from trapgate.arch.models import CpuModel
from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.isa.rules.catalog import RULES
from trapgate.isa.state import LAYOUT
from trapgate.mapping import Mapping
from trapgate.memory import Ram
from trapgate.soft.state.codebuffer import CodeBuffer, table_order
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.history import History
from trapgate.soft.state.msrs import MsrStore
from trapgate.soft.state.view import CpuState

NOWHERE = (1 << 64) - 1


class SoftCore:
    """The software CPU's state and memory, before any translator knows of it."""

    def __init__(self, ram: Ram, model: CpuModel, code: CodeBuffer) -> None:
        self.ram, self.model, self.code = ram, model, code
        self.state = CpuState.from_buffer(_aligned(ctypes.sizeof(CpuState)))
        self.address = ctypes.addressof(self.state)
        self._walk = code.function("walk", 64, 2)
        self._update_mode = code.function("update_mode", 0, 0)
        self._flush = code.function("flush", 0, 1)
        self._flush_jumps = code.function("flush_jumps", 0, 1)
        self._flush_page = code.function("flush_page", 0, 1)
        self._protect = code.function("protect", 0, 1)
        self.rules = {name: code.function(name, 64, count) for name, (_, count) in RULES.items()}
        """The rules in native code; `exact.rules` says when they are enough."""
        self.pending_hits = 0  # data and I/O breakpoints that the instruction or delivery under way has hit, bits by `Vcpu.armed`
        self.history = History(self.state)
        self.msrs = MsrStore(self.state)
        st = self.state
        table = b"".join(code.entries[name].to_bytes(8, "little") for name in table_order(code.entries))
        st.native_table[: len(table)] = table
        tlb = LAYOUT["tlb"]  # TLB_INVALID: a zero would be the tag of page 0, and `flush` leaves unused entries alone
        ctypes.memset(self.address + tlb.offset, 0xFF, tlb.size)
        st.ram_base, st.ram_low_end, st.ram_high_end = ram.host_base, ram.low_end, ram.high_end
        st.dirty_pages = ram.dirty_base

    # --- linear memory

    def linear(self, rip: int) -> int:
        """The linear address of a place in the running code segment."""
        st = self.state
        return int(rip if st.mode & modes.CODE64 else rip + st.cs_base & 0xFFFFFFFF)

    def walk(self, linear: int, wanted: int) -> int:
        """The guest-physical address behind a linear one; GuestFault (#PF, #GP) when it is not to be had. `wanted`: ACCESS_*."""
        physical = int(self._walk(self.address, linear, wanted))
        if physical == NOWHERE:
            raise self.prepared_fault()
        return physical

    def prepared_fault(self) -> GuestFault:
        """The fault that native code left in `fault_*`."""
        st = self.state
        return GuestFault(
            st.fault_vector, st.fault_error if st.fault_has_error else None, st.cr2 if st.fault_vector == 14 else None
        )

    def rights(self) -> int:
        """ACCESS_USER and ACCESS_AC of explicit accesses in the running mode."""
        mode = self.state.mode
        return s.ACCESS_USER if mode & modes.CPL == modes.CPL else s.ACCESS_AC if mode & modes.AC else 0

    def pieces(self, linear: int, size: int, wanted: int) -> list[tuple[int, int]]:
        """(guest-physical address, length) of the pages that an access touches: both are checked before anything is done."""
        return [(self.walk(at, wanted), length) for at, length in self._pages(linear, size)]

    def write_back(self, linear: int, size: int, wanted: int) -> bool:
        """Whether all of an operand is write-back memory; GuestFault as for the access itself."""
        parts = [
            self.ram.contains(self.walk(at, wanted), length) and not self.state.walk_rights & s.RIGHT_UNCACHED
            for at, length in self._pages(linear, size)
        ]
        return all(parts)

    def _pages(self, linear: int, size: int) -> list[tuple[int, int]]:
        """(linear address, length) of the parts of an operand in each page that it touches."""
        space = NOWHERE if self.state.efer & EFER_LMA else 0xFFFFFFFF
        linear &= space
        if not linear >> 32 and not self.state.mode & modes.CODE64:
            space = 0xFFFFFFFF  # compatibility mode has addresses of 32 bits, all but those of its descriptor tables
        first = min(size, 4096 - (linear & 4095))
        return [(linear, first), (linear + first & space, size - first)][: 1 + (first < size)]

    def read_bytes(self, linear: int, size: int, rights: int | None = None) -> bytes:
        """Bytes at a linear address with the rights of the running mode (or those given: 0 = implicit supervisor); GuestFault."""
        wanted = self.rights() if rights is None else rights
        pieces = self.pieces(linear, size, wanted)
        self.note_access(linear, size, False)
        return b"".join(self.physical_read(at, length) for at, length in pieces)

    def write_bytes(self, linear: int, data: bytes, rights: int | None = None) -> None:
        """Store bytes at a linear address; GuestFault before anything is stored."""
        wanted = (self.rights() if rights is None else rights) | s.ACCESS_WRITE
        done = 0
        pieces = self.pieces(linear, len(data), wanted)
        self.note_access(linear, len(data), True)
        for at, length in pieces:
            self.physical_write(at, data[done : done + length])
            done += length

    def read(self, linear: int, size: int, rights: int | None = None) -> int:
        """A little-endian integer of `size` bytes at a linear address; GuestFault."""
        return int.from_bytes(self.read_bytes(linear, size, rights), "little")

    def write(self, linear: int, size: int, value: int, rights: int | None = None) -> None:
        """Store a little-endian integer at a linear address; GuestFault."""
        self.write_bytes(linear, (value & (1 << 8 * size) - 1).to_bytes(size, "little"), rights)

    def note_access(self, linear: int, size: int, write: bool) -> None:
        """The guest's CPU accesses linear memory, for an operand or implicitly: data breakpoints are the vCPU's business."""

    def physical_read(self, physical: int, size: int) -> bytes:
        """RAM; all ones where there is none (a device cannot be reached from within such an instruction)."""
        return self.ram.read(physical, size) if self.ram.contains(physical, size) else b"\xff" * size

    def physical_write(self, physical: int, data: bytes) -> None:
        """RAM, telling the translator; lost where there is none."""
        if self.ram.contains(physical, len(data)):
            self.ram.write(physical, data)

    # --- mode

    def forget_cpuid(self) -> None:
        """What CPUID has answered holds no more: something that it shows has changed."""
        answers = LAYOUT["cpuid_answers"]
        ctypes.memset(self.address + answers.offset, 0xFF, answers.size)

    def update_mode(self) -> None:
        """Work out `mode` (and what hangs on CPL) after CR0, CR4, EFER, RFLAGS, CS, SS or another segment changed."""
        self._update_mode(self.address)

    # --- translations

    def flush_all(self) -> None:
        """Forget every TLB entry (CR0, CR4, EFER changed; CR3 without global pages)."""
        self._flush(self.address, 0)

    def flush_nonglobal(self) -> None:
        """Forget the TLB entries of this address space (MOV CR3)."""
        self._flush(self.address, int(bool(self.state.cr4 & 1 << 7)))

    def flush_page(self, linear: int) -> None:
        """Forget one page (INVLPG)."""
        self._flush_page(self.address, linear)

    def flush_jumps(self) -> None:
        """Forget where jumps lead, not the TLB (CS base changed, code was dropped)."""
        self._flush_jumps(self.address, 2)


def _aligned(size: int) -> "ctypes.Array[ctypes.c_char]":
    """Zeroed memory on a page boundary."""
    return (ctypes.c_char * size).from_buffer(Mapping(size, "the CPU's state").view)


assert LAYOUT["rip"].offset == 0
