"""What a row is: one behaviour of the CPU, the manual's section, a few instructions, and what must come of them.

Sections of the SDM's volume 3 are counted as long was usual: paging is chapter 4, protection 5, interrupts and exceptions 6, the
local APIC 10, memory types 11, debugging 17, 8086 emulation 20. Editions that have put a chapter in between count higher.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

DE, DB, NMI, BP, OF, BR, UD, NM, DF = range(9)
TS, NP, SS, GP, PF = range(10, 15)
MF, AC, MC, XM = range(16, 20)

Values = Mapping[str, int | str]


@dataclass(frozen=True)
class Expected:
    """An exception, or none: `vector` None means that the row runs to its end.

    `error` and `cr2`: numbers or words of the assembler. `rip`: what is pushed, `@at` the instruction, `@behind` what follows
    the row, "" anything.
    `then`: further fields of what the handler saw, or quadwords `[address]`, each with an optional `&mask`.
    """

    vector: int | None = None
    error: int | str | None = None
    cr2: int | str | None = None
    rip: str = "@at"
    then: Values = field(default_factory=dict)

    def values(self) -> dict[str, int | str]:
        """Everything that is compared."""
        if self.vector is None:
            return {"vector": UD, "rip": self.rip if self.rip != "@at" else "@behind", **self.then}
        values: dict[str, int | str] = {"vector": self.vector}
        if self.rip:
            values["rip"] = self.rip
        if self.error is not None:
            values["error"] = self.error
        if self.cr2 is not None:
            values["cr2"] = self.cr2
        return {**values, **self.then}


def fault(
    vector: int, error: int | str | None = None, *, cr2: int | str | None = None, rip: str = "@at", **then: int | str
) -> Expected:
    """A fault at the instruction."""
    return Expected(vector, -1 if error is None else error, cr2, rip, then)


def page_fault(error: int, cr2: int | str, rip: str = "@at", /, **then: int | str) -> Expected:
    """#PF with its error code and address."""
    return Expected(PF, error, cr2, rip, then)


def trap(vector: int, /, **then: int | str) -> Expected:
    """An exception or interrupt that is reported behind the instruction, without an error code."""
    return Expected(vector, -1, None, "@behind", then)


def runs(rip: str = "@behind", /, **then: int | str) -> Expected:
    """The row runs to its end, or reaches UD2 at another place."""
    return Expected(rip=rip, then=then)


gp = partial(fault, GP)
ud = fault(UD)
GP0 = fault(GP, 0)
RUNS = runs()


@dataclass(frozen=True)
class Row:
    """One behaviour.

    `mode`: long, compat, prot, v86 or real, with the CPL behind it (long3). `code`: the last line is the instruction in question.
    `setup` runs before, at CPL 0 in 64-bit code (32-bit code for prot, v86 and real); its registers reach `code`. `after` runs in
    the kernel, in 64-bit code, before the comparison. `needs`: the vendor or features without which the row is skipped.
    """

    name: str
    manual: str
    code: str
    expected: Expected
    setup: str = ""
    mode: str = "long0"
    flags: str = "0"
    needs: tuple[str, ...] = ()
    after: str = ""
    paging: int = 0  # outside long mode: 0 none, 1 of 32 bits, 2 PAE
    rsp: str = ""

    @property
    def cpl(self) -> int:
        """The privilege level the code starts at."""
        return 3 if self.mode == "v86" else 0 if self.mode == "real" else int(self.mode[-1])

    @property
    def kind(self) -> str:
        """The mode without its level."""
        return self.mode.rstrip("0123")
