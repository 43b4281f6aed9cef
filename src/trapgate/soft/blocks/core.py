"""Runs a core by translated code: which block runs at RIP, and what happens to blocks when memory changes."""

from abc import abstractmethod

from trapgate.arch.models import CpuModel
from trapgate.clock import Clock
from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.isa.native.placing import ENTRY
from trapgate.memory import PAGE_SIZE, Ram
from trapgate.soft.blocks.placed import Block
from trapgate.soft.blocks.shared import Shared
from trapgate.soft.state.apic import LocalApic
from trapgate.soft.state.core import NOWHERE
from trapgate.soft.state.guest_cpu import GuestCpu
from trapgate.stencil.library import Library


class TranslatingCore(GuestCpu):
    """The one way to blocks: running and stepping use the same lookup and the same invalidation."""

    def __init__(
        self, ram: Ram, model: CpuModel, translations: Library | Shared, clock: Clock, lapic: LocalApic | None, tsc_hz: int
    ) -> None:
        self.shared = translations if isinstance(translations, Shared) else Shared(translations)
        super().__init__(ram, model, self.shared.code, clock, lapic, tsc_hz)
        self.shared.join(self, ram, model)
        self.blocks, self.translator = self.shared.blocks, self.shared.translator
        self._place, self._copy = self.code.function("place_block", 64, 2), self.code.function("copy_block", 64, 3)
        self._look_up = self.code.function("lookup_block", 64, 3)

    @property
    def breakpoints(self) -> frozenset[int]:
        """Linear addresses at which translated code stops."""
        return self.translator.breakpoints

    def stop_at(self, addresses: frozenset[int]) -> None:
        """Make translated code stop at these linear addresses, and at no others but those of CPUs that share it.

        Blocks are dropped by the offset in the page, which linear and physical addresses share whatever base they were made under.
        """
        self.shared.stop_at(self, addresses)

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
            self.blocks.show(block)
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
            self.state.pages_marked += 1
            self._protect(self.address, page)
        return block

    def lookup(self, rip: int, physical: int, mode: int) -> int:
        """The host address of a block's entry in the dispatcher's table, or 0."""
        return int(self._look_up(self.address, rip, physical, mode))

    def _start_over(self) -> None:
        """Forget all translations."""
        self.shared.start_over()

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

    @abstractmethod
    def start_again(self) -> None:
        """The host code of the access under way is going: its instruction, which has changed nothing yet, starts again."""
