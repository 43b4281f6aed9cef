"""A core with translated code: which block runs at RIP, and what happens to blocks when memory changes."""

import struct

from trapgate.arch.models import CpuModel
from trapgate.clock import Clock
from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.isa.native.placing import ENTRY
from trapgate.memory import PAGE_SIZE, Ram
from trapgate.soft.blocks.placed import Block, Blocks
from trapgate.soft.blocks.translator import Translator
from trapgate.soft.state.apic import LocalApic
from trapgate.soft.state.codebuffer import CodeBuffer
from trapgate.soft.state.core import NOWHERE
from trapgate.soft.state.guest_cpu import GuestCpu
from trapgate.stencil.library import Library


class TranslatingCore(GuestCpu):
    """The one owner of blocks: running and stepping use the same lookup and the same invalidation."""

    def __init__(self, ram: Ram, model: CpuModel, library: Library, clock: Clock, lapic: LocalApic | None, tsc_hz: int) -> None:
        super().__init__(ram, model, CodeBuffer(library), clock, lapic, tsc_hz)
        self.blocks = Blocks(ram, self.code, self.state)
        self.translator = Translator(ram, self.code, self.state, model)
        self._place, self._copy = self.code.function("place_block", 64, 2), self.code.function("copy_block", 64, 3)
        self._look_up = self.code.function("lookup_block", 64, 3)
        ram.on_write = self.written

    @property
    def breakpoints(self) -> frozenset[int]:
        """Linear addresses at which translated code stops."""
        return self.translator.breakpoints

    def stop_at(self, addresses: frozenset[int]) -> None:
        """Make translated code stop at these linear addresses, and at no others.

        Blocks are dropped by the offset in the page, which linear and physical addresses share whatever base they were made under.
        """
        changed = addresses ^ self.translator.breakpoints
        self.translator.stop_at(addresses)
        for offset in {address & 4095 for address in changed}:
            self.blocks.drop_at(offset)

    def remember_jump(self, block: Block) -> None:
        """Put a block in two pages, which the dispatcher's table does not hold, into the jump cache while the TLB knows it."""
        st, (rip, _, mode) = self.state, block.key
        half, index = rip >> 63, (rip ^ rip >> 11) & s.JUMP_ENTRIES - 1
        entry = struct.pack("<QQ", rip & (1 << 48) - 1 | mode << 48, block.code)
        st.jumps[(at := half * s.JUMP_BYTES + index * 16) : at + 16] = entry
        for page in (rip >> 12, (rip >> 12) + 1):
            st.jump_pages[half * s.JUMP_FILTER_BYTES + (page & 0xFFF) // 8] |= 1 << (page & 7)

    def block_at(self, physical: int, mode: int) -> Block | None:
        """The block at RIP, translated if need be; None when it went where the dispatcher finds it."""
        st = self.state
        key = (st.rip, physical, mode)
        block = self.blocks.by_key.get(key)
        linear = self.linear(st.rip)
        if block is not None and block.second >= 0 and self._second(linear) != block.second:
            self.blocks.drop(block)
            block = None
        if block is not None:
            return block
        if self.blocks.full or self.translator.crowded:
            self._start_over()
        found = self.translator.block(physical, mode, linear, lambda: self._second(linear))
        if found.second < 0 and not mode & modes.STEP:
            if not self._place(self.address, found.record, physical):  # the table has no room where this block belongs
                self._start_over()
            return None
        code = self._copy(self.address, found.record, st.rip, found.host)
        block = Block(key, self.code.base + code + ENTRY, self.translator.known_blocks.length(found.record), found.second)
        fresh = [page for page in block.pages if not self.blocks.lines[page >> 12]]
        self.blocks.keep(block)
        for page in fresh:
            self._protect(self.address, page)
        return block

    def lookup(self, rip: int, physical: int, mode: int) -> int:
        """The host address of a block's entry in the dispatcher's table, or 0."""
        return int(self._look_up(self.address, rip, physical, mode))

    def _start_over(self) -> None:
        """Forget all translations."""
        self.blocks.clear()
        self.translator.forget()
        self.flush_jumps()

    def _second(self, linear: int) -> int:
        """The guest-physical page behind the one of `linear`; GuestFault when it may not be fetched."""
        following = (linear & ~(PAGE_SIZE - 1)) + PAGE_SIZE
        if self.state.mode & modes.CODE64:
            following &= NOWHERE
        else:
            following &= 0xFFFFFFFF
        return self.walk(following, self.rights() | s.ACCESS_FETCH)

    def is_code(self, physical: int, length: int) -> bool:
        """Whether any of these bytes may have been translated."""
        return self.ram.contains(physical, length) and self.blocks.holds_code(physical, length)

    def written(self, physical: int, length: int) -> None:
        """RAM was written by Python: translations of these bytes are stale."""
        if self.blocks.any and length and self.blocks.written(physical, length):
            self.flush_jumps()
