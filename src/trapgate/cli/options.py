"""Reads the values that options take, each from its text once: sizes, gdb addresses, where the serial line goes."""

import re
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from trapgate.cli.completion import beginning
from trapgate.debug.buslock import EVERY_LEVEL, KERNEL_LEVELS, LIMIT_MOST, USER_LEVEL, Mode
from trapgate.memory import PAGE_SIZE
from trapgate.values import dataclass

if TYPE_CHECKING:
    from trapgate.gdb.address import Address
    from trapgate.gdb.architecture import Architecture

LEVELS = {"user": USER_LEVEL, "kernel": KERNEL_LEVELS}
UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
MEMORY_LEAST = 1 << 20
MEMORY_MOST = 1 << 40  # a guest-physical address has 40 bits or more on every model

FILE = click.Path(path_type=str)


class Size(click.ParamType[int]):
    """RAM as 512M or 2G; a plain number is MiB, as QEMU has it. The value is in bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes; a usage error for anything that is no sensible RAM size."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([0-9]{1,15})([KMGT]?)(?:i?B)?", str(value).strip().upper().replace("IB", ""))
        if not match:
            self.fail(f"{value!r} is no size; write it like 512M or 2G", param, ctx)
        number, unit = match.groups()
        size = int(number) << UNITS[unit or "M"]
        if not MEMORY_LEAST <= size <= MEMORY_MOST:
            self.fail(f"{value} is outside 1M to 1T", param, ctx)
        if size % PAGE_SIZE:
            self.fail(f"{value} is not a multiple of 4K", param, ctx)
        return size


class GdbAddress(click.ParamType["Address"]):
    """[HOST]:PORT, unix:PATH or stdio. Without a host it is the loopback."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "Address":
        """The address; a usage error when it is none."""
        from trapgate.gdb.address import Address, AddressError, parse_address  # most runs have no debugger

        if isinstance(value, Address):
            return value
        try:
            return parse_address(str(value))
        except AddressError as error:
            self.fail(str(error), param, ctx)


class PhysicalAddress(click.ParamType[int]):
    """A guest-physical address: 0x7c00, 7C00h or 31744."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The address; a usage error when it is none."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"0x([0-9a-f]{1,16})|([0-9a-f]{1,16})h|([0-9]{1,19})", str(value).strip().lower())
        if not match:
            self.fail(f"{value!r} is no address; write it like 0x7c00", param, ctx)
        return int(match[3]) if match[3] else int(match[1] or match[2], 16)


class GdbArchitecture(click.ParamType["Architecture | None"]):
    """auto, which is None, or the name of an `Architecture`."""

    name = "architecture"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "Architecture | None":
        """The architecture; a usage error when there is none such."""
        from trapgate.gdb.architecture import Architecture  # most runs have no debugger

        if value is None or isinstance(value, Architecture) or str(value) == "auto":
            return None if str(value) == "auto" else value
        try:
            return Architecture(str(value))
        except ValueError:
            self.fail(f"{value!r} is none of auto, {', '.join(one.value for one in Architecture)}", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        """The words."""
        from trapgate.gdb.architecture import Architecture

        return beginning(("auto", *(one.value for one in Architecture)), incomplete)


@dataclass(frozen=True, slots=True)
class WhereChoice:
    """Where something that the guest sends goes: `kind` is a word, or file, with its `path`."""

    kind: str
    path: str = ""


class Where(click.ParamType[WhereChoice]):
    """One of some words, or file:PATH."""

    name = "where"

    def __init__(self, *words: str) -> None:
        self._words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> WhereChoice:
        """The choice; a usage error when it is none."""
        if isinstance(value, WhereChoice):
            return value
        kind, _, path = str(value).partition(":")
        if str(value) not in self._words and not (kind == "file" and path):
            self.fail(f"{value!r} is none of {', '.join(self._words)}, file:PATH", param, ctx)
        return WhereChoice(kind, path)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        """The words."""
        return beginning(self._words, incomplete)


@dataclass(frozen=True, slots=True)
class DiskChoice:
    """A disk image, and whether it is only read, what is written is forgotten at the end, or it is raw whatever it looks like."""

    path: str
    read_only: bool = False
    snapshot: bool = False
    raw: bool = False


class DiskImage(click.ParamType[DiskChoice]):
    """FILE, with any of ,ro ,snapshot ,raw after it."""

    name = "disk"
    _words = ("ro", "snapshot", "raw")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> DiskChoice:
        """The choice; a usage error for a word that is none. A comma that is none of ours belongs to the file's name."""
        if isinstance(value, DiskChoice):
            return value
        path, words = str(value), set[str]()
        while (found := path.rpartition(","))[2] in self._words:
            path = found[0]
            words.add(found[2])
        if not path:
            self.fail(f"{value!r} names no file", param, ctx)
        return DiskChoice(path, *(word in words for word in self._words))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        """The shell's files."""
        return [CompletionItem(incomplete, type="file")]


@dataclass(frozen=True, slots=True)
class ShareChoice:
    """A directory that the guest is given, by what tag ("": the usual one), and whether it may write there or all of it lasts."""

    path: str
    writable: bool = False
    lasting: bool = False
    tag: str = ""


class SharedDirectory(click.ParamType[ShareChoice]):
    """DIR, with ,rw or ,lasting and ,tag=T after it."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> ShareChoice:
        """The choice; a usage error for words that do not go together. A comma that is none of ours belongs to the name."""
        if isinstance(value, ShareChoice):
            return value
        path, words, tag = str(value), set[str](), ""
        while (found := path.rpartition(","))[2] in ("rw", "lasting") or found[2].startswith("tag="):
            path = found[0]
            if found[2].startswith("tag="):
                tag = found[2].removeprefix("tag=")
            else:
                words.add(found[2])
        if not path:
            self.fail(f"{value!r} names no directory", param, ctx)
        if len(words) > 1:
            self.fail(f"{value!r}: what the guest writes does not last as it is; leave out rw or lasting", param, ctx)
        return ShareChoice(path, "rw" in words, "lasting" in words, tag)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        """The shell's directories."""
        return [CompletionItem(incomplete, type="dir")]


@dataclass(frozen=True, slots=True)
class BusLockChoice:
    """What happens about bus locks at some CPLs; `limit`, how many a second, belongs to Mode.LIMIT."""

    mode: Mode
    limit: int = 0
    levels: tuple[int, ...] = EVERY_LEVEL


class BusLocks(click.ParamType[BusLockChoice]):
    """off, report, stop or limit:N; report and stop with :user (CPL 3) or :kernel (CPL 0 to 2) behind them."""

    name = "what"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> BusLockChoice:
        """The choice; a usage error when it is none."""
        if isinstance(value, BusLockChoice):
            return value
        if str(value) in ("off", "report", "stop"):
            return BusLockChoice(Mode(value))
        mode, colon, who = str(value).partition(":")
        if mode in ("report", "stop") and who in LEVELS and colon:
            return BusLockChoice(Mode(mode), levels=LEVELS[who])
        match = re.fullmatch(r"limit:([0-9]{1,15})", str(value))
        if not match:
            self.fail(f"{value!r} is none of off, report[:user|:kernel], stop[:user|:kernel], limit:N", param, ctx)
        limit = int(match[1])
        if not 1 <= limit <= LIMIT_MOST:
            self.fail(f"{value}: N is 1 to {LIMIT_MOST} bus locks a second", param, ctx)
        return BusLockChoice(Mode.LIMIT, limit)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        """The words; what may come behind a colon is left out, because bash begins a new word there."""
        return beginning(("off", "report", "stop", "limit:"), incomplete)
