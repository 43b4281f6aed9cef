"""Every file that registers instructions executed by Python: importing this one fills `instructions.HANDLERS`."""

from trapgate.soft.exact import (
    bcd,
    careful,
    control,
    cpuid,
    flags,
    fpstate,
    frames,
    msr,
    portio,
    random,
    returns,
    tables,
    transfers,
    traps,
)

__all__ = [
    "bcd", "careful", "control", "cpuid", "flags", "fpstate", "frames", "msr", "portio", "random", "returns", "tables", "transfers",
    "traps",
]  # fmt: skip
