"""What each step of a run left behind: a record of every register, and each line of the scratch memory that changed.

A step is what one single-step trap ends: an instruction, or one iteration of a repeated string instruction. An instruction that
faults is none. Traces of different CPUs are equal, byte by byte, but for flags that are undefined at that step (`stepwise`).
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from .state import DB, DF, FX_SIZE, IF, SIGTRAP, STATUS_FLAGS, Fault, Outcome

# A record. Of the FXSAVE image all that is compared (`compare.FX_FIELDS`).
GPR, RIP, RFLAGS, X87, MXCSR, ST, XMM, RECORD_SIZE = 0, 128, 136, 144, 152, 160, 288, 544
X87_BYTES = 5  # FCW, FSW, FTW
FX_ST, FX_MXCSR = 32, 24  # where the FXSAVE image has them
assert RECORD_SIZE - ST == FX_SIZE - FX_ST
MOST_STEPS = 2000  # of a run: one that has overwritten a return address of its own may go on for ever; it ends with #DB then
FLAGS_RECORDED = STATUS_FLAGS | DF | IF | 2  # not TF

# A store: number of the step (from 0), offset of the line in the scratch memory, the line's new bytes.
LINE = 64
STORE_SIZE = 16 + LINE
_STORE = struct.Struct(f"<QQ{LINE}s")
_NUMBERS = struct.Struct("<18Q")


class Trace(NamedTuple):
    """Records of all steps, and the stores in their order, as bytes."""

    records: bytes
    stores: bytes

    @property
    def steps(self) -> int:
        """How many."""
        return len(self.records) // RECORD_SIZE

    def numbers(self, step: int) -> tuple[int, ...]:
        """General registers in encoding order, RIP and RFLAGS behind a step."""
        return _NUMBERS.unpack_from(self.records, step * RECORD_SIZE)

    def lines(self) -> Iterator[tuple[int, int, bytes]]:
        """The stores: step, offset, line."""
        return _STORE.iter_unpack(self.stores)


def endless(outcome: Outcome) -> bool:
    """Whether a run was left at MOST_STEPS."""
    return outcome.fault == Fault(SIGTRAP, DB)


def pack_record(gpr: bytes, rip: int, rflags: int, fx: bytes) -> bytes:
    """A record from the general registers (128 bytes) and the FXSAVE image (416 bytes or more)."""
    return b"".join(
        (
            gpr,
            rip.to_bytes(8, "little"),
            (rflags & FLAGS_RECORDED).to_bytes(8, "little"),
            fx[:X87_BYTES],
            b"\0\0\0",
            fx[FX_MXCSR : FX_MXCSR + 4],
            b"\0\0\0\0",
            fx[FX_ST:FX_SIZE],
        )
    )


def changed_lines(step: int, before: bytes, after: bytes) -> bytes:
    """The stores of a step from the scratch memory before and after it."""
    return b"".join(
        _STORE.pack(step, at, after[at : at + LINE])
        for at in range(0, len(after), LINE)
        if before[at : at + LINE] != after[at : at + LINE]
    )
