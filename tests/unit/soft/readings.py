"""One instruction on a random state, read twice: by native code, as a block, and by the exact rules; all state is compared."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from iced_x86 import Instruction

from trapgate.exits import DebugException, Exit
from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.isa.rules.catalog import RULES
from trapgate.isa.rules.reading import HARD
from trapgate.soft.cpu import SoftVcpu
from trapgate.soft.decode.decoding import decoder
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.instructions import handler_of
from unit.soft.bench import Bench
from unit.soft.test_hostile import architectural, different

Fault = tuple[int, int | None, int | None] | DebugException | None
Prepare = Callable[[Bench, random.Random], None]
RAM = 0x100000  # bytes that are compared: up to the page tables of long mode, which fetching the code marks


@dataclass
class Outcome:
    """What became of an instruction: the fault it raised, the #DB, or None; whether native code did it alone."""

    fault: Fault
    native: bool


def block(bench: Bench, instruction: Instruction, stop: int | None = None) -> Outcome:
    """Run the instruction at RIP as translated code, to the end of it or to its fault; `stop`: where it goes on."""
    left, answers, reasons = list[SoftVcpu](), bench.cpu._answers, bench.cpu._reasons
    inner, answer = reasons[s.EXIT_INSTRUCTION], answers.pop(s.EXIT_INSTRUCTION, None)  # some are answered amid the run

    def counted(cpu: SoftVcpu) -> Exit | None:
        left.append(cpu)
        return inner(cpu)

    reasons[s.EXIT_INSTRUCTION] = counted
    fault = _fault(lambda: bench.run_block(instruction.len, stop))
    reasons[s.EXIT_INSTRUCTION] = inner
    if answer is not None:
        answers[s.EXIT_INSTRUCTION] = answer
    return Outcome(fault, not left)


def exact(bench: Bench, instruction: Instruction) -> Outcome:
    """Run it by its handler, rules evaluated."""
    st = bench.st
    bench.cpu.rules = dict.fromkeys(RULES, lambda *_: HARD)
    st.next_rip = st.rip + instruction.len
    fault = _fault(lambda: handler_of(instruction.mnemonic)(bench.cpu, instruction))
    if not fault:
        st.rip = st.next_rip
    return Outcome(fault, False)


def _shown(value: int | Sequence[int]) -> str:
    return hex(value) if isinstance(value, int) else bytes(value).hex()


def _fault(run: Callable[[], Exit | None]) -> Fault:
    try:
        exit_ = run()
    except GuestFault as fault:
        return fault.vector, fault.error, fault.cr2
    assert exit_ is None or isinstance(exit_, DebugException), exit_
    return exit_


def compare(seed: str, code: bytes, make: Callable[[random.Random], Bench], prepare: Prepare) -> Outcome:
    """Both readings of an instruction on the state that `prepare` makes of a seed; AssertionError where they differ."""
    benches = []
    for _ in range(2):
        source = random.Random(seed)
        bench = make(source)
        bench.ram.write(bench.cpu.linear(bench.st.rip), code)
        prepare(bench, source)
        bench.cpu.flush_all()
        bench.cpu.update_mode()
        benches.append(bench)
    first, second = benches
    instruction = decoder(first.cpu.model, modes.code_bits(first.st.mode), code).decode()
    told = f"{seed}: {instruction} ({code.hex()})"
    rules = exact(second, instruction)
    ours = block(first, instruction, None if rules.fault else second.cpu.linear(second.st.rip))
    assert ours.fault == rules.fault, f"{told}: native {ours.fault}, exact {rules.fault}"
    changed = [name for name in different(architectural(first), architectural(second)) if name != "rip" or not ours.fault]
    assert not changed, f"{told}: {[(name, *(_shown(getattr(one.st, name)) for one in benches)) for name in changed]}"
    assert first.ram.read(0, RAM) == second.ram.read(0, RAM), told
    return ours
