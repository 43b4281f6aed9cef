"""`monitor` commands: what a debugger may ask of the machine beyond gdb's own words. No files, no shell, no host."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from trapgate import screen
from trapgate.arch import msrs
from trapgate.arch.control import CR0_PG
from trapgate.arch.registers import OURS, TABLE, Group
from trapgate.gdb import habits, mappings
from trapgate.gdb.target import BreakKind, Target, TargetError

_LONGEST_DUMP = 4096
_MOST_RANGES = 2000
_MSRS: dict[str, int] = {
    name.lower(): getattr(msrs, name)
    for name in (
        *("TSC", "APIC_BASE", "TEST_CTRL", "SYSENTER_CS", "SYSENTER_ESP", "SYSENTER_EIP", "MISC_ENABLE", "DEBUGCTL", "PAT"),
        *("EFER", "STAR", "LSTAR", "CSTAR", "SFMASK", "FS_BASE", "GS_BASE", "KERNEL_GS_BASE", "TSC_AUX"),
    )
}


class MonitorError(Exception):
    """A command that cannot be understood; one line for the user."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its words, then names of arguments (in brackets when optional)."""

    words: str
    arguments: str
    help: str
    run: Callable[[Target, int, list[int]], Iterator[str]]
    offered: Callable[[Target], bool] = lambda target: True

    def accepts(self, count: int) -> bool:
        """Whether it can have so many arguments."""
        names = self.arguments.split()
        return sum(not name.startswith("[") for name in names) <= count <= len(names)


def _help(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    yield "commands of the machine (numbers are hexadecimal):"
    for command in (one for one in COMMANDS if one.offered(target)):
        yield f"  monitor {(command.words + ' ' + command.arguments).strip():<28} {command.help}"


def _show(target: Target, thread: int, names: list[str], columns: int, digits: int) -> Iterator[str]:
    cells = []
    for name in names:
        value = target.get_register(thread, name)
        if value is not None:
            cells.append(f"{name:<9} {value:0{digits}x}")
    for at in range(0, len(cells), columns):
        yield "  ".join(cells[at : at + columns])


def _registers(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    yield f"vCPU {thread - 1}: {target.describe(thread)}"
    yield from _show(target, thread, [one.name for one in TABLE if one.group is Group.GENERAL], 3, 16)


def _system(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    yield f"vCPU {thread - 1}: {target.describe(thread)}"
    for name in ("cs", "ss", "ds", "es", "fs", "gs"):
        yield from _show(target, thread, [name, f"{name}_base"], 2, 4)
    names = [one.name for one in TABLE if one.feature == OURS and one.group is not Group.SEGMENT]
    yield from _show(target, thread, names, 3, 16)


def _vcpus(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    for each in target.threads():
        yield f"{'*' if each == thread else ' '} vCPU {each - 1}: {target.describe(each)}"


def _mappings(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    def read(address: int, length: int) -> bytes:
        try:
            return target.read_physical(address, length)
        except TargetError:
            return b""

    cr0, cr3, cr4, efer = (target.get_register(thread, name) or 0 for name in ("cr0", "cr3", "cr4", "efer"))
    count = 0
    try:
        for one in mappings.ranges(read, cr0=cr0, cr3=cr3, cr4=cr4, efer=efer):
            count += 1
            if count > _MOST_RANGES:
                yield f"the rest is left out: there are more than {_MOST_RANGES} ranges"
                return
            yield f"{one.start:016x}-{one.end:016x} {one.end - one.start:016x} {mappings.words(one)}"
    except mappings.TooMany as error:
        yield str(error)
    if not count:
        yield "nothing is mapped" if cr0 & CR0_PG else "paging is off: addresses are guest-physical"


def _breakpoints(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    none = True
    for kind, address, length in target.breakpoints():
        none = False
        size = "" if kind in (BreakKind.SOFTWARE, BreakKind.HARDWARE) else f" length {length:x}"
        yield f"{kind.name.lower():<8} {address:#018x}{size}"
    if none:
        yield "no breakpoints"


def _msr(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    if arguments[0] >> 32:
        raise MonitorError(f"{arguments[0]:x} is no number of an MSR: they have 32 bits")
    if len(arguments) > 1:
        target.write_msr(thread, arguments[0], arguments[1])
    yield f"msr {arguments[0]:x} = {target.read_msr(thread, arguments[0]):016x}"


def _translate(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    physical = target.translate(thread, arguments[0])
    yield f"{arguments[0]:#x} " + ("is not mapped" if physical is None else f"is guest-physical {physical:#x}")


def _physical(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    address, length = arguments[0], arguments[1] if len(arguments) > 1 else 64
    if length > _LONGEST_DUMP:
        raise MonitorError(f"at most {_LONGEST_DUMP:x} bytes at once")
    data = target.read_physical(address, length)
    for at in range(0, len(data), 16):
        line = data[at : at + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)
        yield f"{address + at:#014x}  {line.hex(' '):<47}  {text}"


def _screen(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    lines = screen.text(target.read_physical)
    yield from lines or ["the text screen at b8000 is blank"]


def _reset(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    target.reset()
    yield "the machine is reset and stopped before its first instruction; tell gdb with: maintenance flush register-cache"


def _quit(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    target.kill()
    yield "the machine ends"


COMMANDS: tuple[Command, ...] = (
    Command("help", "", "this list", _help),
    Command("info registers", "", "general registers of the chosen vCPU", _registers),
    Command("info system", "", "segments, control and debug registers, tables", _system),
    Command("info vcpus", "", "mode and privilege level of each vCPU", _vcpus),
    Command("info mem", "", "what the page tables map: from, up to, size; user, read, write, execute", _mappings),
    Command("info breakpoints", "", "what the debugger has armed", _breakpoints),
    Command("msr", "INDEX|NAME [VALUE]", "show an MSR, or write it first", _msr),
    Command("translate", "ADDRESS", "the guest-physical address behind a virtual one", _translate),
    Command("physical", "ADDRESS [LENGTH]", "guest-physical RAM as bytes", _physical),
    Command("screen", "", "the text screen at b8000, 80 by 25 or as the BIOS data area says", _screen),
    Command("reset", "", "as at the start, the image read anew; breakpoints stay", _reset, lambda target: target.can_reset),
    Command("quit", "", "end the machine", _quit),
)


def execute(target: Target, thread: int, line: str) -> Iterator[str]:
    """Carry out one command line and yield what it says, line by line; MonitorError or TargetError when it cannot be done."""
    words = habits.ours(line.split() or ["help"])
    for command in COMMANDS:
        own = command.words.split()
        if words[: len(own)] == own:
            arguments = [_number(word, command) for word in words[len(own) :]]
            if not command.accepts(len(arguments)):
                raise MonitorError(f"usage: monitor {command.words} {command.arguments}".rstrip())
            return command.run(target, thread, arguments)
    if (text := habits.answer(words)) is not None:
        raise MonitorError(text)
    raise MonitorError(f"unknown command {' '.join(words)[:60]!r}; monitor help lists them all")


def _number(word: str, command: Command) -> int:
    if command.run is _msr and word.lower() in _MSRS:
        return _MSRS[word.lower()]
    try:
        value = int(word, 16)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 64:
        raise MonitorError(f"{word[:40]!r} is no hexadecimal number of 64 bits")
    return value
