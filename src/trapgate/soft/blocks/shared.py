"""Shares translated code among the CPUs of a machine, which run one at a time.

Host code names no CPU: it reaches the state by a register. So blocks, patterns and the pages marked as code are there once. What
native code must know of them lies in a stretch of the state (`isa.state.SHARED_START`), which goes from CPU to CPU with the turn.
TLB and jump cache are each CPU's own: whoever has its turn forgets first what other CPUs' turns have made wrong in them.
"""

import ctypes
from typing import Protocol

from trapgate.arch.models import CpuModel
from trapgate.isa.state import SHARED_BYTES, SHARED_START
from trapgate.memory import Ram
from trapgate.soft.blocks.placed import Blocks
from trapgate.soft.blocks.translator import Translator
from trapgate.soft.state.codebuffer import CodeBuffer
from trapgate.soft.state.view import CpuState
from trapgate.stencil.library import Library


class Sharer(Protocol):
    """What is asked of a CPU."""

    state: CpuState
    address: int

    def flush_all(self) -> None:
        """Forget the TLB."""
        ...

    def flush_jumps(self) -> None:
        """Forget where jumps lead."""
        ...

    def start_again(self) -> None:
        """The host code of the access under way is going."""
        ...


class Shared:
    """Translated code, and the CPUs that run it: the one in whose state the account of it is kept at present, and the others."""

    blocks: Blocks
    translator: Translator

    def __init__(self, library: Library) -> None:
        self.code = CodeBuffer(library)
        self.holder: Sharer
        self._sharers: list[Sharer] = []
        self._stops: dict[int, frozenset[int]] = {}

    def join(self, cpu: Sharer, ram: Ram, model: CpuModel) -> None:
        """Another CPU shares all this. The first one holds the account."""
        if not self._sharers:
            self.holder = cpu
            self.blocks = Blocks(ram, self.code, cpu.state)
            self.translator = Translator(ram, self.code, cpu.state, model)
            ram.on_write = self.written
        self._sharers.append(cpu)

    def turn(self, cpu: Sharer) -> None:
        """It is another CPU's turn: it holds the account, and forgets what holds no more."""
        st, before = cpu.state, self.holder.state
        known = st.blocks_forgotten, st.pages_marked
        ctypes.memmove(cpu.address + SHARED_START, self.holder.address + SHARED_START, SHARED_BYTES)
        self.holder = cpu
        self.blocks.keep_account(st)
        self.translator.keep_account(st)
        if known[1] != before.pages_marked:  # stores to these pages must be seen
            cpu.flush_all()
        if known != (before.blocks_forgotten, before.pages_marked):
            cpu.flush_jumps()

    def stop_at(self, cpu: Sharer, addresses: frozenset[int]) -> None:
        """Blocks stop at these linear addresses for one CPU, beside those of the others."""
        self._stops[cpu.address] = addresses
        wanted = frozenset[int]().union(*self._stops.values())
        changed = wanted ^ self.translator.breakpoints
        self.translator.stop_at(wanted)
        for offset in {address & 4095 for address in changed}:
            self.blocks.drop_at(offset)
        if changed:
            self._flush_jumps()

    def written(self, physical: int, length: int) -> None:
        """RAM was written by Python: translations of these bytes are stale."""
        if self.blocks.any and length and self.blocks.written(physical, length):
            self.holder.flush_jumps()

    def start_over(self) -> None:
        """Forget all translations."""
        self.place_anew()
        self.translator.forget()

    def place_anew(self) -> None:
        """No block is anywhere: each is found by its guest bytes, or translated, when it is to run."""
        for one in self._sharers:
            one.start_again()
        self.blocks.clear()
        self._flush_jumps()

    def _flush_jumps(self) -> None:
        for one in self._sharers:
            one.flush_jumps()

    def close(self) -> None:
        """The CPUs are about to go."""
        self._sharers.clear()
        self.translator.patterns.close()
