"""The benchmark command: builds the guests, runs them on both engines in turn, and writes the tables."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import engines as run
from bench import report
from bench.build import EMPTY, GUESTS, BenchError, Guest, build
from bench.engines import Engine
from bench.report import Row, Sample
from tools import linux_guest
from tools.guests.packages import GuestError

NAMES = [guest.name for guest in GUESTS]
APPEND = f"{linux_guest.CONSOLE} trapgate.run=true"


def measure_loops(engines: Sequence[Engine], guests: Sequence[Guest], runs: int, timeout: float, progress: Progress) -> list[Row]:
    """Every guest `runs` times on every engine, the engines in turn; start-up, measured with an empty guest, is taken off."""
    task = progress.add_task("CPU loops", total=runs * len(engines) * (1 + len(guests)))
    times: dict[tuple[str, str], list[float]] = {}
    lines: dict[str, str] = {}
    for engine in engines:
        progress.update(task, description=f"warming up {engine.name}")  # what is made once, such as stencils, is not measured
        run.run_image(engine, build(EMPTY), timeout)
    for _ in range(runs):
        for guest in (EMPTY, *guests):
            image = build(guest)
            for engine in engines:
                progress.update(task, description=f"{guest.name} on {engine.name}")
                done = run.run_image(engine, image, timeout)
                first = lines.setdefault(guest.name, done.line)
                if done.line != first:
                    raise BenchError(
                        f"{engine.name} says `{done.line}`, an earlier run said `{first}`: one of them computes wrongly"
                    )
                times.setdefault((guest.name, engine.name), []).append(done.seconds)
                progress.advance(task)
    start = {engine.name: Sample(tuple(times[EMPTY.name, engine.name])) for engine in engines}
    rows = [Row("start-up", "", tuple(start[engine.name] for engine in engines))]
    for guest in guests:
        samples = (Sample(tuple(times[guest.name, engine.name]), start[engine.name].median) for engine in engines)
        rows.append(Row(guest.name, f"{guest.work} (x {guest.rounds:,})", tuple(samples)))
    return rows


def measure_linux(engines: Sequence[Engine], series: str, runs: int, timeout: float, progress: Progress) -> list[Row]:
    """Linux to its first process: with the caches of translated code empty, then with what the runs before have left in them."""
    kernel, initrd = linux_guest.kernel(series), linux_guest.initramfs()
    task = progress.add_task("Linux", total=2 * runs * len(engines))
    cold: dict[str, list[float]] = {engine.name: [] for engine in engines}
    warm: dict[str, list[float]] = {engine.name: [] for engine in engines}
    for _ in range(runs):
        for engine in engines:
            run.clear_cache(engine)
            for temperature, into in (("cold", cold), ("warm", warm)):
                progress.update(task, description=f"Linux {series}, {temperature}, on {engine.name}")
                reached, _off = run.run_linux(engine, kernel, initrd, APPEND, linux_guest.READY, timeout)
                into[engine.name].append(reached)
                progress.advance(task)
    what = f"Debian's {series} cloud kernel"
    return [
        Row("to init, cold", f"{what}, no cached translations", tuple(Sample(tuple(cold[engine.name])) for engine in engines)),
        Row("to init, warm", f"{what}, translations cached", tuple(Sample(tuple(warm[engine.name])) for engine in engines)),
    ]


@click.command()
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1, 100), help="Runs of each guest on each engine.")
@click.option("--only", multiple=True, type=click.Choice(NAMES), help="Guests to run (default: all).")
@click.option("--engines", default="qemu,trapgate", show_default=True, help="Which engines, in order: ratios are second / first.")
@click.option("--trapgate", default=run.TRAPGATE_IMAGE, show_default=True, help="Command for an {image}.")
@click.option("--trapgate-linux", default=run.TRAPGATE_LINUX, show_default=True, help="Command for {kernel}, {initrd}, {append}.")
@click.option("--trapgate-clear", default=run.TRAPGATE_CLEAR, show_default=True, help="Command that empties the translation cache.")
@click.option("--qemu", default=run.QEMU_IMAGE, show_default=True, help="Command for an {image}.")
@click.option("--qemu-linux", default=run.QEMU_LINUX, show_default=True, help="Command for {kernel}, {initrd}, {append}.")
@click.option("--linux/--no-linux", default=True, show_default=True, help="Boot Linux as well.")
@click.option("--loops/--no-loops", default=True, show_default=True, help="Run the CPU loops.")
@click.option("--series", default="6.1", show_default=True, type=click.Choice(list(linux_guest.KERNELS)), help="Kernel to boot.")
@click.option("--timeout", default=300.0, show_default=True, type=click.FloatRange(1), help="Seconds that one run may take.")
@click.option(
    "--markdown",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write the tables into, such as docs/performance.md.",
)
def main(
    runs: int,
    only: tuple[str, ...],
    engines: str,
    trapgate: str,
    trapgate_linux: str,
    trapgate_clear: str,
    qemu: str,
    qemu_linux: str,
    linux: bool,
    loops: bool,
    series: str,
    timeout: float,
    markdown: Path | None,
) -> None:
    """Run the benchmark guests and a Linux boot under trapgate's software CPU and QEMU's TCG, in turn, and compare."""
    console = Console()
    known = {"qemu": Engine("qemu", qemu, qemu_linux), "trapgate": Engine("trapgate", trapgate, trapgate_linux, trapgate_clear)}
    guests = [guest for guest in GUESTS if not only or guest.name in only]
    title_loops, title_linux = f"CPU loops, median of {runs} less start-up", f"Linux, median of {runs}"
    sections = [report.host()]
    try:
        chosen = choose(engines, known)
        names = [engine.name for engine in chosen]
        bars = (TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        tables = []
        with Progress(*bars, console=console) as progress:
            if loops:
                rows = measure_loops(chosen, guests, runs, timeout, progress)
                tables.append((title_loops, rows, rows[1:]))
            if linux:
                rows = measure_linux(chosen, series, runs, timeout, progress)
                tables.append((title_linux, rows, []))
        for title, rows, averaged in tables:
            console.print(report.terminal(title, names, rows, averaged))
            sections.append(report.markdown(title, names, rows, averaged))
        if markdown is not None:
            report.write_section(markdown, "\n\n".join(sections))
    except (BenchError, GuestError, OSError) as error:
        console.print(f"bench: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)


def choose(names: str, known: dict[str, Engine]) -> list[Engine]:
    """The engines of a comma-separated list; BenchError for none, more than two, an unknown one, or one that is not installed."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not 1 <= len(set(wanted)) == len(wanted) <= 2 or not set(wanted) <= set(known):
        raise BenchError(f"--engines {names!r}: give one or two of {', '.join(known)}")
    chosen = [known[name] for name in wanted]
    for engine in chosen:
        engine.check()
    return chosen
