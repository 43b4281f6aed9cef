"""Answers `monitor` commands: what a debugger may ask of the machine beyond gdb's own words. No shell, no file it could name."""

from collections.abc import Iterator

from trapgate import screen
from trapgate.arch.control import CR0_PG
from trapgate.arch.registers import OURS, TABLE, Group
from trapgate.gdb import chips, events, habits, mappings, pages, siginfo, stopping, tables
from trapgate.gdb.command import Command as Command
from trapgate.gdb.command import MonitorError as MonitorError
from trapgate.gdb.target import BreakKind, Target, TargetError

_LONGEST_DUMP = 4096
_MOST_RANGES = 2000
_START, _END = -1, -2  # of a recording


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


def _pages(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    yield from pages.told(target, thread, arguments[0])


def _last(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    known = target.recent(thread)
    shown = known[-arguments[0] :] if arguments and arguments[0] else known
    for one in shown:
        yield str(one)
    if not known:
        yield "no exception or interrupt was delivered so far, or the engine does not know them"


def _why(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    yield from siginfo.told(target.why)


def _cpuid(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    if max(arguments) >> 32:
        raise MonitorError("leaves and subleaves have 32 bits")
    answer = target.cpuid(thread, arguments[0], arguments[1] if len(arguments) > 1 else 0)
    yield "  ".join(f"{name} {value:08x}" for name, value in zip(("eax", "ebx", "ecx", "edx"), answer, strict=True))


def _physical(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    address, length = arguments[0], arguments[1] if len(arguments) > 1 else 64
    if length > _LONGEST_DUMP:
        raise MonitorError(f"at most {_LONGEST_DUMP:x} bytes at once")
    data = target.read_physical(address, length)
    for at in range(0, len(data), 16):
        line = data[at : at + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)
        yield f"{address + at:#014x}  {line.hex(' '):<47}  {text}"


def _kernel(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    yield from target.names().story


def _backtrace(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    yield from target.backtrace(thread)


def _tasks(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    yield from target.names().tasks()


def _modules(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    yield from target.names().modules()


def _screen(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    lines = screen.text(target.read_physical)
    yield from lines or ["the text screen at b8000 is blank"]


def _reset(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    target.reset()
    yield "the machine is reset and stopped before its first instruction; tell gdb with: maintenance flush register-cache"


def _power_button(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    target.press_power_button()
    yield "the power button is pressed: the guest hears of it when it goes on"


def _save(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    target.save()
    yield f"the machine is in {target.file}"


def _restore(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    target.restore()
    yield f"the machine is what it was in {target.file}; tell gdb with: maintenance flush register-cache"


def _when(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    when = target.when()
    yield f"instruction {when.executed}, {when.now / 1e9:.9f} s of guest time; recorded from {when.first} to {when.last}"


def _goto(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    when = target.when()
    target.goto({_START: when.first, _END: when.last}.get(arguments[0], arguments[0]))
    yield from _when(target, thread, [])
    yield "tell gdb with: maintenance flush register-cache"


def _last_write(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    found = target.last_write(thread, arguments[0])
    if found is None:
        yield f"nothing has changed what is at {arguments[0]:#x} since instruction {target.when().first}"
        return
    yield f"{arguments[0]:#x} was changed by the instruction at {found.rip:#x}, from {_word(found.before)} to {_word(found.after)}"
    yield f"to stand in front of it: monitor goto {found.executed}"


def _word(data: bytes) -> str:
    """Eight bytes of memory as a number; less where it is not mapped."""
    return f"{int.from_bytes(data, 'little'):#0{2 + 2 * len(data)}x}"


def _quit(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    target.kill()
    yield "the machine ends"


COMMANDS: tuple[Command, ...] = (
    Command("help", "", "this list", _help),
    Command("info registers", "", "general registers of the chosen vCPU", _registers),
    Command("info system", "", "segments, control and debug registers, tables", _system),
    Command("info vcpus", "", "mode and privilege level of each vCPU", _vcpus),
    Command("info mem", "", "what the page tables map: from, up to, size; user, read, write, execute", _mappings),
    Command("info gdt", "", "descriptors of the GDT", tables.gdt),
    Command("info idt", "[VECTOR]", "gates of the IDT, in real mode vectors of the IVT", tables.idt),
    Command("info tss", "", "TR, and the stacks that its TSS names", tables.tss),
    Command("info lapic", "", "the local APIC of the chosen vCPU", chips.lapic),
    Command("info ioapic", "", "what the pins of the I/O APIC bring about", chips.ioapic),
    Command("info irq", "", "the 8259s, and what waits at each local APIC", chips.irq),
    Command("info mtrr", "", "which memory is cached: MTRRs and PAT", chips.mtrr),
    Command("info breakpoints", "", "what the debugger has armed", _breakpoints),
    *stopping.COMMANDS,
    Command("msr", "INDEX|NAME [VALUE]", "show an MSR, or write it first", _msr, names=events.MSRS),
    Command("translate", "ADDRESS", "the guest-physical address behind a virtual one", _translate),
    Command("pages", "ADDRESS", "the walk to an address: entries, rights, why an access faults", _pages),
    Command("last", "[COUNT]", "the last exceptions and interrupts of the chosen vCPU, 64 at most", _last),
    Command("why", "", "the last stop: vector, error code, CR2, the causes of a #DB and whose they are", _why),
    Command("cpuid", "LEAF [SUBLEAF]", "what CPUID answers to the guest", _cpuid),
    Command("physical", "ADDRESS [LENGTH]", "guest-physical RAM as bytes", _physical),
    Command("kernel", "", "which Linux kernel runs, where KASLR has put it, names for gdb", _kernel),
    Command("ps", "", "tasks of the Linux kernel that runs, with their address spaces", _tasks),
    Command("backtrace", "", "the stack in the Linux kernel, by its own unwind tables (ORC)", _backtrace),
    Command("modules", "", "modules that it has loaded, and where their code begins", _modules),
    Command("screen", "", "the text screen at b8000, 80 by 25 or as the BIOS data area says", _screen),
    Command("reset", "", "as at the start, the image read anew; breakpoints stay", _reset, lambda target: target.can_reset),
    Command("power-button", "", "press it: ACPI asks the guest to switch itself off", _power_button),
    Command("snapshot save", "", "write the machine to the file of --save", _save, lambda target: bool(target.file)),
    Command("snapshot load", "", "back to what is in that file; breakpoints stay", _restore, lambda target: bool(target.file)),
    Command("when", "", "where the guest is in its recording", _when, lambda target: target.travels),
    Command(
        "goto",
        "N|start|end",
        "to where it had executed N (decimal) instructions",
        _goto,
        lambda target: target.travels,
        {"start": _START, "end": _END},
        True,
    ),
    Command("last-write", "ADDRESS", "which instruction changed what is there last", _last_write, lambda target: target.travels),
    Command("quit", "", "end the machine", _quit),
)


def execute(target: Target, thread: int, line: str) -> Iterator[str]:
    """Carry out one command line and yield what it says, line by line; MonitorError or TargetError when it cannot be done."""
    words = habits.ours(line.split() or ["help"])
    for command in COMMANDS:
        own = command.words.split()
        if words[: len(own)] == own:
            rest = words[len(own) :]
            if command.named is not None and len(rest) == 1:
                return command.named(target, rest[0])
            arguments = [_number(word, command) for word in rest]
            if not command.accepts(len(arguments)):
                raise MonitorError(f"usage: monitor {command.words} {command.arguments}".rstrip())
            return command.run(target, thread, arguments)
    if (text := habits.answer(words)) is not None:
        raise MonitorError(text)
    raise MonitorError(f"unknown command {' '.join(words)[:60]!r}; monitor help lists them all")


def _number(word: str, command: Command) -> int:
    if word.lower() in command.names:
        return command.names[word.lower()]
    try:
        value = int(word, 10 if command.decimal else 16)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 64:
        raise MonitorError(f"{word[:40]!r} is no {'decimal' if command.decimal else 'hexadecimal'} number of 64 bits")
    return value
