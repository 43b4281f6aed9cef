"""Answers `monitor stop-on`: what stops the guest besides breakpoints."""

from collections.abc import Iterator

from trapgate.arch.paging import ADDRESS_4K
from trapgate.arch.vectors import VECTORS
from trapgate.gdb import events
from trapgate.gdb.command import Command, MonitorError
from trapgate.gdb.target import Target
from trapgate.values import replace

_EXCEPTIONS = 32
_VECTORS = {name: one.number for one in VECTORS.values() for name in (one.mnemonic.lower(), one.mnemonic.lower().lstrip("#"))}
_XCR0 = 0x10
_CONTROL = {0: "cr0", 3: "cr3", 4: "cr4", 8: "cr8", _XCR0: "xcr0"}


def _exception(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    vectors = arguments or list(range(_EXCEPTIONS))
    if not 0 <= vectors[0] < _EXCEPTIONS:
        raise MonitorError(f"exceptions have vectors up to {_EXCEPTIONS - 1:x}; interrupts of devices are not stopped on")
    target.stop_on(replace(target.events, vectors=target.events.vectors | set(vectors)))
    yield from events.listed(target.events)


def _port(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    first, last = arguments[0], arguments[-1]
    if not first <= last <= 0xFFFF:
        raise MonitorError("ports go from 0 to ffff, the lower one first")
    ports = (*target.events.ports, range(first, last + 1))
    if len(ports) > events.MOST_PORTS:
        raise MonitorError(f"at most {events.MOST_PORTS} ranges of ports; monitor stop-on nothing forgets them")
    target.stop_on(replace(target.events, ports=ports))
    yield from events.listed(target.events)


def _mode(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    target.stop_on(replace(target.events, modes=True))
    yield from events.listed(target.events)


def _control(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    if arguments[0] not in _CONTROL:
        raise MonitorError(f"changes of these can be stopped on: {' '.join(_CONTROL.values()).upper()}")
    target.stop_on(replace(target.events, registers=target.events.registers | {_CONTROL[arguments[0]]}))
    yield from events.listed(target.events)


def _named(before: frozenset[int] | None, arguments: list[int]) -> frozenset[int]:
    """One more that is named; none: any."""
    named = frozenset(arguments) | (before or frozenset()) if arguments else frozenset[int]()
    if len(named) > events.MOST_NAMED:
        raise MonitorError(f"at most {events.MOST_NAMED} of them by name; without one, any stops the guest")
    return named


def _msr(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    if arguments and arguments[0] >> 32:
        raise MonitorError(f"{arguments[0]:x} is no number of an MSR: they have 32 bits")
    target.stop_on(replace(target.events, msrs=_named(target.events.msrs, arguments)))
    yield from events.listed(target.events)


def _call(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    target.stop_on(replace(target.events, calls=_named(target.events.calls, arguments)))
    yield from events.listed(target.events)


def _process(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    if arguments and arguments[0] & 0xFFF:
        raise MonitorError(f"{arguments[0]:x} is no address of a page table: monitor ps shows those of Linux processes")
    target.stop_on(replace(target.events, spaces=_named(target.events.spaces, arguments)))
    yield from events.listed(target.events)


def _bus_lock(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    target.stop_on(replace(target.events, bus_locks=True))
    yield from events.listed(target.events)


def _int3(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    target.stop_on(replace(target.events, breakpoints=True))
    yield from events.listed(target.events)


def _bind(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    if len(arguments) > 1:
        target.bind(arguments[0], arguments[1])
    elif arguments:
        target.bind(arguments[0], (target.get_register(thread, "cr3") or 0) & ADDRESS_4K)
    for address, space in sorted(target.bound.items()):
        yield f"breakpoints at {address:#x} stop in the address space {space:x} alone"
    if not target.bound:
        yield "breakpoints stop in every address space"


def _unbind(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    target.bind(arguments[0], None)
    yield from _bind(target, thread, [])


def _no_process(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    target.await_process("")
    yield "no process is waited for"


def _await(target: Target, name: str) -> Iterator[str]:
    target.await_process(name)
    yield f"stops at the first instruction of the next process whose name is {name[:15]!r}"


def _nothing(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    target.stop_on(events.Events())
    yield from events.listed(target.events)


def _list(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    yield from events.listed(target.events)


COMMANDS: tuple[Command, ...] = (
    Command("info stop-on", "", "what the guest stops on besides breakpoints", _list),
    Command(
        "stop-on exception", "[VECTOR|NAME]", "stop before such exceptions are delivered: e, pf; or any", _exception, names=_VECTORS
    ),
    Command("stop-on port", "FIRST [LAST]", "stop after IN and OUT there", _port),
    Command("stop-on mode", "", "stop after a switch between real, protected and long mode", _mode),
    Command("stop-on cr", "0|3|4|8|xcr0", "stop after a change of that control register", _control, names={"xcr0": _XCR0}),
    Command("stop-on msr", "[INDEX|NAME]", "stop after RDMSR and WRMSR of it, or of any", _msr, names=events.MSRS),
    Command("stop-on process", "[CR3]", "stop after a switch to that address space, or to any other", _process),
    Command("stop-on call", "[NUMBER]", "stop at the entry of that system call, or of any", _call),
    Command("stop-on bus-lock", "", "stop after a bus lock, at any privilege level", _bus_lock),
    Command("stop-on int3", "", "the guest's INT3 is the debugger's, and the guest does not get it", _int3),
    Command("bind", "[ADDRESS] [CR3]", "breakpoints there stop in that address space alone, or in the present one", _bind),
    Command("unbind", "ADDRESS", "they stop in every address space again", _unbind),
    Command("break-process", "[NAME]", "stop where the next process of that name begins; none: no more", _no_process, named=_await),
    Command("stop-on nothing", "", "breakpoints alone", _nothing),
    Command("stop-on", "", "the same as info stop-on", _list),
)
