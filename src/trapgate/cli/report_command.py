"""Says what `trapgate report` and `trapgate scan` can be asked, and how they answer: their help."""

import re
from typing import TYPE_CHECKING, Any

import click

from trapgate.cli.exec_command import sets_up_a_guest
from trapgate.cli.options import FILE
from trapgate.cli.reporting_options import reports

if TYPE_CHECKING:
    from trapgate.cli.exec import Choice
    from trapgate.cli.reporting import Reporting

REPORT_HELP = """Tell reports again that `trapgate buslocks` and `trapgate scan` have kept as JSON.

In any format; several become one, in which the same finding is told once. A directory stands for all reports in it. On standard
output, or in files. Suppressions and baseline are those of this command, not of the run.

\b
Examples:
  trapgate buslocks --format json:kept.json ./program
  trapgate report kept.json
  trapgate report results/ --format html:page.html --format sarif:results.sarif

\b
Exit status:
  0    nothing is in them, or only what the baseline has, or --exit-zero
  1    something is (or N, with --error-exitcode N)
  2    wrong usage, or a file that is no report
  3    what is told cannot be written
"""

SCAN_HELP = """Look for bus locks in many programs, each in a guest of its own, and make one report.

SOURCE is a directory, whose programs and scripts run without arguments; or a file with a command in each line, as a shell has
words and comments; or -, for such lines on standard input. Their standard input is empty.

Each program has its result in --results DIR, and its output in a .log beside it; a scan that was ended goes on where it was, by the
same command. With --shard I/N it looks at every Nth program only, so that N machines do it together: give them one directory, or
put the results into one afterwards (`trapgate report DIR`). At the end all results that are there are told, on standard output or
in files.

\b
Examples:
  trapgate scan /usr/games --timeout 20
  trapgate scan commands.txt --jobs 4 --format html:page.html
  trapgate scan commands.txt --results /shared/results --shard 3/8

\b
Exit status:
  0    nothing was found, or only what the baseline has, or --exit-zero
  1    something was found (or N, with --error-exitcode N)
  2    wrong usage
  3    a guest or the host failed for some programs: the next scan looks at them again
"""


class Shard(click.ParamType[tuple[int, int]]):
    """I/N: the Ith of N parts."""

    name = "shard"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """(which, of how many); a usage error when it is none."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", str(value))
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            self.fail(f"{value!r} is no part: write it like 1/4, up to 4/4", param, ctx)
        return int(match[1]), int(match[2])


@click.command("report", help=REPORT_HELP, short_help="Tell kept reports again, in any format.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=FILE)
@reports
def tell_again(files: tuple[str, ...], reporting: "Reporting") -> int:
    """See REPORT_HELP."""
    from trapgate.cli import report

    return report.run(files, reporting)


@click.command("scan", help=SCAN_HELP, short_help="Look for bus locks in many programs.")
@click.argument("source", type=FILE)
@click.option("--results", default="trapgate-scan", show_default=True, metavar="DIR", type=FILE, help="Where results are kept.")
@click.option("--shard", type=Shard(), default=(1, 1), metavar="I/N", help="Look at the Ith of N parts only.")
@click.option("--jobs", type=click.IntRange(1, 256), default=1, show_default=True, metavar="N", help="Programs at once.")
@sets_up_a_guest
@reports
def scan(choice: "Choice", source: str, results: str, shard: tuple[int, int], jobs: int, reporting: "Reporting") -> int:
    """See SCAN_HELP."""
    from trapgate.cli import scan as scanning

    return scanning.run(scanning.Choice(source, results, shard, jobs, scanning.options_of(choice)), reporting)
