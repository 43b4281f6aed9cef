"""Makes findings of what a watch has seen: which instruction of which function and source line, what it locks, who did it."""

from collections import Counter
from collections.abc import Callable, Iterator

from iced_x86 import Instruction

from trapgate.errors import TrapgateError
from trapgate.finder import fingerprints, locks
from trapgate.finder.demangling import demangled
from trapgate.finder.explaining import crosses, source
from trapgate.finder.files import Files
from trapgate.finder.findings import Called, Finding, Kind, Process, Site, Stack
from trapgate.finder.locals import Held
from trapgate.finder.program import Program
from trapgate.finder.sightings import USER, Sighting
from trapgate.finder.stacks.walking import Step
from trapgate.finder.watching import Watch
from trapgate.linux.mappings import Mapping
from trapgate.linux.tasks import Task
from trapgate.values import replace

KERNEL = 1 << 63  # addresses from here on are the kernel's
SIGNAL = "<signal handler called>"
KernelPlace = Callable[[int], tuple[str, str, int]]
"""(module, or "" for the kernel itself; function; offset in it) of an address of the kernel's."""


def found(watch: Watch, files: Files) -> tuple[Finding, ...]:
    """All findings, the busiest first."""
    findings: dict[tuple[object, ...], Finding] = {}
    stacks: dict[int, Counter[tuple[Called, ...]]] = {}
    frames: dict[Step, tuple[Called, ...]] = {}
    for seen in watch.sightings():
        made = _finding(seen, watch, files)
        if seen.lock.cpl != USER:
            place: tuple[object, ...] = (seen.lock.rip,)
        else:
            place = (made.site.module, made.site.offset) if made.site.module else (made.site.address, _program(seen.task))
        finding = findings.setdefault((made.kind, seen.lock.cpl, *place), made)
        finding.processes.append(_process(seen))
        counted = stacks.setdefault(id(finding), Counter())
        for steps, count in seen.stacks.items():
            for step in steps:
                if step not in frames:
                    frames[step] = tuple(called(step, watch.kernel_place))
            counted[tuple(frame for step in steps for frame in frames[step])] += count
    for finding in findings.values():
        finding.stacks = [Stack(told, count) for told, count in stacks[id(finding)].most_common()]
    told = tuple(sorted(findings.values(), key=lambda one: -one.count))
    fingerprints.give(told)
    return told


def _process(seen: Sighting) -> Process:
    task = seen.task
    return Process("", 0, 0, seen.count) if task is None else Process(task.name, task.process, task.pid, seen.count)


def _program(task: Task | None) -> int:
    return 0 if task is None else task.process


def called(step: Step, kernel_place: KernelPlace) -> Iterator[Called]:
    """A frame by its names, after those that the compiler has put into it."""
    code = step.code
    if code is None:
        yield _in_kernel(step, kernel_place) if step.pc >= KERNEL else Called(step.pc, guessed=step.guessed)
        return
    place = code.mapping
    offset = step.pc - place.start + place.offset
    if code.program is None:
        yield Called(step.pc, place.path, offset if place.filesystem else 0, guessed=step.guessed)
        return
    address, here = step.pc - code.moved, step.at - code.moved
    if step.signal:
        yield Called(address, place.path, offset, SIGNAL, signal=True)
        return
    function, line = code.program.function(here), code.program.line(here)
    name, start = ("", address) if function is None else (demangled(function[0]), function[1])
    for one in code.program.inlined(here):
        yield Called(address, place.path, offset, demangled(one.function), 0, line, inlined=True, guessed=step.guessed)
        line = one.called
    yield Called(address, place.path, offset, name, address - start, line, guessed=step.guessed)


def _in_kernel(step: Step, kernel_place: KernelPlace) -> Called:
    module, function, offset = kernel_place(step.at)
    behind = offset + step.called
    return Called(step.pc, module or "the kernel", 0 if function else behind, function, behind if function else 0)


def _finding(seen: Sighting, watch: Watch, files: Files) -> Finding:
    lock = seen.lock
    kind = Kind.SPLIT if crosses(lock.address, lock.size) else Kind.NOT_WRITE_BACK
    finding = Finding(kind, _unnamed(seen), lock, operand="" if seen.operand is None else seen.operand.path, block=seen.block)
    if seen.operand is not None and seen.operand.filesystem:
        finding.operand_offset = lock.address - seen.operand.start + seen.operand.offset
    if lock.cpl != USER:
        module, function, offset = watch.kernel_place(lock.rip)
        inside = {"function": function, "function_offset": offset} if function else {"offset": offset}
        finding.site = replace(finding.site, module=module or "the kernel", **inside)
    elif seen.place is not None and seen.place.filesystem:
        _look_up(finding, seen.place, seen.code, files)
    if seen.holder is not None:
        _name_local(finding, *seen.holder)
    return finding


def _unnamed(seen: Sighting) -> Site:
    """The instruction alone."""
    rip = seen.lock.rip
    code, words = _decoded(locks.at(seen.code, rip, 64) or locks.at(seen.code, rip, 32), seen.code)
    where = "" if seen.place is None else f"code in memory without a file: {seen.place.path}"
    return Site(rip, code, words, note=where)


def _decoded(instruction: Instruction | None, code: bytes) -> tuple[bytes, str]:
    return (b"", "") if instruction is None else (code[: instruction.len], locks.words(instruction))


def _look_up(finding: Finding, place: Mapping, code: bytes, files: Files) -> None:
    """Name the instruction and its operand by the file that it is from."""
    rip, site = finding.lock.rip, finding.site
    offset = rip - place.start + place.offset
    site = finding.site = replace(site, module=place.path, offset=offset, note="")
    try:
        program = files.program(place)
    except TrapgateError as error:
        finding.site = replace(site, note=str(error))
        return
    address = program.address_of(offset)
    instruction = locks.at(code, rip, program.bits)
    there = b"" if address is None or instruction is None else program.code(address, instruction.len)
    if address is None or instruction is None or there != code[: instruction.len]:
        finding.site = replace(site, note="the file has other code there: it has changed, or the program has written this code")
        return
    _, words = _decoded(instruction, code)
    function, line = program.function(address), program.line(address)
    finding.site = Site(
        address,
        there,
        words,
        place.path,
        offset,
        "" if function is None else demangled(function[0]),
        0 if function is None else address - function[1],
        line,
        source=() if line is None else tuple(source(line)),
    )
    _name_operand(finding, program, finding.lock.address - (rip - address))


def _name_operand(finding: Finding, program: Program, address: int) -> None:
    """The global variable of the program, if it is one."""
    if finding.operand not in ("[heap]", "[stack]") and (variable := program.variable(address)) is not None:
        name, start = variable
        finding.owner, finding.owner_offset = demangled(name), address - start
        finding.member = program.member(finding.site.address, name, address - start)


def _name_local(finding: Finding, step: Step, place: Held) -> None:
    """The variable of the function that has it in its frame."""
    code = step.code
    if code is None or code.program is None or (found := code.program.local(step.at - code.moved, place)) is None:
        return
    function = code.program.function(step.at - code.moved)
    finding.owner, finding.owner_offset, finding.member = found.name, found.offset, found.member
    finding.owner_in = "" if function is None else demangled(function[0])
