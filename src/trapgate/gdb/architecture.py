"""Says which architecture a guest is described as to a debugger: what the user asked for, or what image and CPU mode suggest."""

from enum import Enum

from trapgate.doings import CpuMode


class Architecture(Enum):
    """The descriptions that there are; the values are the words of `--gdb-arch`.

    I386 and X86_64 have the registers of one architecture of gdb. I8086 and ANY have those of all three, so that
    `set architecture` may follow the guest through its modes; they differ in what gdb takes without a file.
    """

    I8086 = "i8086"
    I386 = "i386"
    X86_64 = "x86-64"
    ANY = "any"


def choose(code: int, mode: CpuMode) -> Architecture:
    """The architecture for an image whose code is said to be `code` bits wide (`boot.plan.BootPlan.code`) on a CPU in a mode.

    gdb takes its architecture from its own file first, and has no session at all with a description that lacks the registers of
    that: one architecture alone is described only where no file of another is to be expected.
    """
    if code == 64:
        return Architecture.X86_64
    if code == 32 and mode is not CpuMode.LONG:
        return Architecture.I386
    if code == 32:
        return Architecture.ANY
    return {CpuMode.REAL: Architecture.I8086, CpuMode.PROTECTED: Architecture.ANY, CpuMode.LONG: Architecture.X86_64}[mode]


def alone(architecture: Architecture, mode: CpuMode) -> Architecture:
    """The one architecture that a CPU runs now, for a client that cannot choose among several: I386 or X86_64."""
    if architecture in (Architecture.I386, Architecture.X86_64):
        return architecture
    return Architecture.X86_64 if mode is CpuMode.LONG else Architecture.I386
