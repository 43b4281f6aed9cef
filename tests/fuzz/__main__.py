"""`make fuzz`: every target for its share of an hour, with a line that tells how far each is. Exit status 1: something was found.

`make fuzz FUZZ="--target elf --seed 7"` fuzzes one target by one seed, always the same way; `--input FILE` runs one input.
"""

import os
import signal
import sys
import time
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from fuzz.driver import Crew, Found, Worker, working
from fuzz.targets import ROOMS

INTERRUPTED = 130


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--target", "targets", multiple=True, type=click.Choice(list(ROOMS)), help="Fuzz this; may be repeated. Else all.")
@click.option("--seed", type=int, default=None, help="Which inputs are made; else the time of day chooses.")
@click.option("--minutes", type=float, default=60.0, show_default=True, help="For all targets together.")
@click.option("--runs", type=int, default=0, help="Inputs of each target, at most.")
@click.option("--input", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Run the input in FILE alone.")
@click.option("--keep", is_flag=True, help="Put what reached something new into tests/fuzz/corpus, minimised.")
def main(targets: tuple[str, ...], seed: int | None, minutes: float, runs: int, path: Path | None, keep: bool) -> None:
    """Fuzz image formats, the gdb stub, devices, caches and the CPU's rules."""
    names = targets or tuple(ROOMS)
    if path is not None and len(targets) != 1:
        raise click.UsageError("--input needs one --target")
    seed = int(time.time()) & 0xFFFF if seed is None else seed
    cores = max(1, len(os.sched_getaffinity(0)))
    share = minutes * 60 * min(cores, len(names)) / len(names)
    options = [f"--seconds={share}", f"--runs={runs}", *["--keep"] * keep, *([f"--only={path}"] if path is not None else [])]
    console = Console(stderr=True)
    console.print(f"seed {seed}; {len(names)} targets for {share:.0f} seconds each, {min(cores, len(names))} at a time")
    with working(names, seed, *options, at_once=cores) as crew:
        interrupted = watch(crew, console)
        sys.exit(tell(crew, console) or (INTERRUPTED if interrupted else 0))


def watch(crew: Crew, console: Console) -> bool:
    """Show how far the workers are until all are through, or until Ctrl-C: then True."""
    start = time.monotonic()
    asked: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))  # an exception could come amid the start of a process
    with Live(console=console, refresh_per_second=2, transient=True, redirect_stdout=False, redirect_stderr=False) as live:
        while crew.go_on() and not asked:
            live.update(_table(crew.workers, f"{(time.monotonic() - start) / 60:.1f} minutes"))
            time.sleep(0.5)
    return bool(asked)


def _table(workers: list[Worker], title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=None)
    for column in ("target", "runs", "branches", "inputs kept"):
        table.add_column(column, justify="left" if column == "target" else "right")
    for worker in workers:
        progress = worker.progress()
        table.add_row(worker.target, f"{progress.runs:,}", f"{progress.reached:,}", f"{progress.kept:,}")
    return table


def tell(crew: Crew, console: Console) -> int:
    """What came out; the exit status."""
    console.print(_table(crew.workers))
    found = [worker.found for worker in crew.workers if worker.found is not None]
    for one in found:
        console.print(story(one), markup=False, highlight=False, soft_wrap=True)
    return 1 if found else 0


def story(found: Found) -> str:
    """A finding in words, with how to repeat it."""
    path = found.keep()
    again = f'make fuzz FUZZ="--target {found.target} --input {path}"'
    return f"\n{found.text}\n\n{found.target}: run {found.run} of seed {found.seed}, kept in {path}\nagain: {again}"


if __name__ == "__main__":
    main()
