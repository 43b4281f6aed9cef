"""A long run of a busy Linux guest (`make soak`): no wrong result, no growth of memory, and a debugger at random changes nothing.

The guest compiles, compresses, sums and runs stress-ng's self-checking programs, round after round. Exit status 1 when one failed.
"""

import random
import re
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import click
from rich.console import Console as Terminal
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tools import linux_guest
from tools.guests import rootfs
from tools.guests.console import Console, ConsoleError
from tools.guests.interventions import Debugger, InterventionError
from tools.guests.sources import GuestError
from trapgate.boot import cpio
from trapgate.gdb.address import UnixAddress
from trapgate.gdb.client import Client, ClientError

MEMORY_MIB = 1024
TICK = 5.0  # seconds between two looks at the memory
GROWTH_ALLOWED = 0.10  # of what it was at half time; translations of code that is met late are growth that ends
ROUND = re.compile(r"^soak: round \d+ done$", re.MULTILINE)
WRONG = re.compile(r"^soak: WRONG.*$|^.*(?:BUG:|Oops|Kernel panic|rcu: INFO).*$", re.MULTILINE)
SLACK = 32 << 20  # bytes of growth that mean nothing


@dataclass(slots=True)
class Outcome:
    """What was seen: rounds that the guest finished, its complaints, the process's memory without the guest's own, by seconds."""

    rounds: int = 0
    wrong: list[str] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    trouble: str = ""

    def growth(self) -> tuple[int, int]:
        """Bytes at half time and at the end."""
        half = self.memory[-1][0] / 2
        return next(used for at, used in self.memory if at >= half), self.memory[-1][1]

    def failures(self) -> list[str]:
        """One line for each thing that should not be."""
        found = [*self.wrong, *([self.trouble] if self.trouble else [])]
        if not self.rounds:
            found.append("the guest finished no round: give it more time")
        if self.memory:
            before, after = self.growth()
            if after > before * (1 + GROWTH_ALLOWED) + SLACK:
                found.append(f"memory grew from {before >> 20} MiB at half time to {after >> 20} MiB")
        return found


def own_memory(pid: int, guest: int) -> int:
    """Resident bytes of a process without the mapping that is the guest's RAM (`guest` bytes), from /proc."""
    size = total = 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if match := re.match(r"(Size|Rss): +(\d+) kB", line):
            if match[1] == "Size":
                size = int(match[2]) << 10
            elif size < guest:
                total += int(match[2]) << 10
    return total


def image(folder: Path) -> Path:
    """The root file system with the soak's script behind it: the kernel unpacks one archive after the other."""
    here = linux_guest.HERE
    extra = [
        cpio.program("soak", (here / "soak.sh").read_bytes()),
        cpio.file("primes.c", (here / "programs" / "primes.c").read_bytes()),
    ]
    base = linux_guest.files([rootfs.NAME])[rootfs.NAME]
    path = folder / "soak.cpio"
    path.write_bytes(base.read_bytes() + cpio.archive(extra))
    return path


def arguments(folder: Path, cpu: str, stub: str | None) -> list[str]:
    """Those of `trapgate run`."""
    line = "console=ttyS0 panic=-1 quiet norandmaps rdinit=/soak"
    words = [
        str(linux_guest.kernel("6.1")),
        "--initrd",
        str(image(folder)),
        "--append",
        line,
        "--memory",
        f"{MEMORY_MIB}M",
        "--cpu",
        cpu,
    ]
    return [*words, "--gdb", stub] if stub else words


def soak(
    folder: Path, cpu: str, seconds: float, interventions: int, seed: int, progress: Progress
) -> tuple[Outcome, dict[str, int]]:
    """Run the guest for so long, with so many interventions spread over the time. What was seen, and the debugger's counts."""
    outcome, socket = Outcome(), folder / "gdb"
    task = progress.add_task("booting", total=seconds)
    debugger = None
    with Console(arguments(folder, cpu, f"unix:{socket}" if interventions else None)) as console:
        try:
            console.wait_for("soak: begins", 600)
            if interventions:
                debugger = Debugger(Client(UnixAddress(str(socket))), random.Random(seed))
                debugger.begin()
            begin, done = time.monotonic(), 0
            while (passed := time.monotonic() - begin) < seconds and console.listen(min(TICK, seconds / max(interventions, 1))):
                while debugger is not None and done < interventions * min(passed / seconds, 1):
                    debugger.intervene()
                    done += 1
                    passed = time.monotonic() - begin
                outcome.memory.append((passed, own_memory(console.pid, MEMORY_MIB << 20)))
                outcome.rounds = len(ROUND.findall(console.output))
                outcome.wrong = WRONG.findall(console.output)
                progress.update(task, completed=passed, description=f"round {outcome.rounds + 1}, {done} interventions")
            if passed < seconds:
                outcome.trouble = f"the guest ended after {passed:.0f} s:\n{console.tail()}{console.errors}"
        except (ConsoleError, ClientError, InterventionError) as error:
            outcome.trouble = f"{error}\n{console.tail()}{console.errors}"
    return outcome, debugger.counts if debugger is not None else {}


@click.command()
@click.option(
    "--minutes", default=60.0, show_default=True, type=click.FloatRange(min=0.1), help="How long, after the guest's boot."
)
@click.option(
    "--interventions",
    default=1000,
    show_default=True,
    type=click.IntRange(0),
    help="Of a debugger, spread over that time; 0: none.",
)
@click.option("--cpu", default="EPYC-Turin", show_default=True, help="CPU model.")
@click.option("--seed", default=1, show_default=True, help="For what the debugger does.")
def main(minutes: float, interventions: int, cpu: str, seed: int) -> None:
    """Soak a busy Linux guest, with a debugger at work on it."""
    terminal = Terminal()
    columns = (TextColumn("{task.description:<30}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    try:
        with tempfile.TemporaryDirectory() as folder, Progress(*columns, console=terminal) as progress:
            outcome, counts = soak(Path(folder), cpu, minutes * 60, interventions, seed, progress)
    except (GuestError, OSError) as error:
        terminal.print(f"soak: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
    failures = outcome.failures()
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"
    memory = (
        f"{outcome.growth()[0] >> 20} MiB at half time, {outcome.growth()[1] >> 20} at the end" if outcome.memory else "not seen"
    )
    terminal.print(f"rounds: {outcome.rounds}; interventions: {kinds}; memory beside the guest's: {memory}", highlight=False)
    for line in failures:
        terminal.print(line, style="red", markup=False, soft_wrap=True)
    terminal.print("nothing wrong" if not failures else f"{len(failures)} things wrong", style="red" if failures else "green")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
