"""The command `trapgate`: what it can be asked, and how every failure ends in one line and an exit status."""

import contextlib
import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from trapgate.cli import completion, errors, habits, streams
from trapgate.cli.options import BusLockChoice, BusLocks, GdbAddress, GdbArchitecture, PhysicalAddress, Size, Where, WhereChoice
from trapgate.debug.buslock import Mode
from trapgate.errors import TrapgateError
from trapgate.hostcall import HostError, refusal
from trapgate.kvm.ioctl import KvmError

if TYPE_CHECKING:
    from trapgate.gdb.address import Address
    from trapgate.gdb.architecture import Architecture

COLLECT = (200_000, 100, 100)  # modules and what the translator keeps are no garbage: searching them took a third of a boot's time
SWITCH = 0.0002  # s until a thread gets its turn while another runs Python: a timer, say, or the guest while a loop is compiled
FILE = click.Path(path_type=str)
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 120}

RUN_HELP = """Run a guest IMAGE until it ends.

IMAGE is recognised by its content: a Linux bzImage, an ELF with a PVH note, a multiboot ELF, or a flat binary (loaded at 7C00h, as
a boot sector, or where --load-at says). COM1 is your terminal: Ctrl-A x quits, Ctrl-A h helps; everything else, Ctrl-C too, goes
to the guest.

\b
Examples:
  A bare-metal guest:
    trapgate run kernel.elf
  The same, started by gdb:
    gdb kernel.elf -ex 'target remote | trapgate run kernel.elf --gdb stdio'
  The same, stopped at its first instruction; gdb joins from another terminal:
    trapgate run kernel.elf --gdb :1234 --wait
    gdb kernel.elf -ex 'target remote :1234'
  A boot sector; gdb shows 16-bit code, after `set architecture i386` or `i386:x86-64` that of the later modes:
    trapgate run boot.img --gdb :1234 --wait
  Linux:
    trapgate run bzImage --initrd initrd.gz --append console=ttyS0 -m 1G
  Xen, with Linux as its first domain:
    trapgate run xen --append "com1=115200 console=com1" -m 1G \\
        --module "vmlinuz console=hvc0" --module initrd.gz
  A CPU without the bus-lock trap:
    trapgate run bzImage --cpu EPYC-Turin,-bus-lock-detect
  Where the time goes, in a kernel whose symbols lie beside it (nokaslr: at the addresses that they name):
    trapgate run bzImage --initrd initrd.gz --append "console=ttyS0 nokaslr" --profile --symbols vmlinux
  Every bus lock as a line on standard error, at any privilege level:
    trapgate run test.elf --bus-locks report

--profile tells, in seconds and parts of the run, what translated code, translation, Python with the devices, and sleep took; then
each reason for which translated code was left, with how often, how long in all, and how long each; then the hottest guest code, by
function where symbols are known, by block where not. Guest code is sampled each millisecond that it runs, at the next block; not
with --clock instructions, which that would disturb. A run without --profile pays nothing for it. With --gdb, stops tell it, too,
when the guest has run for a second since.

\b
Exit status:
{statuses}
""".replace("{statuses}", "\n".join(f"  {status:<4} {meaning}" for status, meaning in errors.STATUSES))


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


@cli.command(cls=habits.Command, help=RUN_HELP, short_help="Run a guest until it ends.")
@click.argument("image", type=FILE)
@click.option(
    "--initrd", type=FILE, metavar="FILE", help="Initial RAM disk of a Linux kernel, or the module of a multiboot or PVH image."
)
@click.option(
    "--module",
    "modules",
    metavar="'FILE [TEXT]'",
    multiple=True,
    help="A module of a multiboot or PVH image, with a text for it; may be repeated, in order.",
)
@click.option("--append", "command_line", metavar="TEXT", default="", help="The kernel's command line.")
@click.option(
    "--load-at", type=PhysicalAddress(), metavar="ADDRESS", help="Load a flat binary there, and start it there in real mode."
)
@click.option("--memory", "-m", type=Size(), default="512M", show_default=True, help="Guest RAM: 512M, 2G; a plain number is MiB.")
@click.option("--cpus", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of vCPUs; this version runs one.")
@click.option(
    "--cpu", metavar="MODEL[,+F,-F]", shell_complete=completion.cpu_models, help="CPU model, with features added or taken away."
)
@click.option(
    "--engine",
    type=click.Choice(["soft", "kvm"]),
    default="soft",
    show_default=True,
    help="The CPU: our own, or the host's through /dev/kvm.",
)
@click.option(
    "--gdb",
    type=GdbAddress(),
    help="Listen for gdb: [HOST]:PORT or unix:PATH; :PORT is for this host only. stdio: for gdb's 'target remote | trapgate ...'.",
)
@click.option(
    "--gdb-arch",
    type=GdbArchitecture(),
    metavar="ARCH",
    help="What gdb is told that the guest is: auto (by image and CPU mode), i8086, i386, x86-64; any: what gdb's own file or "
    "'set architecture' says, through all modes.",
)
@click.option("--wait", is_flag=True, help="Start stopped; the debugger lets the guest go.")
@click.option("--serial", type=Where("stdio", "pty"), default="stdio", show_default=True, help="COM1: stdio, file:PATH or pty.")
@click.option(
    "--debugcon",
    type=Where("stderr", "stdout", "none"),
    default="stderr",
    show_default=True,
    help="The debug console at port E9h: stderr, stdout, file:PATH or none.",
)
@click.option(
    "--bus-locks",
    type=BusLocks(),
    default="off",
    show_default=True,
    help="off; report: a line for each bus lock; stop: the debugger stops there; both with :user or :kernel for those alone; "
    "limit:N: report, and at most N a second.",
)
@click.option(
    "--clock",
    type=click.Choice(["host", "instructions"]),
    default="host",
    show_default=True,
    help="What guest time follows; with instructions, runs repeat exactly.",
)
@click.option("--profile", is_flag=True, help="At the end, and when gdb stops the guest: where the time went, and hot guest code.")
@click.option(
    "--symbols",
    type=FILE,
    metavar="FILE",
    help="ELF file or System.map with names for --profile, --bus-locks; else those of IMAGE.",
)
@click.option("--no-sandbox", is_flag=True, help="Do not bar this process from what no guest needs of the host (SECURITY.md).")
def run(
    image: str,
    initrd: str | None,
    modules: tuple[str, ...],
    command_line: str,
    load_at: int | None,
    memory: int,
    cpus: int,
    cpu: str | None,
    engine: str,
    gdb: "Address | None",
    gdb_arch: "Architecture | None",
    wait: bool,
    serial: WhereChoice,
    debugcon: WhereChoice,
    bus_locks: BusLockChoice,
    clock: str,
    profile: bool,
    symbols: str | None,
    no_sandbox: bool,
) -> int:
    """Check what options mean together, then run."""
    if gdb_arch is not None and gdb is None:
        raise click.UsageError("--gdb-arch says what gdb is told; it needs --gdb")
    if wait and gdb is None:
        raise click.UsageError("--wait needs --gdb, or nobody could let the guest go")
    if bus_locks.mode is Mode.STOP and gdb is None:
        raise click.UsageError("--bus-locks stop needs --gdb; without a debugger use --bus-locks report")
    if profile and engine != "soft":
        raise click.UsageError("--profile looks into our own CPU; it needs --engine soft")
    if symbols is not None and not profile and bus_locks.mode is Mode.OFF:
        raise click.UsageError("--symbols gives names to --profile and --bus-locks; add one of them")
    if cpu is not None and (answer := habits.of_value("--cpu", cpu)) is not None:
        raise click.UsageError(answer)
    from trapgate.cli import run as runner  # the translator is loaded only by the commands that run a guest

    request = runner.Request(
        image,
        initrd,
        modules,
        command_line,
        memory,
        cpus,
        cpu,
        engine,
        gdb,
        wait,
        serial,
        debugcon,
        bus_locks,
        clock,
        profile,
        symbols,
        load_at,
        gdb_arch,
        not no_sandbox,
    )
    return runner.run(request)


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

With --spawn the monitor is started anew whenever a case breaks it: {image} is the guest as a 64-bit ELF with a PVH note,
{multiboot} the same for loaders of 32-bit multiboot images, {port} the TCP port for its stub. With --gdb it runs already, with an
image of --write-images.

\b
Examples:
    trapgate check --spawn 'trapgate run {image} --gdb :{port} --wait'
    trapgate check --spawn 'qemu-system-x86_64 -cpu max -nodefaults -display none -S -gdb tcp::{port} -kernel {image}'
    trapgate check --gdb :1234 --manner hbreak --junit results.xml

Exit status: 0 when every row is right or its CPU or stub lacks what the row takes, 1 when one is wrong or could not be run.
"""


@cli.command(help=CHECK_HELP, short_help="Other monitors' debug exceptions, as a table.")
@click.option("--gdb", type=GdbAddress(), metavar="[HOST]:PORT", help="The stub of a monitor that runs the image already.")
@click.option("--spawn", metavar="COMMAND", help="How to start the monitor, with {image} or {multiboot}, and {port} in it.")
@click.option("--manner", "manners", multiple=True, metavar="NAME", help="Only what the debugger does by this name (repeatable).")
@click.option("--case", "cases", multiple=True, metavar="NAME", help="Only the case of this name (repeatable).")
@click.option("--json", "as_json", type=click.Path(dir_okay=False, path_type=Path), help="Write the results there as JSON.")
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="Write the results there as JUnit XML.")
@click.option("--write-images", type=click.Path(file_okay=False, exists=True, path_type=Path), help="Only leave both images there.")
def check(
    gdb: "Address | None",
    spawn: str | None,
    manners: tuple[str, ...],
    cases: tuple[str, ...],
    as_json: Path | None,
    junit: Path | None,
    write_images: Path | None,
) -> int:
    """See CHECK_HELP."""
    from trapgate.cli import check as checking

    if write_images is not None:
        return checking.write_images(write_images)
    if (gdb is None) == (spawn is None):
        raise click.UsageError("give the monitor by one of --gdb and --spawn")
    return checking.run(checking.Choice(gdb, spawn, manners, cases, as_json, junit))


@cli.command(short_help="What this host offers.")
def doctor() -> int:
    """What this host offers: LLVM, executable memory, what a sandbox takes, gdb, /dev/kvm and what its KVM can do, caches.

    Exit status: 0 when guests can run here, 1 when something that they need is missing.
    """
    from trapgate.cli import doctor as examination

    return examination.run()


@cli.group()
def cache() -> None:
    """What trapgate keeps on disk: stencils and translated guest code."""


@cache.command("show")
def cache_show() -> int:
    """Where the caches are, and how large."""
    from trapgate.cli import cache as caches

    return caches.show()


@cache.command("clear")
@click.option("--stencils", is_flag=True, help="Only the stencils; they are built again at the next run.")
@click.option("--translations", is_flag=True, help="Only translated guest code.")
def cache_clear(stencils: bool, translations: bool) -> int:
    """Delete what is cached: all of it, or one kind."""
    from trapgate.cli import cache as caches

    both = stencils == translations
    return caches.clear(stencils=both or stencils, translations=both or translations)


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
    sys.setswitchinterval(SWITCH)
    sys.exit(_flushed(status_of(None)))


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
