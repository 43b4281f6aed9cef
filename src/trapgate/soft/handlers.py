"""Every file that registers instructions executed by Python: importing this one fills `instructions.HANDLERS`."""

from trapgate.soft import control, cpuid_op, flagops, misc, msr, portio, returns, tables, transfers, traps

__all__ = ["control", "cpuid_op", "flagops", "misc", "msr", "portio", "returns", "tables", "transfers", "traps"]
