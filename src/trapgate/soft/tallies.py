"""Has native code count the bus locks of an instruction, instead of telling each; see `isa.native.locks`."""

from collections.abc import Callable

from trapgate.isa.native.locks import lock_slot
from trapgate.isa.state import LOCK_TALLY
from trapgate.soft.running import RunningCpu


def tally(cpu: RunningCpu, rip: int, heard: Callable[[int], None]) -> None:
    """See `vcpu.Vcpu.tally`."""
    slot = lock_slot(rip)
    _tell(cpu, slot)
    cpu.tallies[slot] = heard
    at = slot * LOCK_TALLY.size
    cpu.state.lock_tallies[at : at + LOCK_TALLY.size] = LOCK_TALLY.pack(rip=rip, age=cpu.state.lock_age + 1, count=0)


def tell_tallies(cpu: RunningCpu) -> None:
    """See `vcpu.Vcpu.tell_tallies`."""
    for slot in list(cpu.tallies):
        _tell(cpu, slot)


def _tell(cpu: RunningCpu, slot: int) -> None:
    """Let go of a tally, with what it has counted told."""
    heard = cpu.tallies.pop(slot, None)
    if heard is not None:
        at = slot * LOCK_TALLY.size
        heard(int.from_bytes(cpu.state.lock_tallies[at + LOCK_TALLY.count :][:8], "little"))
        cpu.state.lock_tallies[at : at + LOCK_TALLY.size] = bytes(LOCK_TALLY.size)
