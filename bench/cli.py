"""The benchmark command: which sections, on which engines; each section's table on the terminal and into a file."""

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import engines as run
from bench import report
from bench.build import GUESTS, BenchError
from bench.engines import Engine
from bench.measuring import Bench
from bench.sections import SECTIONS
from tools.guests.sources import GuestError

NAMES = [guest.name for guest in GUESTS]
HELP = "Sections to measure (default: all but kvm). " + "; ".join(f"{name}: {one.what}" for name, one in SECTIONS.items()) + "."


@click.command()
@click.option("--section", "sections", multiple=True, type=click.Choice(list(SECTIONS)), help=HELP)
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1, 100), help="Runs of each guest on each engine.")
@click.option("--only", multiple=True, type=click.Choice(NAMES), help="Guests of the section `loops` (default: all).")
@click.option("--engines", default="qemu,trapgate", show_default=True, help="Which engines, in order: ratios are second / first.")
@click.option("--trapgate", default=run.TRAPGATE_IMAGE, show_default=True, help="Command for an {image} with {memory} of RAM.")
@click.option("--trapgate-linux", default=run.TRAPGATE_LINUX, show_default=True, help="Command for {kernel}, {initrd}, {append}.")
@click.option("--trapgate-clear", default=run.TRAPGATE_CLEAR, show_default=True, help="Command that empties the translation cache.")
@click.option("--qemu", default=run.QEMU_IMAGE, show_default=True, help="Command for an {image}.")
@click.option("--qemu-linux", default=run.QEMU_LINUX, show_default=True, help="Command for {kernel}, {initrd}, {append}.")
@click.option("--timeout", default=600.0, show_default=True, type=click.FloatRange(1), help="Seconds that one run may take.")
@click.option(
    "--markdown",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write the tables into, such as docs/performance.md; sections that are not measured stay as they are.",
)
def main(
    sections: tuple[str, ...],
    runs: int,
    only: tuple[str, ...],
    engines: str,
    trapgate: str,
    trapgate_linux: str,
    trapgate_clear: str,
    qemu: str,
    qemu_linux: str,
    timeout: float,
    markdown: Path | None,
) -> None:
    """Measure trapgate's software CPU: loops and Linux boots beside QEMU's TCG, start, memory, traps, devices, growth.

    \b
    One section anew, the others left as they are:
      bench/run.py --section devices --markdown docs/performance.md
    """
    console = Console()
    known = {
        "qemu": Engine("qemu", qemu, qemu_linux, debug=run.QEMU_DEBUG),
        "trapgate": Engine("trapgate", trapgate, trapgate_linux, trapgate_clear, run.TRAPGATE_DEBUG),
    }
    guests = [guest for guest in GUESTS if not only or guest.name in only]
    bars = (TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        chosen = choose(engines, known)
        with Progress(*bars, console=console) as progress:
            bench = Bench(chosen, known["trapgate"], guests, runs, timeout, progress)
            for name, section in SECTIONS.items():
                if name not in sections and (sections or section.apart):
                    continue
                table = section.measure(bench)
                console.print(report.terminal(table))
                if markdown is not None:
                    report.write_section(markdown, name, f"{report.markdown(table)}\n{report.host()}.")
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
