"""Answers options of QEMU, which are not taken, in one line each with the word that is used here."""

import re
from collections.abc import Iterator, Sequence

import click

_DISK = "write --disk FILE for a raw image, a virtio block device; without an IMAGE firmware boots from it"
_SCREEN = "no screen of its own: COM1 is your terminal already; leave it out"
_SHARE = "write --share DIR; in the guest: mount -t virtiofs share /mnt"
_NETWORK = "write --net user, or leave it out for no network"
_FIRMWARE = "write --firmware FILE, together with --disk; without it a disk is started by the host's SeaBIOS"
_DEVICE = "the machine's devices are fixed ('trapgate run --help'); leave it out"
_MACHINE = "there is one machine; leave it out"
_CONSOLE = "the monitor is part of gdb: --gdb :1234, then 'monitor help'"
_LOGGING = "write --profile for where the time went; a triple fault tells its exceptions by itself"

OPTIONS = {
    "-kernel": "give the kernel as IMAGE, without a word before it: trapgate run KERNEL",
    "-append": "write --append TEXT",
    "-initrd": "write --initrd FILE",
    "-smp": "write --cpus N",
    "-cpu": "write --cpu MODEL, or leave it out",
    "-s": "write --gdb :1234",
    "-S": "write --wait, together with --gdb :1234",
    "-gdb": "write --gdb :PORT or --gdb unix:PATH",
    "-serial": "write --serial stdio, --serial file:PATH or --serial pty",
    "-debugcon": "write --debugcon stdout or --debugcon file:PATH",
    "-icount": "write --clock instructions",
    "-enable-kvm": "write --engine kvm",
    "-accel": "write --engine soft or --engine kvm",
    "-monitor": _CONSOLE,
    "-qmp": _CONSOLE,
    **dict.fromkeys(("-nographic", "-curses", "-display", "-vga"), _SCREEN),
    "-cdrom": "write --cdrom FILE; without an IMAGE firmware boots from it where no --disk boots",
    **dict.fromkeys(("-hda", "-hdb", "-fda", "-drive", "-boot", "-blockdev", "-snapshot"), _DISK),
    "-no-reboot": "write --no-reboot",
    "-no-shutdown": "a power-off ends the run; leave it out",
    **dict.fromkeys(("-virtfs", "-fsdev"), _SHARE),
    **dict.fromkeys(("-net", "-nic", "-netdev"), _NETWORK),
    **dict.fromkeys(("-bios", "-pflash"), _FIRMWARE),
    **dict.fromkeys(("-device", "-chardev", "-global", "-rtc", "-usb"), _DEVICE),
    **dict.fromkeys(("-machine", "-M"), _MACHINE),
    **dict.fromkeys(("-d", "-D"), _LOGGING),
}
"""QEMU's options, with one dash, and what to do instead."""

VALUES = (
    ("--gdb", r"tcp:(?P<host>.*):(?P<port>\d+)(,.*)?", r"write --gdb \g<host>:\g<port>"),
    ("--gdb", r"(?P<port>\d+)", r"write --gdb :\g<port>"),
    (
        "--cpu",
        r"(host|max)(,.*)?",
        "a CPU is a model, for guests to run alike on every host; leave the option out for one",
    ),
    ("--serial", r"mon:stdio", "write --serial stdio, or leave it out; Ctrl-A h tells the keys"),
)
"""QEMU's values of options that are known here, too: the option, a pattern of the whole value, the answer."""


class Command(click.Command):
    """A command whose usage errors are told in QEMU's words where those were used."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click has it; a usage error with the word that is used here for what QEMU calls otherwise."""
        given = list(args)  # click takes them away one by one
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            answer = self._answer(given)
            if answer is None:
                raise
            raise click.UsageError(answer, ctx) from error

    def _answer(self, args: Sequence[str]) -> str | None:
        for option, value in self._pairs(args):
            if value is None:
                if option in OPTIONS:
                    return f"{option} is QEMU's: {OPTIONS[option]}"
            elif (answer := of_value(option, value)) is not None:
                return answer
        return None

    def _pairs(self, args: Sequence[str]) -> Iterator[tuple[str, str | None]]:
        """Every option of ours that takes a value, with it; every other word without one."""
        valued = {name for one in self.params if isinstance(one, click.Option) and not one.is_flag for name in one.opts}
        words = iter(args)
        for word in words:
            name, equals, value = word.partition("=")
            if word == "--":
                return
            if word in valued:
                yield word, next(words, "")
            elif equals and name in valued:
                yield name, value
            else:
                yield word, None


def of_value(option: str, value: str) -> str | None:
    """The answer to a value of an option that QEMU takes; None for any other."""
    for name, pattern, answer in VALUES:
        if name == option and (match := re.fullmatch(pattern, value)) is not None:
            return f"{option} {value} is QEMU's: {match.expand(answer)}"
    return None
