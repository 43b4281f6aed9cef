"""The guest of the race: what loses an update in some runs."""

from collections.abc import Callable
from pathlib import Path

from programs import build
from trapgate.build import load_guest, make_machine
from trapgate.machine import ClockKind, Machine, MachineConfig

TYPED = b"abcdefgq"
APART = range(90_000, 130_000)  # instructions from one byte to the next
LOST, WHOLE = b"lost update", b"no update was lost"


def image(folder: Path) -> Path:
    """The guest as an ELF file."""
    source = Path(__file__).parent / "race.S"
    return build.assemble(build.Program("race", source, "EPYC-Turin", "exit_port", "no", "no", "instructions"), folder)


def machine(path: Path, say: Callable[[bytes], None]) -> Machine:
    """One that is about to run it."""
    config = MachineConfig(memory=8 << 20, cpu="EPYC-Turin", clock=ClockKind.INSTRUCTIONS, serial=say)
    made = make_machine(config, "soft")
    load_guest(made, str(path))
    return made
