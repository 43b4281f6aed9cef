"""Every file that registers instructions executed by Python: importing this one fills `instructions.HANDLERS`."""

from trapgate.soft import careful, control, cpuid_op, flagops, fpstate, misc, msr, portio, returns, tables, transfers, traps

__all__ = [
    "careful", "control", "cpuid_op", "flagops", "fpstate", "misc", "msr", "portio", "returns", "tables", "transfers", "traps",
]  # fmt: skip
