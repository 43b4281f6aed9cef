"""Debian's unmodified kernels and other guests, every claim checked, as a table (`make linux`). Exit status 1 when one fails."""

import sys
import time
from collections.abc import Callable
from functools import partial

import click
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tools import linux_guest
from tools.guests.others import OTHER_GUESTS
from tools.guests.recipes import KERNELS
from tools.guests.scenarios import SCENARIOS, Check, Guest
from tools.guests.sources import GuestError

SHOWN = 5  # lines of evidence for a claim that held


def row(table: Table, check: Check) -> None:
    """A claim with its evidence; one that failed shows all of it."""
    seen = check.shown.splitlines()
    text = "\n".join(seen[:SHOWN] if check.passed else seen)
    table.add_row(Text("holds", "green") if check.passed else Text("FAILS", "bold red"), check.claim, Text(text, "dim"))


def scenarios_of(name: str) -> list[tuple[str, str, Callable[[], list[Check]]]]:
    """Title, CPU model and what to run, for a kernel or another guest; GuestError when its files cannot be had."""
    if name in OTHER_GUESTS:
        other = OTHER_GUESTS[name]
        return [(other.title, other.cpu, partial(other.run, linux_guest.files(other.needs), other.cpu))]
    guest = Guest(linux_guest.kernel(name), linux_guest.initramfs(architecture=KERNELS[name].architecture))
    return [
        (f"Linux {name}, {scenario.name}", scenario.cpu, partial(scenario.run, guest, scenario.cpu))
        for scenario in SCENARIOS
        if name in scenario.kernels
    ]


def panel(console: Console, title: str, cpu: str, run: Callable[[], list[Check]]) -> tuple[int, int]:
    """Run a scenario and print what it showed; how many claims held, how many failed."""
    begin = time.monotonic()
    with console.status(f"{title} on {cpu}"):
        checks = run()
    table = Table("", "claim", "seen", box=None, pad_edge=False)
    for check in checks:
        row(table, check)
    console.print(Panel(table, title=title, subtitle=f"--cpu {cpu}, {time.monotonic() - begin:.0f} s"))
    passed = sum(check.passed for check in checks)
    return passed, len(checks) - passed


@click.command()
@click.option("--only", "names", multiple=True, type=click.Choice([*KERNELS, *OTHER_GUESTS]), help="Guests to boot (default: all).")
def main(names: tuple[str, ...]) -> None:
    """Boot Debian's kernels and other guests on the software CPU and check what they do."""
    console = Console()
    held = failed = 0
    try:
        for name in names or (*KERNELS, *OTHER_GUESTS):
            with console.status(f"getting {name}"):
                runs = scenarios_of(name)
            for title, cpu, run in runs:
                good, bad = panel(console, title, cpu, run)
                held, failed = held + good, failed + bad
    except (GuestError, OSError) as error:
        console.print(f"linux: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
    console.print(f"{held} claims hold, {failed} fail", style="red" if failed else "green")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
