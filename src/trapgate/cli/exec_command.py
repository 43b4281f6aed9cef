"""Says what `trapgate exec` can be asked, and how it answers: its help."""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING

import click

from trapgate.cli.options import FILE, Size
from trapgate.values import replace

if TYPE_CHECKING:
    from trapgate.cli.exec import Choice

EXEC_HELP = """Run a program of this host in a Linux guest on the software CPU, as if it ran here.

The guest has the host's files, read-only, and a layer in memory over them: what the program writes is gone when it ends, but below
each --write. It has this process's user, groups, directory, environment, umask, limits, standard streams and terminal. There is
no network but the loopback, or with --net user the host's, through passt: its own loopback is 10.0.2.2.

The first use fetches Debian's kernel, boots it and keeps the booted machine (trapgate cache show), which takes some seconds; from
then on the program runs within a second.

\b
Examples:
  trapgate exec ls -l /usr
  tar c . | trapgate exec --timeout 60 ./parser > out
  trapgate exec --write build -m 2G make -C build
  trapgate exec -- sh -c 'echo $$; uname -a'

\b
Exit status: that of the program; killed by a signal, so is this process (a shell has 128 plus its number). Of trapgate itself:
  2    wrong usage, or no kernel for the guest can be had
  3    the guest or the host failed, not the program
  124  --timeout passed
  126  PROG cannot be executed; 127: there is none
"""


_PROGRAM = (
    click.argument("program", metavar="PROG"),
    click.argument("arguments", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED),
)
_GUEST = (
    click.option(
        "--share", default="/", show_default=True, metavar="DIR", type=FILE, help="The directory that is the guest's root."
    ),
    click.option(
        "--write",
        "writes",
        multiple=True,
        metavar="DIR",
        type=FILE,
        help="What the program changes below DIR stays; may be repeated.",
    ),
    click.option("--memory", "-m", type=Size(), default="1G", show_default=True, help="Guest RAM, for files written as well."),
    click.option(
        "--cpus",
        type=click.IntRange(1, 64),
        default=1,
        show_default=True,
        help="Number of vCPUs, which take turns on one of the host's.",
    ),
    click.option(
        "--net",
        type=click.Choice(["user"]),
        help="The program reaches this host's network, through passt; this host's loopback is 10.0.2.2.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="S",
        help="End the guest when the program has run S seconds.",
    ),
    click.option(
        "--kernel",
        type=FILE,
        metavar="FILE",
        help="A bzImage with modules beside it or in /lib/modules, or a package linux-image-*.deb.",
    ),
    click.option("--no-sandbox", is_flag=True, help="Do not bar this process from what no guest needs of the host (SECURITY.md)."),
)


def sets_up_a_guest(command: Callable[..., int]) -> Callable[..., int]:
    """A command's options where it runs programs in guests: it gets them as one `Choice`, as yet without a program."""

    @wraps(command)
    def chosen(
        *,
        share: str,
        writes: tuple[str, ...],
        memory: int,
        cpus: int,
        net: str | None,
        timeout: float | None,
        kernel: str | None,
        no_sandbox: bool,
        **more: object,
    ) -> int:
        from trapgate.cli.exec import Choice

        return command(Choice((), share, writes, memory, cpus, net is not None, timeout, kernel, not no_sandbox), **more)

    for one in reversed(_GUEST):
        chosen = one(chosen)
    return chosen


def runs_a_program(command: Callable[..., int]) -> Callable[..., int]:
    """A command's arguments and options where it runs one program in a guest: it gets them as one `Choice`."""

    @wraps(command)
    def chosen(choice: "Choice", *, program: str, arguments: tuple[str, ...], **more: object) -> int:
        return command(replace(choice, program=(program, *arguments)), **more)

    whole = sets_up_a_guest(chosen)
    for one in reversed(_PROGRAM):
        whole = one(whole)
    return whole


@click.command(
    "exec",
    help=EXEC_HELP,
    short_help="Run a program of this host in a guest.",
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS] [--]",
)
@runs_a_program
def execute(choice: "Choice") -> int:
    """See EXEC_HELP."""
    from trapgate.cli import exec as execution

    return execution.run(choice)
