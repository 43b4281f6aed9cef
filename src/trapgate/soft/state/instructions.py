"""Registers the instructions that Python executes: from iced-x86 mnemonic to handler, filled by the files that import `handles`.

A handler gets the CPU and the decoded instruction. `state.rip` is on the instruction and `state.next_rip` behind it; a handler
that jumps changes `state.next_rip`; one that faults raises GuestFault (and must not have changed anything yet). What it returns,
if not None, is an Exit for the machine, taken after the instruction has completed.
"""

from collections.abc import Callable

from iced_x86 import Instruction

from trapgate.exits import Exit
from trapgate.soft.state.guest_cpu import GuestCpu

Handler = Callable[[GuestCpu, Instruction], Exit | None]
HANDLERS: dict[int, Handler] = {}
REST: list[Handler] = []


def handles(*mnemonics: int) -> Callable[[Handler], Handler]:
    """Register a function for these iced_x86.Mnemonic values."""

    def register(handler: Handler) -> Handler:
        for mnemonic in mnemonics:
            assert mnemonic not in HANDLERS, f"two handlers for mnemonic {mnemonic}"
            HANDLERS[mnemonic] = handler
        return handler

    return register


def handles_the_rest(handler: Handler) -> Handler:
    """Register the one that executes whatever a row sends to Python and nobody else does."""
    assert not REST
    REST.append(handler)
    return handler


def handler_of(mnemonic: int) -> Handler:
    """Who executes a mnemonic that was translated to a call of Python."""
    return HANDLERS.get(mnemonic) or REST[0]
