"""Tells time to the software CPU: the time-stamp counter, and the instruction clock's account."""

import contextlib
import ctypes
from collections.abc import Iterator

from trapgate.arch.models import CpuModel
from trapgate.clock import Clock
from trapgate.memory import Ram
from trapgate.soft.state.apic import LocalApic
from trapgate.soft.state.codebuffer import CodeBuffer
from trapgate.soft.state.core import NOWHERE, SoftCore
from trapgate.soft.state.fault import GuestFault

NO_BUDGET = 1 << 62


class TimedCore(SoftCore):
    """A core with a clock: `executed` and `budget` are what `clock.InstructionClock` and the machine ask for."""

    def __init__(self, ram: Ram, model: CpuModel, code: CodeBuffer, clock: Clock, lapic: LocalApic | None, tsc_hz: int) -> None:
        super().__init__(ram, model, code)
        self.clock, self.lapic, self.tsc_hz = clock, lapic, tsc_hz or model.tsc_hz
        self._executed = 0
        self._granted = 0
        self.tsc_offset = 0
        self.state.budget = NO_BUDGET
        self.state.clock_gettime = ctypes.cast(ctypes.CDLL(None).clock_gettime, ctypes.c_void_p).value

    def follow_clock(self) -> None:
        """Let native code read the time-stamp counter by itself: guest time follows the host's clock, or the budget."""
        zero, st = self.clock.zero, self.state
        st.tsc_hz = st.counted_hz = 0
        if zero is not None:
            deadline = self.clock.next_deadline()
            st.tsc_hz, st.clock_zero = self.tsc_hz, zero
            st.clock_due = NOWHERE if deadline is None else zero + deadline
        elif self._granted:
            st.counted_hz, st.clock_counted = self.tsc_hz, self.clock.now() + self.left() & NOWHERE

    @property
    def tsc_offset(self) -> int:
        """The time-stamp counter at guest time 0, as a signed number of 64 bits."""
        return self._tsc_offset

    @tsc_offset.setter
    def tsc_offset(self, offset: int) -> None:
        self.state.tsc_offset = offset & NOWHERE
        self._tsc_offset = (offset + (1 << 63) & NOWHERE) - (1 << 63)

    def tsc(self) -> int:
        """The time-stamp counter: guest time at the model's rate."""
        return self.clock.now() * self.tsc_hz // 1_000_000_000 + self.tsc_offset & NOWHERE

    def set_tsc(self, value: int) -> None:
        """The guest wrote its TSC."""
        self.tsc_offset = value - self.clock.now() * self.tsc_hz // 1_000_000_000
        if self.lapic is not None:
            self.lapic.set_tsc_offset(self.tsc_offset)

    def executed(self) -> int:
        """Instructions executed so far (only counted with the instruction clock)."""
        return self._executed + self._granted - self.left()

    def count_from(self, executed: int) -> None:
        """So many instructions have been executed; no budget is given."""
        self._executed, self._granted, self.state.budget, self.state.ahead = executed, 0, NO_BUDGET, 0

    def budget(self, instructions: int) -> None:
        """`run` returns Interrupted after so many more instructions, or a block's worth sooner."""
        self._executed = self.executed()
        self._granted = min(instructions, NO_BUDGET)
        self.state.budget, self.state.ahead = self._granted, 0

    def forget_pages(self) -> None:
        """Know no page any more: what is written from now on is dirty in `memory.Ram`."""
        self.flush_all()

    def left(self) -> int:
        """Instructions that the budget still holds; 0 without one."""
        left = self.state.budget + self.state.ahead & NOWHERE
        return int(left - (1 << 64) if left >> 63 else left) if self._granted else 0

    def leave_block(self) -> None:
        """Translated code does not go on where it left: what lies ahead in that block has not been executed."""
        st = self.state
        st.budget += st.ahead
        st.ahead = 0

    def count(self, instructions: int) -> None:
        """Amid a run, so many were executed that no block has counted, or (negative) will be counted once more."""
        self.state.budget -= instructions

    def executed_one(self) -> None:
        """Between two runs, an interrupt was delivered: it counts as an instruction."""
        self._executed += 1

    @contextlib.contextmanager
    def counting_faults(self) -> Iterator[None]:
        """A fault that an instruction meets before its block has counted it counts as one."""
        try:
            yield
        except GuestFault:
            self.count(1)
            raise
