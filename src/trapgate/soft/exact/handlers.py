"""Imports every file that registers instructions executed by Python, and so fills `instructions.HANDLERS`."""

from trapgate.soft.exact import (
    bcd,
    careful,
    careful_avx,
    control,
    cpuid,
    flags,
    frames,
    msr,
    portio,
    random,
    returns,
    tables,
    transfers,
    traps,
    vectors,
)

__all__ = [
    "bcd", "careful", "careful_avx", "control", "cpuid", "flags", "frames", "msr", "portio", "random", "returns",
    "tables", "transfers", "traps", "vectors",
]  # fmt: skip
