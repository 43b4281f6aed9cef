"""The software CPU as a tracer: what `HostCpu.trace_many` tells of the host CPU.

A run is put straight into user mode of the guest that `guest_kernel` lays out, and the vCPU stops behind every instruction: because
its instruction budget ends (ordinary blocks, made of one instruction each), or a debugger steps (`modes.STEP`). The run has
ended when the CPU stands at one of the kernel's exception entries; the kernel itself never runs.
"""

import ctypes
from collections.abc import Iterable, Iterator

from trapgate.arch import xstate
from trapgate.arch.models import CpuModel
from trapgate.clock import HostClock
from trapgate.exits import DebugException, Interrupted
from trapgate.isa.state import offset
from trapgate.memory import Ram
from trapgate.soft.cpu import SoftVcpu
from trapgate.soft.exact.careful import get_mxcsr, set_mxcsr
from trapgate.soft.exact.segments import put_segment
from trapgate.stencil.cache import Cache
from trapgate.stencil.library import load_library

from . import guest_kernel as guest
from .soft import live_model, start
from .soft_runner import start_registers
from .state import CODE, CODE_PAGE, CODE_SIZE, DB, GPR_NAMES, INT3, PF_FAULT, RSP, SCRATCH_SIZE, Outcome, State, finish
from .trace import MOST_STEPS, Trace, changed_lines, pack_record

USER_CODE64, USER_DATA = 0xA0FB, 0xC0F3  # attribute words (descriptor bits 40-55): DPL 3
_CODE = guest.CODE_PHYSICAL + CODE - CODE_PAGE
_GPR, _RIP, _X87 = offset("rax"), offset("rip"), offset("fxsave")
_XMM = tuple((place.offset, offset(place.field), place.size) for place in xstate.SSE.registers.values())
"""Where each XMM register is, in the FXSAVE image and in the CPU state; and its bytes."""


class SoftTracer:
    """Traces runs. `by_steps`: as a debugger steps."""

    def __init__(self, by_steps: bool) -> None:
        self.ram = Ram(guest.memory_size(1))
        self.vcpu = SoftVcpu(self.ram, CpuModel.parse(live_model()), load_library(Cache()), HostClock(), counting=not by_steps)
        self.by_steps = by_steps
        self.vcpu.translator.configure(block_limit=1)
        for address, data in guest.pieces(1):
            self.ram.write(address, data)
        start(self.vcpu, start_registers())
        self._state = ctypes.addressof(self.vcpu.state)
        self._code = b""

    def trace_many(self, cases: Iterable[tuple[bytes, State]]) -> Iterator[tuple[Outcome, Trace]]:
        """Execute cases in order and tell what each step did; AssertionError when the vCPU stops for another reason."""
        for code, state in cases:
            yield self._trace(code, state)

    def _trace(self, code: bytes, state: State) -> tuple[Outcome, Trace]:
        self._load(code, state)
        st, vcpu = self.vcpu.state, self.vcpu
        records, stores = list[bytes](), list[bytes]()
        before, rip = state.memory, CODE

        def note(gpr: bytes, rflags: int) -> None:
            nonlocal before
            records.append(pack_record(gpr, rip, rflags, self._fx()))
            after = self.ram.read(guest.SCRATCH_PHYSICAL, SCRATCH_SIZE)
            if after != before:
                stores.append(changed_lines(len(records) - 1, before, after))
                before = after

        expected = DebugException if self.by_steps else Interrupted
        while True:
            if not self.by_steps:
                vcpu.budget(1)
            end = vcpu.run()
            assert isinstance(end, expected), f"{end} at {st.rip:#x}"
            if not st.cpl:
                break
            rip = st.rip
            if len(records) == MOST_STEPS:
                outcome = self._outcome(st.rip, st.rsp, st.get_rflags())
                return outcome, Trace(b"".join(records), b"".join(stores))
            note(ctypes.string_at(self._state + _GPR, 128), st.get_rflags())
        outcome = self._faulted()
        if outcome.rip + CODE != rip:  # a branch to where nothing can be fetched: the fault comes before the budget is looked at
            rip = outcome.rip + CODE
            note(_packed(outcome.gpr), outcome.rflags)
        return outcome, Trace(b"".join(records), b"".join(stores))

    def _load(self, code: bytes, state: State) -> None:
        vcpu, st = self.vcpu, self.vcpu.state
        vcpu.abandon()
        if code != self._code:
            self.ram.write(_CODE, code.ljust(CODE_SIZE, INT3))
            self._code = code
        self.ram.write(guest.SCRATCH_PHYSICAL, state.memory)
        put_segment(vcpu, "cs", guest.USER_CS, 0, 0xFFFF_FFFF, USER_CODE64)
        put_segment(vcpu, "ss", guest.USER_SS, 0, 0xFFFF_FFFF, USER_DATA)
        st.set_rflags(state.rflags)
        st.rip = CODE
        vectors = ((here, state.fx[there : there + size]) for there, here, size in _XMM)
        for at, data in ((_GPR, _packed(state.gpr)), (_X87, state.fx[: xstate.XMM0]), *vectors):
            ctypes.memmove(self._state + at, data, len(data))
        set_mxcsr(vcpu, int.from_bytes(state.fx[24:28], "little"))  # and the mode
        vcpu.step(self.by_steps)

    def _fx(self) -> bytes:
        """The FXSAVE image, its parts put together."""
        x87, mxcsr = ctypes.string_at(self._state + _X87, xstate.XMM0), get_mxcsr(self.vcpu).to_bytes(4, "little")
        return x87[:24] + mxcsr + x87[28:] + b"".join(ctypes.string_at(self._state + here, size) for _, here, size in _XMM)

    def _faulted(self) -> Outcome:
        """What the CPU has pushed on its way into the kernel (SDM vol. 3, 6.14.2)."""
        st = self.vcpu.state
        vector = (st.rip - guest.UPPER - guest.KERNEL) // 16
        error = int(vector in guest.WITH_ERROR_CODE)
        at = st.rsp - guest.UPPER
        assert at == guest.STACK_TOP - 40 - 8 * error, f"rsp is {st.rsp:#x} at {st.rip:#x}"
        code, rip, _, rflags, rsp, _ = (self.ram.read_int(at + 8 * (n + error - 1), 8) for n in range(6))
        return self._outcome(rip, rsp, rflags, vector, code if error else 0)

    def _outcome(self, rip: int, rsp: int, rflags: int, vector: int = DB, error: int = 0) -> Outcome:
        st = self.vcpu.state
        gpr = [getattr(st, name) for name in GPR_NAMES]
        gpr[RSP] = rsp
        memory = self.ram.read(guest.SCRATCH_PHYSICAL, SCRATCH_SIZE)
        return finish(tuple(gpr), rflags, self._fx(), memory, rip, 0, vector, error, st.cr2 if vector == PF_FAULT else 0)


def _packed(gpr: tuple[int, ...]) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in gpr)
