"""Tells what a guest that asks QEMU's firmware configuration device finds of its own start."""

from trapgate.arch import fwcfg as keys
from trapgate.boot.plan import BootPlan

NAMED = {
    "kernel": (keys.KERNEL_ADDRESS, keys.KERNEL_SIZE, keys.KERNEL_DATA),
    "command line": (keys.COMMAND_LINE_ADDRESS, keys.COMMAND_LINE_SIZE, keys.COMMAND_LINE_DATA),
    "initrd": (keys.INITRD_ADDRESS, keys.INITRD_SIZE, keys.INITRD_DATA),
}
"""Pieces of a plan by what they are, and the items that have their address, size and bytes."""


def items(plan: BootPlan) -> dict[int, bytes | memoryview]:
    """Kernel, command line (with its NUL) and initrd, where they are, and where the guest started."""
    found: dict[int, bytes | memoryview] = {keys.KERNEL_ENTRY: (plan.start.rip & 0xFFFF_FFFF).to_bytes(4, "little")}
    for piece in plan.pieces:
        if piece.what in NAMED:
            address, size, data = NAMED[piece.what]
            found[address], found[size] = piece.address.to_bytes(4, "little"), len(piece.data).to_bytes(4, "little")
            found[data] = piece.data
    return found
