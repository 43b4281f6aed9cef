"""What a case is: the state before, the outcome after, and the 9 KiB slot both travel in.

Every runner executes at the same linear addresses, so that RIP-relative operands, pushed return addresses and page-fault addresses
compare as plain numbers. The code is followed by INT3 up to the end of its page: whatever gets there ends the case, and the outcome
tells where it got to. `signal handlers` on the host and the IDT of the guest are the only way out, so nothing needs to save state
with instructions that disturb it.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

CODE_PAGE = 0x1100_0000
CODE = CODE_PAGE + 0x800  # middle of the page: a short jump either way lands on INT3
CODE_SIZE = 384
SCRATCH = 0x1000_0000  # two pages, nothing mapped before and behind
SCRATCH_SIZE = 0x2000
INT3 = b"\xcc"
# 16-bit segments of the local descriptor table: entry, base, limit, whether it is code. Code starts at CODE - CODE_PAGE there.
LDT = ((1, CODE_PAGE, 0xFFF, True), (2, SCRATCH, SCRATCH_SIZE - 1, False))
CODE16, DATA16 = 0x0F, 0x17  # their selectors

CF, PF, AF, ZF, SF, TF, IF, DF, OF = 0x1, 0x4, 0x10, 0x40, 0x80, 0x100, 0x200, 0x400, 0x800
AC_FLAG = 1 << 18  # alignment is checked, once CR0.AM is set
STATUS_FLAGS = CF | PF | AF | ZF | SF | OF
FLAGS_SEEN = STATUS_FLAGS | DF | IF | 0x2  # what an outcome keeps of RFLAGS; RF, AC, ID are the kernel's or the harness's

GPR_NAMES = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)

UPPER_SIZE = 256  # the upper halves of YMM0-YMM15, as XSAVE has them (SDM vol. 1, 13.4.2)
NO_UPPER = bytes(UPPER_SIZE)
FX_SIZE = 416  # the part of the FXSAVE image that holds state (SDM vol. 1, 10.5.1: bytes 416-511 are free)
FX_INIT = struct.pack("<HHBBHQQII", 0x37F, 0, 0, 0, 0, 0, 0, 0x1F80, 0x2FFFF).ljust(FX_SIZE, b"\0")

SLOT_SIZE = 0x25C0
SLOT_GPR, SLOT_SIGNAL, SLOT_TRACE, SLOT_FX, SLOT_MEMORY = 384, 576, 584, 640, 1472  # offsets inside a slot; code is at 0
SLOT_IN_USE, SLOT_UPPER = SLOT_FX + 512, SLOT_FX + 576  # SLOT_FX is an XSAVE area: XSTATE_BV, the upper halves
AVX_IN_USE = 4  # in XSTATE_BV
# Registers stand in the order of the kernel's `struct sigcontext` (asm/sigcontext.h), which is what the host's handler copies:
# r8-r15 rdi rsi rbp rbx rdx rax rcx rsp rip rflags, and on the way back cs/gs/fs, error code, vector, old mask, CR2.
_IN = struct.Struct(f"<{CODE_SIZE}s18Q{SLOT_FX - SLOT_GPR - 144}x{FX_SIZE}s{512 - FX_SIZE}xQ56x{UPPER_SIZE}s{SCRATCH_SIZE}s")
_OUT = struct.Struct(
    f"<{SLOT_GPR}x23Q{SLOT_SIGNAL - SLOT_GPR - 184}xQ{SLOT_FX - SLOT_SIGNAL - 8}x"
    f"{FX_SIZE}s{512 - FX_SIZE}xQ56x{UPPER_SIZE}s{SCRATCH_SIZE}s"
)
assert _IN.size == _OUT.size == SLOT_SIZE

SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGKILL, SIGSEGV, SIGSYS = 4, 5, 7, 8, 9, 11, 31
DE, DB, BP, OF_TRAP, BR, UD, NM, DF_FAULT, GP, PF_FAULT, MF, AC, XM = 0, 1, 3, 4, 5, 6, 7, 8, 13, 14, 16, 17, 19
VECTOR_NAMES = {
    0: "#DE",
    1: "#DB",
    3: "#BP",
    4: "#OF",
    5: "#BR",
    6: "#UD",
    7: "#NM",
    8: "#DF",
    12: "#SS",
    13: "#GP",
    14: "#PF",
    16: "#MF",
    17: "#AC",
    19: "#XM",
}
VECTOR_SIGNALS = {
    0: SIGFPE,
    1: SIGTRAP,
    3: SIGTRAP,
    4: SIGSEGV,
    5: SIGSEGV,
    6: SIGILL,
    12: SIGBUS,
    13: SIGSEGV,
    14: SIGSEGV,
    16: SIGFPE,
    17: SIGBUS,
    19: SIGFPE,
}


class State(NamedTuple):
    """All of the user-visible CPU before a case. `gpr` is in encoding order (rax rcx rdx rbx rsp ...), `fx` the first 416 bytes of
    an FXSAVE image (x87, MXCSR at 24, XMM0 at 160), `memory` the 8 KiB at SCRATCH, `upper` what YMM0-YMM15 have above their XMM."""

    gpr: tuple[int, ...]
    rflags: int
    fx: bytes
    memory: bytes
    upper: bytes = NO_UPPER


class Fault(NamedTuple):
    """Why the code did not get to its end. `vector` is None for what is no exception: SIGSYS (a system call) and SIGKILL (hung,
    killed)."""

    signal: int
    vector: int | None
    error: int = 0
    address: int = 0  # CR2, #PF only

    def __str__(self) -> str:
        if self.vector is None:
            return "hung" if self.signal == SIGKILL else "system call"
        name = VECTOR_NAMES.get(self.vector, f"vector {self.vector}")
        if self.vector == PF_FAULT:
            return f"{name}({self.error:#x}) at {self.address:#x}"
        return f"{name}({self.error:#x})" if self.vector in (GP, 12, AC) else name


class Outcome(NamedTuple):
    """All of the user-visible CPU after a case. `rip` is relative to CODE: of the instruction that would come next, or that
    faulted."""

    gpr: tuple[int, ...]
    rflags: int
    fx: bytes
    memory: bytes
    rip: int
    fault: Fault | None = None
    upper: bytes = NO_UPPER


class Runner(Protocol):
    """Something that executes code from a state: the host CPU, the software CPU."""

    def run(self, code: bytes, state: State) -> Outcome:
        """Execute one case."""
        ...

    def run_many(self, cases: Iterable[tuple[bytes, State]]) -> Iterator[Outcome]:
        """Execute cases in order; the outcomes come in the same order."""
        ...


def pack_case(buffer: memoryview, offset: int, code: bytes, state: State) -> None:
    """Write a case into its slot; ValueError when the code is longer than CODE_SIZE or a block has the wrong size."""
    if not 0 < len(code) <= CODE_SIZE:
        raise ValueError(f"{len(code)} bytes of code: must be 1 to {CODE_SIZE}")
    if len(state.memory) != SCRATCH_SIZE or len(state.fx) != FX_SIZE:
        raise ValueError(f"state.memory must have {SCRATCH_SIZE} bytes and state.fx {FX_SIZE}")
    g = state.gpr
    _IN.pack_into(
        buffer,
        offset,
        code.ljust(CODE_SIZE, INT3),
        *g[8:16],
        g[7],
        g[6],
        g[5],
        g[3],
        g[2],
        g[0],
        g[1],
        g[4],
        CODE,
        state.rflags,
        state.fx,
        AVX_IN_USE,
        state.upper,
        state.memory,
    )


def unpack_outcome(buffer: memoryview, offset: int) -> Outcome:
    """Read what a runner left in a slot."""
    (
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rdi,
        rsi,
        rbp,
        rbx,
        rdx,
        rax,
        rcx,
        rsp,
        rip,
        rflags,
        _selectors,
        error,
        vector,
        _mask,
        cr2,
        signal,
        fx,
        in_use,
        upper,
        memory,
    ) = _OUT.unpack_from(buffer, offset)
    gpr = (rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15)
    after = finish(gpr, rflags, fx, memory, rip, int(signal), int(vector), int(error), int(cr2))
    return after._replace(upper=upper if in_use & AVX_IN_USE else NO_UPPER)


def finish(
    gpr: tuple[int, ...], rflags: int, fx: bytes, memory: bytes, rip: int, signal: int, vector: int, error: int, cr2: int
) -> Outcome:
    """An outcome from raw numbers: an INT3 of the padding is the normal end, everything else a fault."""
    flags = rflags & FLAGS_SEEN
    signal = signal or VECTOR_SIGNALS.get(vector, 0)  # a guest has no signals: its kernel leaves 0
    if signal == SIGTRAP and vector == BP:
        return Outcome(gpr, flags, fx, memory, rip - 1 - CODE)
    fault = Fault(signal, None) if signal == SIGSYS else Fault(signal, vector, error, cr2 if vector == PF_FAULT else 0)
    return Outcome(gpr, flags, fx, memory, rip - CODE, fault)


def hung(state: State) -> Outcome:
    """The outcome of a case that had to be killed: nothing is known of its state."""
    return Outcome(state.gpr, state.rflags, state.fx, state.memory, 0, Fault(SIGKILL, None), state.upper)
