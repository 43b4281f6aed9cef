"""Runs every case in every manner in one monitor, and says of each what came of it."""

import time
from collections.abc import Iterator, Sequence
from enum import Enum

from trapgate.check.guest import NEEDS_BUS_LOCK, Case, DemoGuest, Results, differences, seen
from trapgate.check.manners import Arm, Manner
from trapgate.check.stub import Halt, NotOfferedError, Stub, StubError
from trapgate.check.vmm import Vmm, VmmError
from trapgate.values import dataclass, replace

READY = 0x5944_4145_522D_4741  # of guests/demo/demo.h
LOOK, LONGEST_LOOK = 0.03, 2.0  # s until the first look at whether a case is over, twice as long until each other; at most
BOOT_LOOK = 0.3  # s until the first look at whether it takes orders; twice as long until each other, for a slow host
BOOTS = 12  # times the patience until the guest must take orders
PATIENCE = 10.0  # s for a case, and for a step, unless the user has more
MOST_STEPS, MOST_STOPS = 5000, 16  # of one case


class State(Enum):
    """What came of a case in a manner."""

    RIGHT = "right"
    WRONG = "wrong"
    LACKS = "lacks"  # the monitor's CPU or stub does not have what the case or the manner takes
    NONE = "none"  # the manner has nothing to do with the case
    NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class Cell:
    """One case in one manner. `read`: what the guest's handler read. `trouble`: what is wrong, or why it was not run, in lines.

    `unasked`: stops of the debugger's that it had not asked for.
    """

    case: Case
    manner: Manner
    state: State
    read: str = "-"
    trouble: tuple[str, ...] = ()
    unasked: int = 0
    vectors: tuple[int, ...] = ()
    dr6: tuple[int, ...] = ()

    @property
    def bad(self) -> bool:
        """Whether it counts against the monitor."""
        return self.state in (State.WRONG, State.NOT_RUN)


class _NoEndError(Exception):
    """The case does not come to its end."""


class _Session:
    """A guest that takes orders, by its stub."""

    def __init__(self, stub: Stub, guest: DemoGuest, patience: float) -> None:
        self.stub, self.guest, self._patience = stub, guest, patience
        self._symbols = guest.symbols
        self._boot()

    def _boot(self) -> None:
        """Let it come to where it takes orders."""
        limit = BOOTS * self._patience
        deadline, look = time.monotonic() + limit, BOOT_LOOK
        while not self._is_ready():
            if time.monotonic() > deadline:
                raise StubError(f"the guest did not take orders within {limit:.0f} s: does the monitor run the image of `check`?")
            self.stub.resume()
            if self.stub.halted(look) is None:
                self.stub.interrupt()
            look = min(2 * look, LONGEST_LOOK)

    def _is_ready(self) -> bool:
        try:  # memory first: QEMU 10 on KVM leaves the reset vector only if its debugger has read some
            return self.stub.read_int(self._symbols["ready"]) == READY and self._parked(self.stub.rip())
        except StubError as error:  # nothing is mapped there yet, say
            if "gone" in str(error) or "closed" in str(error) or "in time" in str(error):
                raise
            return False

    def _parked(self, rip: int) -> bool:
        return self._symbols["parked"] <= rip < self._symbols["parked_end"]

    def run(self, case: Case, manner: Manner, arms: list[Arm]) -> tuple[Results, list[str], int]:
        """What the guest recorded, what is wrong with the debugger's stops, and how many it had not asked for."""
        before = self.stub.read_int(self._symbols["done"])
        self.stub.write_int(self._symbols["selected"], case.number)
        try:
            for arm in arms:
                self.stub.insert(arm.kind, arm.address, arm.length)
        except NotOfferedError:
            self.stub.write_int(self._symbols["selected"], (1 << 64) - 1)
            raise
        unasked = self._step_on(before) if manner.steps else self._go_on(before, armed := list(arms))
        wrong = [f"the debugger was stopped at {place:#x}, unasked" for place in dict.fromkeys(unasked)]
        if not manner.steps:
            missed = [one for one in armed if one.stops_at is not None]
            wrong += [f"the debugger's {one.kind.name.lower()} breakpoint at {one.address:#x} was not hit" for one in missed]
            for one in armed:
                self.stub.remove(one.kind, one.address, one.length)
        return self.guest.results(self.stub.read), wrong, len(unasked)

    def _is_over(self, rip: int, before: int) -> bool:
        return self._parked(rip) and self.stub.read_int(self._symbols["done"]) != before

    def _go_on(self, before: int, armed: list[Arm]) -> list[int]:
        """Run to the end of the case. Whatever is hit is disarmed and taken out of `armed`; returns where else it stopped."""
        unasked: list[int] = []
        deadline, look = time.monotonic() + self._patience, LOOK
        while True:
            self.stub.resume()
            halt = self.stub.halted(look)
            look = min(2 * look, LONGEST_LOOK)
            interrupted = halt is None
            halt = halt or self.stub.interrupt()
            if self._is_over(halt.rip, before):
                return unasked
            self._account(halt, armed, unasked, interrupted)
            if time.monotonic() > deadline:
                raise _NoEndError(f"the case does not end within {self._patience:.0f} s; it is at {halt.rip:#x}")

    def _account(self, halt: Halt, armed: list[Arm], unasked: list[int], interrupted: bool) -> None:
        hit = next((one for one in armed if one.stops_at == halt.rip and not halt.asked), None)
        if hit is not None:
            self.stub.remove(hit.kind, hit.address, hit.length)
            armed.remove(hit)
        elif not halt.asked and not (interrupted and self._parked(halt.rip)):
            unasked.append(halt.rip)
            if len(unasked) > MOST_STOPS:
                raise _NoEndError(f"the debugger is stopped at {halt.rip:#x} again and again, unasked")

    def _step_on(self, before: int) -> list[int]:
        """Step to the end of the case."""
        rip = 0
        for _ in range(MOST_STEPS):
            self.stub.resume(step=True)
            halt = self.stub.halted(self._patience)
            if halt is None:
                self.stub.interrupt()
                raise _NoEndError(f"a step from {rip:#x} does not end within {self._patience:.0f} s")
            rip = halt.rip
            if self._is_over(rip, before):
                return []
        raise _NoEndError(f"{MOST_STEPS} steps lead to no end; the last one to {rip:#x}")


def cells(
    vmm: Vmm, guest: DemoGuest, cases: Sequence[Case], manners: Sequence[Manner], patience: float = PATIENCE
) -> Iterator[Cell]:
    """Every case in every manner, manner by manner. What a monitor or its stub breaks costs that cell; the others go on.

    `patience`: seconds for a case, and for a step.
    """
    session: _Session | None = None
    gone = ""
    try:
        for manner in manners:
            for case in cases:
                arms = manner.arms(guest, case)
                if arms is None:
                    yield Cell(case, manner, State.NONE)
                    continue
                if session is None and not gone:
                    try:
                        session = _Session(vmm.begin(), guest, patience)
                    except (VmmError, StubError) as error:
                        gone = str(error)
                        vmm.end()
                if session is None:
                    yield Cell(case, manner, State.NOT_RUN, trouble=(gone,))
                    continue
                cell, usable = _cell(session, case, manner, arms)
                if not usable:
                    session = None
                    vmm.end()
                yield cell
    finally:
        vmm.end()


def _cell(session: _Session, case: Case, manner: Manner, arms: list[Arm]) -> tuple[Cell, bool]:
    """One case in one manner, and whether the guest can go on."""
    empty = Cell(case, manner, State.WRONG)
    try:
        results, trouble, unasked = session.run(case, manner, arms)
    except NotOfferedError as error:
        return replace(empty, state=State.LACKS, trouble=(str(error),)), True
    except (StubError, _NoEndError) as error:
        return replace(empty, trouble=(str(error),)), False
    events = tuple(replace(event, case=case.number) for event in results.events)
    results = replace(results, events=events)
    if case.needs == NEEDS_BUS_LOCK and results.verdicts[case.number] == 0:
        return replace(empty, state=State.LACKS, trouble=("the CPU has no bus-lock trap",)), True
    trouble += differences(case, results)
    return Cell(
        case, manner, State.WRONG if trouble else State.RIGHT, seen(case, results), tuple(trouble), unasked,
        tuple(event.vector for event in events), tuple(event.dr6 for event in events),
    ), True  # fmt: skip
