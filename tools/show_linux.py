"""Debian's unmodified kernels under trapgate, every claim checked, as a table (`make linux`). Exit status 1 when one fails."""

import sys
import time

import click
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tools import linux_guest
from tools.guests.packages import GuestError
from tools.guests.scenarios import SCENARIOS, Check, Guest

SHOWN = 5  # lines of evidence for a claim that held


def row(table: Table, check: Check) -> None:
    """A claim with its evidence; one that failed shows all of it."""
    seen = check.shown.splitlines()
    text = "\n".join(seen[:SHOWN] if check.passed else seen)
    table.add_row(Text("holds", "green") if check.passed else Text("FAILS", "bold red"), check.claim, Text(text, "dim"))


@click.command()
@click.option("--series", multiple=True, type=click.Choice(list(linux_guest.KERNELS)), help="Kernel series to boot (default: all).")
def main(series: tuple[str, ...]) -> None:
    """Boot Debian's cloud kernels on the software CPU and check what they do."""
    console = Console()
    failed = held = 0
    try:
        for name in series or tuple(linux_guest.KERNELS):
            with console.status(f"getting Debian's {name} cloud kernel"):
                guest = Guest(linux_guest.kernel(name), linux_guest.initramfs())
            for scenario in SCENARIOS:
                begin = time.monotonic()
                with console.status(f"Linux {name} on {scenario.cpu}: {scenario.name}"):
                    checks = scenario.run(guest, scenario.cpu)
                table = Table("", "claim", "seen", box=None, pad_edge=False)
                for check in checks:
                    row(table, check)
                console.print(
                    Panel(
                        table,
                        title=f"Linux {name}, {scenario.name}",
                        subtitle=f"--cpu {scenario.cpu}, {time.monotonic() - begin:.0f} s",
                    )
                )
                failed += sum(not check.passed for check in checks)
                held += sum(check.passed for check in checks)
    except (GuestError, OSError) as error:
        console.print(f"linux: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
    console.print(f"{held} claims hold, {failed} fail", style="red" if failed else "green")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
