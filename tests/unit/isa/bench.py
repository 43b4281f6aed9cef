"""Single instructions on the stencils alone: lowered, laid out, entered; no blocks, no paging. Outcomes as `silicon` has them.

Linear addresses are physical ones, so what makes a page fault on the host cannot be asked here.
"""

import ctypes
from collections.abc import Iterable, Iterator
from pathlib import Path

from iced_x86 import Decoder, Mnemonic

from silicon.state import CODE, GPR_NAMES, SCRATCH, SCRATCH_SIZE, Outcome, State, finish
from trapgate.arch.models import CpuModel
from trapgate.isa import state as s
from trapgate.isa.state import LAYOUT
from trapgate.memory import Ram
from trapgate.soft import careful
from trapgate.soft.codebuffer import CodeBuffer
from trapgate.soft.core import SoftCore
from trapgate.soft.decode import ROWS
from trapgate.soft.decode_sse import lower_sse
from trapgate.soft.decode_x87 import lower_x87
from trapgate.soft.fault import GuestFault
from trapgate.soft.instructions import HANDLERS
from trapgate.soft.template import Builder
from trapgate.stencil.cache import Cache
from trapgate.stencil.library import load_library

MODE = s.MODE_CODE64 | s.MODE_IOPL
XMM0 = LAYOUT["xmm0"].offset
BP = 3
OSXMMEXCPT = 1 << 10


class Bench:
    """A runner of one instruction at a time; `lower` says which instructions it knows."""

    def __init__(self, cache: Path | None = None) -> None:
        self.ram = Ram(SCRATCH + SCRATCH_SIZE + 0x1000)
        self.core = SoftCore(self.ram, CpuModel.parse("EPYC-Turin"), CodeBuffer(load_library(Cache(cache))))
        self.enter = self.core.code.enter()
        st = self.core.state
        st.mode, st.physical_mask = MODE, (1 << 40) - 1
        lines = bytearray(8 * (self.ram.size >> 12))
        self._lines = (ctypes.c_char * len(lines)).from_buffer(lines)
        st.code_lines = ctypes.addressof(self._lines)
        self.core.flush_all()
        self._code: dict[tuple[bytes, int], tuple[int, int]] = {}

    def translate(self, data: bytes, mode: int = MODE) -> tuple[int, int]:
        """Host address and length of an instruction's code; LookupError when nobody lowers it."""
        i = Decoder(64, data, ip=0).decode()
        builder = Builder(self.core.code.library, mode, i.len)
        row = ROWS.get(i.mnemonic) if i.mnemonic not in (Mnemonic.MOVSD, Mnemonic.CMPSD) else None
        if row is not None:
            row(builder, i)
        elif not (lower_x87(i, builder) or lower_sse(i, builder)):
            raise LookupError(f"{i} is not lowered")
        t = builder.finish()
        code, base, entries = bytearray(t.code), self.core.code.base + self.core.code.end, self.core.code.entries
        for at, by in t.rips:
            code[at : at + 8] = (CODE + by & (1 << 64) - 1).to_bytes(8, "little")

        def branch(at: int, target: int) -> None:
            code[at : at + 4] = (target - (base + at + 4)).to_bytes(4, "little", signed=True)

        code += b"\xe9\0\0\0\0"
        branch(len(code) - 4, entries["debug_trap"])
        for at, function, resume in t.colds:
            branch(at, base + len(code))
            code += b"\x48\x8d\x0d" + (resume - len(code) - 7).to_bytes(4, "little", signed=True) + b"\xe9\0\0\0\0"
            branch(len(code) - 4, entries[function])
        for at, name in t.natives:
            branch(at, entries[name])
        return self.core.code.base + self.core.code.append(bytes(code)), i.len

    def run(self, data: bytes, state: State) -> Outcome:
        """Execute one instruction from a state."""
        st = self.core.state
        st.cr4 |= OSXMMEXCPT
        careful.set_mxcsr(self.core, int.from_bytes(state.fx[24:28], "little"))
        st.mode = MODE | st.mode & s.MODE_SSE_UNMASKED
        key = data, st.mode
        if key not in self._code:
            self._code[key] = self.translate(data, st.mode)
        address, length = self._code[key]
        for name, value in zip(GPR_NAMES, state.gpr, strict=True):
            setattr(st, name, value)
        st.set_rflags(state.rflags)
        st.fxsave[:416] = state.fx
        for n in range(16):
            getattr(st, f"xmm{n}")[:] = state.fx[160 + 16 * n : 176 + 16 * n]
        st.x87_live, st.exit_detail = 0, 0
        self.ram.write(SCRATCH, state.memory)
        st.rip = CODE
        self.enter(self.core.address, address)
        while st.exit_reason == s.EXIT_ACCESS:
            self._access()
            self.enter(self.core.address, self.core.code.entries["resume"])
        assert st.x87_live == 0
        fault = self._python(data) if st.exit_reason == s.EXIT_INSTRUCTION else None
        fx = bytearray(bytes(st.fxsave)[:416])
        fx[24:28] = careful.get_mxcsr(self.core).to_bytes(4, "little")
        fx[160:416] = b"".join(bytes(getattr(st, f"xmm{n}")) for n in range(16))
        vector, error, rip = BP, 0, CODE + length + 1
        if fault is not None:
            vector, error, rip = fault.vector, fault.error or 0, CODE
        elif st.exit_reason not in (s.EXIT_DEBUG, s.EXIT_INSTRUCTION):
            assert st.exit_reason == s.EXIT_DELIVER, f"left with reason {st.exit_reason}"
            vector, error, rip = st.fault_vector, st.fault_error, CODE
        gpr = tuple(getattr(st, name) for name in GPR_NAMES)
        memory = self.ram.read(SCRATCH, SCRATCH_SIZE)
        return finish(gpr, st.get_rflags(), bytes(fx), memory, rip, 0, vector, error, st.cr2)

    def _python(self, data: bytes) -> GuestFault | None:
        i = Decoder(64, data, ip=0).decode()
        try:
            HANDLERS[i.mnemonic](self.core, i)  # type: ignore[arg-type]  # they need no more than the core
        except GuestFault as fault:
            return fault
        return None

    def _access(self) -> None:
        """What lies in two pages (which are neighbours here)."""
        st = self.core.state
        address, size = st.saved_EA, st.access_size
        if st.access_kind == s.KIND_REFERENCE:
            st.bounce[:size] = self.ram.read(address, size)
            st.bounce_address, st.bounce_size = address, size
            st.saved_HOST = self.core.address + LAYOUT["bounce"].offset
        elif st.access_kind == s.KIND_COMMIT:
            self.ram.write(st.bounce_address, bytes(st.bounce[: st.bounce_size]))
        elif st.access_kind == s.KIND_LOAD:
            st.saved_T0 = self.ram.read_int(address, size)
        else:
            assert st.access_kind == s.KIND_STORE
            self.ram.write(address, (st.saved_T0 & (1 << 8 * size) - 1).to_bytes(size, "little"))

    def run_many(self, cases: Iterable[tuple[bytes, State]]) -> Iterator[Outcome]:
        """Execute cases in order."""
        for code, state in cases:
            yield self.run(code, state)
