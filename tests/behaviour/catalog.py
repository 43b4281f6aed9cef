"""Every row there is, in the order they run."""

from functools import cache

from behaviour import (
    rows_avx,
    rows_control,
    rows_debug,
    rows_devices,
    rows_interrupts,
    rows_paging,
    rows_privilege,
    rows_segments,
    rows_syscalls,
    rows_transfers,
    rows_v86,
)
from behaviour.row import Row

GROUPS = {
    "paging": rows_paging.rows, "segments": rows_segments.rows, "transfers": rows_transfers.rows,
        "interrupts": rows_interrupts.rows,
    "control registers and MSRs": rows_control.rows, "privilege": rows_privilege.rows, "debugging": rows_debug.rows,
    "system calls": rows_syscalls.rows, "AVX": rows_avx.rows,
    "virtual-8086, real and protected mode": rows_v86.rows, "APIC, PIC and timers": rows_devices.rows,
}  # fmt: skip


@cache
def rows() -> tuple[Row, ...]:
    """All rows."""
    return tuple(row for group in GROUPS.values() for row in group())
