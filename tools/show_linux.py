"""Debian's unmodified kernels and other guests, every claim checked, as a table (`make linux`).

What cannot be made here for want of a program is left out, and said at the start. Exit status 1 when a claim fails, a guest cannot
be had or run, or nothing could be checked.
"""

import sys
import time
from collections.abc import Callable, Iterable
from functools import partial

import click
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tools import linux_guest
from tools.guests.console import ConsoleError
from tools.guests.needs import told
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


def files_of(name: str) -> tuple[str, ...]:
    """The files that a kernel or another guest consists of, as `linux_guest` calls them."""
    if name in OTHER_GUESTS:
        return OTHER_GUESTS[name].needs
    return name, linux_guest.INITIAL_RAM_DISKS[KERNELS[name].architecture]


def possible(names: Iterable[str], console: Console) -> list[str]:
    """The guests that can be made here; of the others it is said what they lack."""
    lacked: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        lacked.setdefault(linux_guest.lacking_for(files_of(name)), []).append(name)
    good = lacked.pop((), [])
    for missing, without in lacked.items():
        say(console, f"left out: {', '.join(without)}: {told(missing)}", "yellow")
    return good


def say(console: Console, text: str, style: str) -> None:
    """One line of this command's own."""
    console.print(f"linux: {text}", style=style, markup=False, highlight=False, soft_wrap=True)


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
    wanted = names or (*KERNELS, *OTHER_GUESTS)
    chosen = possible(wanted, console)
    left_out = [name for name in wanted if name not in chosen]
    held = failed = 0
    broken: list[str] = []
    for name in chosen:
        try:
            with console.status(f"getting {name}"):
                runs = scenarios_of(name)
            for title, cpu, run in runs:
                good, bad = panel(console, title, cpu, run)
                held, failed = held + good, failed + bad
        except (GuestError, ConsoleError, OSError) as error:  # told, and the others go on
            say(console, f"{name}: {error}", "red")
            broken.append(name)
    wrong = failed or broken or not held
    told_of = {"left out": left_out, "could not be had or run": broken}
    rest = "".join(f"; {words}: {', '.join(found)}" for words, found in told_of.items() if found)
    console.print(f"{held} claims hold, {failed} fail{rest}", style="red" if wrong else "green", soft_wrap=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
