"""Takes `trapgate run` and `trapgate replay`: their options, and which of them do not go together."""

from typing import TYPE_CHECKING

import click

from trapgate.cli import completion, errors, habits
from trapgate.cli.options import (
    FILE,
    BusLockChoice,
    BusLocks,
    DiskChoice,
    DiskImage,
    GdbAddress,
    GdbArchitecture,
    PhysicalAddress,
    ShareChoice,
    SharedDirectory,
    Size,
    Where,
    WhereChoice,
)
from trapgate.debug.buslock import Mode
from trapgate.stops import ExitKind

if TYPE_CHECKING:
    from trapgate.gdb.address import Address
    from trapgate.gdb.architecture import Architecture

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
  What a disk image starts by itself, by a boot sector, GRUB, ...: firmware runs first, the host's SeaBIOS (package seabios)
    trapgate run --disk debian.img -m 1G
  Xen, with Linux as its first domain:
    trapgate run xen --append "com1=115200 console=com1" -m 1G \\
        --module "vmlinuz console=hvc0" --module initrd.gz
  Linux with a directory of this host, by a kernel with virtio_mmio and virtiofs; in the guest: mount -t virtiofs share /mnt
    trapgate run bzImage --initrd initrd.gz --append console=ttyS0 --share ~/src
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


@click.command(cls=habits.Command, help=RUN_HELP, short_help="Run a guest until it ends.")
@click.argument("image", type=FILE, required=False)
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
@click.option(
    "--disk",
    "disks",
    type=DiskImage(),
    metavar="FILE[,ro][,snapshot][,raw]",
    multiple=True,
    help="A raw disk image, as a virtio block device; may be repeated, in order. ro: read only; snapshot: FILE stays as it is; "
    "raw: it is one, though it looks like another format.",
)
@click.option(
    "--cdrom",
    "cds",
    type=FILE,
    metavar="FILE",
    multiple=True,
    help="The image of a CD or DVD (ISO), in a drive behind a virtio SCSI host; may be repeated. It starts where no --disk does.",
)
@click.option(
    "--share",
    "shares",
    type=SharedDirectory(),
    metavar="DIR[,rw|,lasting][,tag=T]",
    multiple=True,
    help="A directory of this host, read only, in the guest: mount -t virtiofs share /mnt. rw: the guest may write there; lasting: "
    "nothing changes there, so it asks once. T: the name to mount by, instead of share, share2, ...; may be repeated.",
)
@click.option(
    "--net",
    type=click.Choice(["user"]),
    help="A virtio network device that leads to this host's network through passt: DHCP gives the guest 10.0.2.15; this host's "
    "loopback is 10.0.2.2.",
)
@click.option("--rng", is_flag=True, help="A virtio entropy device; with --clock instructions it gives the same bytes in each run.")
@click.option(
    "--firmware",
    type=FILE,
    metavar="FILE",
    help="PC firmware to start instead of an IMAGE: SeaBIOS for machines without PCI, which boots the first --disk. Without both "
    "it is the host's, of the package seabios.",
)
@click.option("--append", "command_line", metavar="TEXT", default="", help="The kernel's command line.")
@click.option(
    "--load-at", type=PhysicalAddress(), metavar="ADDRESS", help="Load a flat binary there, and start it there in real mode."
)
@click.option("--memory", "-m", type=Size(), default="512M", show_default=True, help="Guest RAM: 512M, 2G; a plain number is MiB.")
@click.option("--cpus", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of vCPUs; with --engine kvm, one.")
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
@click.option("--no-reboot", is_flag=True, help="End the run when the guest resets the machine, instead of starting it again.")
@click.option(
    "--on-triple-fault",
    type=click.Choice(["stop", "reset"]),
    default="stop",
    show_default=True,
    help="stop: the run ends, with what led to it; reset: that is told, and the guest starts again, as on hardware.",
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
    multiple=True,
    metavar="FILE",
    help="ELF file or System.map with names for --profile, --bus-locks; else those of IMAGE. Repeatable: kernel, programs.",
)
@click.option(
    "--save",
    type=FILE,
    metavar="FILE",
    help="Write the machine to a file when the run ends; with --gdb, when the debugger says: monitor snapshot save.",
)
@click.option("--restore", type=FILE, metavar="FILE", help="Go on with the machine in such a file, instead of an IMAGE.")
@click.option(
    "--record",
    type=FILE,
    metavar="FILE",
    help="Record the guest, so that gdb can go back in it, and trapgate replay FILE anywhere. Time follows instructions then.",
)
@click.option(
    "--record-limit",
    type=Size(),
    default="1G",
    show_default=True,
    help="Memory for going back, besides a copy of guest RAM; what is too much is thinned out.",
)
@click.option("--no-sandbox", is_flag=True, help="Do not bar this process from what no guest needs of the host (SECURITY.md).")
def run(
    image: str | None,
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
    symbols: tuple[str, ...],
    save: str | None,
    restore: str | None,
    record: str | None,
    record_limit: int,
    no_sandbox: bool,
    disks: tuple[DiskChoice, ...],
    cds: tuple[str, ...],
    shares: tuple[ShareChoice, ...],
    rng: bool,
    net: str | None,
    firmware: str | None,
    no_reboot: bool,
    on_triple_fault: str,
) -> int:
    """Check what options mean together, then run."""
    if restore is not None:
        _alone_with_restore()
    elif image is None:
        firmware = _firmware(firmware, bool(disks or cds))
    elif firmware is not None:
        raise click.UsageError("--firmware starts what a disk holds, instead of an IMAGE: leave out one of them")
    if gdb_arch is not None and gdb is None:
        raise click.UsageError("--gdb-arch says what gdb is told; it needs --gdb")
    if wait and gdb is None:
        raise click.UsageError("--wait needs --gdb, or nobody could let the guest go")
    if bus_locks.mode is Mode.STOP and gdb is None:
        raise click.UsageError("--bus-locks stop needs --gdb; without a debugger use --bus-locks report")
    if cpus > 1 and engine != "soft":
        raise click.UsageError(f"--cpus {cpus}: several vCPUs are our own CPU's; it needs --engine soft")
    if profile and engine != "soft":
        raise click.UsageError("--profile looks into our own CPU; it needs --engine soft")
    if symbols and not profile and bus_locks.mode is Mode.OFF:
        raise click.UsageError("--symbols gives names to --profile and --bus-locks; add one of them")
    if cpu is not None and (answer := habits.of_value("--cpu", cpu)) is not None:
        raise click.UsageError(answer)
    if no_reboot and on_triple_fault == "reset":
        raise click.UsageError("--on-triple-fault reset starts the guest again, --no-reboot does not: leave out one of them")
    if record is not None:
        _can_be_recorded(engine, {"disk": bool(disks or cds), "share": bool(shares), "network": net is not None})
    from trapgate.cli import run as runner  # the translator is loaded only by the commands that run a guest
    from trapgate.cli.request import Request

    request = Request(
        image or restore or firmware or "",
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
        disks,
        save,
        restore is not None,
        rng,
        shares,
        record,
        record_limit,
        firmware=firmware is not None,
        cds=cds,
        net=net is not None,
        reboots=_reboots(no_reboot or record is not None, on_triple_fault),
    )
    return runner.run(request)


def _reboots(never: bool, on_triple_fault: str) -> frozenset[ExitKind]:
    """The ends behind which the guest begins again. A recording has one start, so a recorded guest does not."""
    if never:
        return frozenset()
    return frozenset({ExitKind.RESET} | ({ExitKind.SHUTDOWN} if on_triple_fault == "reset" else set()))


def _firmware(given: str | None, disks: bool) -> str:
    """The firmware that starts what there are disks for. UsageError: nothing to start. ImageError: this host has none."""
    if given is None and not disks:
        raise click.UsageError("Missing argument 'IMAGE', or a --disk or --cdrom for firmware to start.")
    for name in ("initrd", "modules", "command_line", "load_at"):
        if click.get_current_context().params[name]:
            raise click.UsageError(
                "firmware starts what a disk holds: initrd, modules, command line and load address go with an IMAGE"
            )
    from trapgate.boot import firmware

    return given or str(firmware.find())


def _can_be_recorded(engine: str, given_besides: dict[str, bool]) -> None:
    """UsageError for what a recording cannot have."""
    given = click.get_current_context().get_parameter_source("clock") is click.core.ParameterSource.COMMANDLINE
    if given and click.get_current_context().params["clock"] == "host":
        raise click.UsageError("--record has guest time follow instructions; leave out --clock host")
    if engine != "soft":
        raise click.UsageError("--record records our own CPU; it needs --engine soft")
    for name, there in given_besides.items():
        if there:
            raise click.UsageError(f"--record does not keep what comes from a {name}; use an initial RAM disk")


REPLAY_HELP = """Replay a recording of trapgate run --record: the guest does what it did, instruction by instruction.

Everything that reached it comes again at the same instruction, so it says the same, to the last byte; of a recording that was cut
short, by SIGKILL even, up to the cut. With --gdb the guest waits, and gdb goes both ways: reverse-stepi, reverse-step,
reverse-continue to the last breakpoint or change of what it watches; monitor when, goto N, last-write ADDRESS. A debugger that
changes something takes the guest another way from there. The file serves on any host whose CPU has the same features, with the
version of trapgate that wrote it.

\b
Examples:
    trapgate run test.elf --record test.rec
    trapgate replay test.rec
    trapgate replay test.rec --gdb :1234

Exit status: that of the guest, as of trapgate run; 1 when the recording ends before the guest does.
"""


@click.command(help=REPLAY_HELP, short_help="Replay a recorded guest, with gdb also backwards.")
@click.argument("file", type=FILE)
@click.option("--gdb", type=GdbAddress(), help="Listen for gdb, as trapgate run does; the guest waits for it.")
@click.option(
    "--record-limit", type=Size(), default="1G", show_default=True, help="Memory for going back, besides a copy of guest RAM."
)
@click.option("--no-sandbox", is_flag=True, help="Do not bar this process from what no guest needs of the host (SECURITY.md).")
def replay(file: str, gdb: "Address | None", record_limit: int, no_sandbox: bool) -> int:
    """See REPLAY_HELP."""
    from trapgate.cli import run as runner
    from trapgate.cli.recording import request

    return runner.run(request(file, gdb, record_limit, not no_sandbox))


def _alone_with_restore() -> None:
    """With --restore the file says what the machine is. UsageError for what would say so as well."""
    context = click.get_current_context()
    decided = ("image", "firmware", "initrd", "modules", "command_line", "load_at", "memory", "cpus", "cpu", "clock")
    for one in context.command.params:
        given = context.get_parameter_source(one.name or "") is click.core.ParameterSource.COMMANDLINE
        if one.name in decided and given and context.params[one.name]:
            raise click.UsageError(f"with --restore the file says what the machine is: leave out {one.human_readable_name}")
