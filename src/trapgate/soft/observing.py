"""Tells an observer of the software CPU's work, in words."""

from iced_x86 import Mnemonic

from trapgate.isa import state as s
from trapgate.soft.running import RunningCpu
from trapgate.vcpu import ASLEEP, SAMPLED

SAMPLE = 2  # in `request`: nobody waits, it is only a sample
REASONS = {
    s.EXIT_TRANSLATE: "a block that is not there yet",
    s.EXIT_INTERRUPTED: "an interrupt, a timer, a kick",
    s.EXIT_ACCESS: "a load or store that Python performs",
    s.EXIT_DELIVER: "an exception that Python delivers",
    s.EXIT_STEPPED: "the end of a step",
    s.EXIT_DEBUG: "a bus lock or other trap behind an instruction",
    s.EXIT_SEGMENT: "a segment check",
    s.EXIT_FETCH: "a fetch from where no RAM is",
    s.EXIT_BREAKPOINT: "a breakpoint",
    s.EXIT_REPEATING: "an interrupt or the like amid a repeated string instruction",
    s.EXIT_CRASHED: "a crash of translated code",
}
_NAMES = {value: name for name, value in vars(Mnemonic).items() if isinstance(value, int)}


def why(cpu: RunningCpu) -> str:
    """Why translated code was left."""
    state = cpu.state
    reason = state.exit_reason
    if state.request == SAMPLE and reason in (s.EXIT_INTERRUPTED, s.EXIT_REPEATING):
        return SAMPLED
    if reason == s.EXIT_PORT:
        return f"{'OUT to' if state.exit_detail & s.PORT_OUT else 'IN from'} port {state.exit_detail & 0xFFFF:X}h"
    if reason != s.EXIT_INSTRUCTION:
        return REASONS[reason]
    mnemonic = cpu.translator.instructions[state.exit_detail].mnemonic
    return ASLEEP if mnemonic == Mnemonic.HLT else f"{_NAMES[mnemonic]} in Python"


def answered_by(cpu: RunningCpu, reason: int) -> str | None:
    """Who has answered amid a run, where that tells more than why translated code was left."""
    return f"memory-mapped device at {cpu.state.walk_physical & ~0xFFF:X}h" if reason == s.EXIT_ACCESS else None
