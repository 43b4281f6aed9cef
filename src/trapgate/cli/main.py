"""Takes the command `trapgate`: what it can be asked, and how every failure ends in one line and an exit status."""

import contextlib
import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from trapgate.cli import completion, errors, streams
from trapgate.cli.buslocks_command import find_bus_locks
from trapgate.cli.cache_command import cache
from trapgate.cli.exec_command import execute
from trapgate.cli.options import FILE, GdbAddress
from trapgate.cli.report_command import scan, tell_again
from trapgate.cli.run_command import replay, run
from trapgate.errors import TrapgateError
from trapgate.hostcall import HostError, refusal
from trapgate.kvm.ioctl import KvmError

if TYPE_CHECKING:
    from trapgate.gdb.address import Address

COLLECT = (200_000, 100, 100)  # modules and what the translator keeps are no garbage: searching them took a third of a boot's time
SWITCH = 0.0002  # s until a thread gets its turn while another runs Python: a timer, say, or the guest while a loop is compiled
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


@click.group(context_settings=CONTEXT)
@click.version_option(None, "-V", "--version", package_name="trapgate", prog_name="trapgate", message="%(prog)s %(version)s")
def cli() -> None:
    """A virtual machine monitor for x86-64, made for debugging guests.

    Attach gdb to a running guest, and every debug exception reaches its rightful owner: the debugger's the debugger, the guest's
    own, bus-lock traps included, the guest.

    \b
    Start with:
      trapgate demo     every debug exception under a real debugger
      trapgate doctor   what this host offers
      trapgate run kernel.elf --gdb :1234 --wait
                        your own guest, waiting for gdb
    """


cli.add_command(run)
cli.add_command(replay)
cli.add_command(execute)
cli.add_command(find_bus_locks)
cli.add_command(tell_again)
cli.add_command(scan)


@cli.command(short_help="Every debug exception under a real debugger, as a table.")
@click.option("--quiet", "-q", is_flag=True, help="No table; only the exit status, and a line for each row that is wrong.")
def demo(quiet: bool) -> int:
    """Every debug exception, who got it and what the guest read, as a table.

    Runs the bundled guest twice, alone and under a real gdb, and compares what its exception handler read with the manual.

    Exit status: 0 when every row is right, 1 when one is not.
    """
    from trapgate.cli import demo as demonstration

    return demonstration.run(quiet)


CHECK_HELP = """Check what becomes of a guest's debug exceptions in a monitor with a gdb stub.

The bundled guest arms its own breakpoints, single steps and bus-lock traps, case by case, while the debugger has nothing armed,
breakpoints and watchpoints elsewhere or in the way, and while it steps through everything. For each the table says whether the
guest read what the manuals say, or what instead; below it, who was stopped and what was lost.

With --spawn the monitor is started anew whenever a case breaks it: {image} is the guest as an ELF with a PVH note,
{multiboot} the same for loaders of multiboot images, {port} the TCP port for its stub. With --gdb it runs already, with an
image of --write-images. With --bits 32 it is the guest for 32-bit mode.

\b
Examples:
    trapgate check --spawn 'trapgate run {image} --gdb :{port} --wait'
    trapgate check --spawn 'qemu-system-x86_64 -cpu max -nodefaults -display none -S -gdb tcp::{port} -kernel {image}'
    trapgate check --gdb :1234 --manner hbreak --junit results.xml

Exit status: 0 when every row is right or its CPU or stub lacks what the row takes, 1 when one is wrong or could not be run.
"""


@cli.command("demo-guest", hidden=True)
@click.argument("socket", required=False)
@click.option("--engine", default="soft")
def demo_guest(socket: str | None, engine: str) -> int:
    """The guest of the demo, in a process of its own."""
    from trapgate.cli import demo_guest as apart

    return apart.serve(socket, engine)


@cli.command(help=CHECK_HELP, short_help="Other monitors' debug exceptions, as a table.")
@click.option("--gdb", type=GdbAddress(), metavar="[HOST]:PORT", help="The stub of a monitor that runs the image already.")
@click.option("--spawn", metavar="COMMAND", help="How to start the monitor, with {image} or {multiboot}, and {port} in it.")
@click.option("--manner", "manners", multiple=True, metavar="NAME", help="Only what the debugger does by this name (repeatable).")
@click.option("--case", "cases", multiple=True, metavar="NAME", help="Only the case of this name (repeatable).")
@click.option("--json", "as_json", type=click.Path(dir_okay=False, path_type=Path), help="Write the results there as JSON.")
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="Write the results there as JUnit XML.")
@click.option(
    "--patience", type=click.FloatRange(min=0.1, max=3600), default=10, show_default=True, metavar="SECONDS",
    help="How long a case, or a step, may take.",
)  # fmt: skip
@click.option("--bits", type=click.Choice(("64", "32")), default="64", show_default=True, help="The mode of the guest.")
@click.option("--write-images", type=click.Path(file_okay=False, exists=True, path_type=Path), help="Only leave all images there.")
def check(
    gdb: "Address | None",
    spawn: str | None,
    manners: tuple[str, ...],
    cases: tuple[str, ...],
    as_json: Path | None,
    junit: Path | None,
    patience: float,
    bits: str,
    write_images: Path | None,
) -> int:
    """See CHECK_HELP."""
    from trapgate.cli import check as checking

    if write_images is not None:
        return checking.write_images(write_images)
    if (gdb is None) == (spawn is None):
        raise click.UsageError("give the monitor by one of --gdb and --spawn")
    return checking.run(checking.Choice(gdb, spawn, manners, cases, as_json, junit, patience, bits))


EXPLAIN_HELP = """Make of a line in the kernel's log the instruction, function and line of source that locked the bus.

TEXT is a line that Linux wrote of a split lock or bus lock, as dmesg prints it; or the address of an instruction; or -, for a log
on standard input, of which every such line is explained once. Linux tells an address only, and of a bus lock that of the
instruction behind it: this finds the one in front, by decoding its function.

Where to look: the process, if it still runs under the name that was told, or --pid; a copy of its /proc/PID/maps; its core dump; or
its program and libraries alone (--exe, repeatable), of which all instructions are shown that lie so in their pages.

\b
Examples:
    trapgate explain '#DB: server/4711 took a bus_lock trap at address: 0x55d0c8a0117a'
    dmesg | trapgate explain - --exe ./server --exe /lib/x86_64-linux-gnu/libc.so.6
    trapgate explain 0x401076 --exe ./static-program

Exit status: 0 when all was explained, 1 when something could not be, 2 for wrong usage.
"""


@cli.command(help=EXPLAIN_HELP, short_help="Which instruction locked the bus, by what the kernel's log says.")
@click.argument("text")
@click.option("--exe", "files", type=FILE, multiple=True, metavar="FILE", help="A program or library that it may be in.")
@click.option("--pid", type=click.IntRange(min=1), help="A process that has it mapped.")
@click.option("--maps", type=FILE, metavar="FILE", help="A copy of the process's /proc/PID/maps.")
@click.option("--core", type=FILE, metavar="FILE", help="A core dump of the process.")
def explain(text: str, files: tuple[str, ...], pid: int | None, maps: str | None, core: str | None) -> int:
    """See EXPLAIN_HELP."""
    from trapgate.cli import explain as explanation

    if sum((bool(files), pid is not None, maps is not None, core is not None)) > 1:
        raise click.UsageError("look at one of --exe, --pid, --maps and --core")
    return explanation.run(explanation.Choice(text, files, pid, maps, core))


@cli.command(short_help="What this host offers.")
def doctor() -> int:
    """What this host offers: LLVM, executable memory, what a sandbox takes, gdb, /dev/kvm and what its KVM can do, caches.

    Exit status: 0 when guests can run here, 1 when something that they need is missing.
    """
    from trapgate.cli import doctor as examination

    return examination.run()


cli.add_command(cache)


@cli.command("completion", short_help="What makes Tab complete commands and options in bash, zsh or fish.")
@click.argument("shell", type=click.Choice(completion.SHELLS))
def completion_of(shell: str) -> None:
    """Print what makes Tab complete commands, options and values.

    \b
    To have it in every new shell, put this line:
      ~/.bashrc                    eval "$(trapgate completion bash)"
      ~/.zshrc, after compinit     eval "$(trapgate completion zsh)"
      ~/.config/fish/config.fish   trapgate completion fish | source
    """
    click.echo(completion.script(cli, shell))


def status_of(arguments: list[str] | None) -> int:
    """Run one command line; every expected failure becomes one line on standard error and its status."""
    try:
        if arguments is None and (asked := os.environ.get(completion.ASKED)):
            return completion.answer(cli, asked)
        with cli.make_context("trapgate", list(sys.argv[1:] if arguments is None else arguments)) as context:
            result = cli.invoke(context)  # not cli.main: that would settle a closed pipe in its own way
        return result if isinstance(result, int) else errors.OK
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        return errors.USAGE
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "trapgate"
        return _fail(f"{error.format_message().rstrip('.')} (see '{where} --help')", errors.USAGE)
    except click.ClickException as error:
        return _fail(error.format_message(), errors.USAGE)
    except errors.Failure as error:
        return _fail(str(error), error.status)
    except (HostError, KvmError) as error:
        return _fail(str(error), errors.HOST_FAILURE)
    except TrapgateError as error:
        return _fail(str(error), errors.USAGE)
    except (click.Abort, KeyboardInterrupt):
        return errors.INTERRUPTED
    except BrokenPipeError:  # the reader of our output left; so do we, without another complaint at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return errors.OUTPUT_CLOSED
    except Exception as error:
        if os.environ.get("TRAPGATE_DEBUG"):
            raise
        if (lack := refusal(error)) is not None:
            return _fail(lack, errors.HOST_FAILURE)
        text = f"{type(error).__name__}: {error}; set TRAPGATE_DEBUG=1 for the traceback and report it"
        return _fail(f"internal error: {text}", errors.INTERNAL)


def _fail(text: str, status: int) -> int:
    click.echo("trapgate: error: " + " ".join(text.split()), err=True)
    return status


def main() -> NoReturn:
    """The console entry point."""
    with contextlib.suppress(OSError):  # `entry` has done it, where that was what began
        streams.fill()
    gc.set_threshold(*COLLECT)
    gc.enable()
    sys.setswitchinterval(SWITCH)
    status = _flushed(status_of(None))
    gc.freeze()  # nor is it garbage at the end, where Python would search all of it three times
    sys.exit(status)


def _flushed(status: int) -> int:
    """The status of a command whose output is out; that of a failure when it cannot be written."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return errors.OUTPUT_CLOSED
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _fail(f"standard output cannot be written: {error.strerror}", errors.HOST_FAILURE)
    return status
