"""Says what `trapgate buslocks` can be asked, and how it answers: its help."""

from typing import TYPE_CHECKING

import click

from trapgate.cli.exec_command import runs_a_program
from trapgate.cli.reporting_options import reports

if TYPE_CHECKING:
    from trapgate.cli.exec import Choice
    from trapgate.cli.reporting import Reporting

BUSLOCKS_HELP = """Run a program of this host in a guest, and tell which line of it, or of a library, locks the bus.

A locked instruction (LOCK prefix, or XCHG with memory) whose operand crosses a line of 64 bytes holds up every CPU of the machine
while it runs; kernels slow programs down that do so, or kill them. No special CPU, no root, no change of the program: it runs as
with `trapgate exec`, with all the processes and threads that it makes.

Standard output is the program's. The report follows on standard error, or goes to -o FILE: for each instruction the file, function,
line of source (where there is debug information: -g), what it locks, who called, which processes did it how often, and a SUMMARY
line. With --format FORMAT:FILE it is written there, in several formats at once.

\b
  TG0001  split lock: the operand crosses a line
  TG0002  lock on memory that is not write-back, wherever it lies

\b
Examples:
  trapgate buslocks ./program with its arguments
  trapgate buslocks --cpus 4 --timeout 600 -- make check
  trapgate buslocks --format json:report.json --format html:report.html python3 job.py
  trapgate buslocks --baseline report.json ./program      only what is new makes it fail

\b
Exit status: that of the program where nothing is found, or only what the baseline has, with --exit-zero,
and where Ctrl-C or another signal to this process ends it. Otherwise:
  1    something was found (or N, with --error-exitcode N)
  2    wrong usage, or no kernel for the guest can be had
  3    the guest or the host failed, not the program
  124  --timeout passed
  126  PROG cannot be executed; 127: there is none
"""


@click.command(
    "buslocks",
    help=BUSLOCKS_HELP,
    short_help="Tell which line of a program of this host locks the bus.",
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS] [--]",
)
@runs_a_program
@reports
def find_bus_locks(choice: "Choice", reporting: "Reporting") -> int:
    """See BUSLOCKS_HELP."""
    from trapgate.cli import buslocks

    return buslocks.run(choice, reporting)
