"""Plans what the debugger does to the demo guest: carried out by a real gdb, or by our own client where there is none."""

import contextlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trapgate.check.guest import Case, DemoGuest
from trapgate.check.manners import WATCHED
from trapgate.gdb.address import Address
from trapgate.gdb.client import Client, ClientError
from trapgate.gdb.target import BreakKind, Exited, Stopped
from trapgate.values import dataclass

TIMEOUT = 60.0  # seconds for the whole session
STEPS = {"unseen: TF in PUSHF": 3, "unseen: DR6, DR7": 4, "stale BLD, then step": 5}  # otherwise one
SOFTWARE = ("unseen: code bytes",)  # an INT3 is planted there, and the guest reads that byte
FLEETING = (
    "INT3",
)  # gdb never runs an INT3 on which it has a breakpoint, but moves the PC behind it: there it must be gone by then
WORDS = {BreakKind.WRITE: "watch", BreakKind.ACCESS: "awatch"}


@dataclass(frozen=True, slots=True)
class Step:
    """One stop that the debugger asks for. `action` is break, hbreak, thbreak, watch, awatch or stepi."""

    case: int
    action: str
    address: int = 0


@dataclass(frozen=True, slots=True)
class Stop:
    """Where the guest was when the debugger got it back."""

    step: Step
    pc: int


@dataclass(frozen=True, slots=True)
class Session:
    """What came of a plan: the stops reached, the exit status that the guest ended with (None: it did not), and what went wrong."""

    stops: tuple[Stop, ...]
    status: int | None
    trouble: str = ""

    def of(self, case: Case) -> tuple[Stop, ...]:
        """The stops in one case."""
        return tuple(stop for stop in self.stops if stop.step.case == case.number)


def plan(guest: DemoGuest) -> list[Step]:
    """For every case: stop on its instruction, then step over it, or let a watchpoint on the guest's own variable stop after it."""
    return [step for case in guest.cases for step in _steps(guest, case)]


def _steps(guest: DemoGuest, case: Case) -> Iterator[Step]:
    action = "break" if case.name in SOFTWARE else "thbreak" if case.name in FLEETING else "hbreak"
    yield Step(case.number, action, case.at)
    if case.name in WATCHED:
        kind, offset = WATCHED[case.name]
        yield Step(case.number, WORDS[kind], guest.symbols["line"] + offset)
    else:
        for _ in range(STEPS.get(case.name, 1)):
            yield Step(case.number, "stepi")


def script(steps: list[Step], address: Address) -> str:
    """The plan in gdb's language. Every stop is marked by a line "@INDEX PC"."""
    where = str(address).removeprefix("unix:")
    lines = ["set pagination off", "set confirm off", "set architecture i386:x86-64", f"target remote {where}"]
    for index, step in enumerate(steps):
        match step.action:
            case "stepi":
                lines.append("stepi")
            case "break" | "hbreak" | "thbreak":
                lines += [f"{step.action} *{step.address:#x}", "continue"]
            case _:
                lines += [f"{step.action} *(int *){step.address:#x}", "continue"]
        lines.append(f'printf "@{index} %lx\\n", $pc')
        if step.action in WORDS.values() or _last_of_case(steps, index):
            lines.append("delete")
    return "\n".join([*lines, "continue", ""])


def _last_of_case(steps: list[Step], index: int) -> bool:
    return index + 1 == len(steps) or steps[index + 1].case != steps[index].case


def run_gdb(steps: list[Step], address: Address, gdb: str) -> Session:
    """Carry the plan out with gdb in batch mode."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "plan.gdb"
        file.write_text(script(steps, address))
        command = [gdb, "-nx", "-batch", "-x", str(file)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL, check=False)
            output, errors = done.stdout, done.stderr
        except subprocess.TimeoutExpired as error:
            output, errors = _text(error.stdout), f"gdb did not come to an end in {TIMEOUT:.0f} s"
    stops = tuple(
        Stop(steps[int(index)], int(pc, 16)) for index, pc in re.findall(r"^@([0-9]+) ([0-9a-f]+)$", output, re.MULTILINE)
    )
    ended = re.search(r"exited (?:with code ([0-7]+)|normally)", output)
    status = None if ended is None else int(ended[1] or "0", 8)  # gdb prints the code in octal
    trouble = "" if len(stops) == len(steps) and status is not None else (errors.strip().splitlines() or ["gdb ended early"])[-1]
    return Session(stops, status, trouble)


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def run_client(steps: list[Step], address: Address) -> Session:
    """Carry the plan out with our own client."""
    hardware = BreakKind.HARDWARE
    kinds = {"break": BreakKind.SOFTWARE, "hbreak": hardware, "thbreak": hardware} | {word: kind for kind, word in WORDS.items()}
    stops: list[Stop] = []
    armed: list[tuple[BreakKind, int, int]] = []
    try:
        with Client(address, timeout=TIMEOUT) as client:
            for index, step in enumerate(steps):
                if step.action == "stepi":
                    stop = client.step()
                else:
                    armed.append((kinds[step.action], step.address, 4 if step.action in WORDS.values() else 1))
                    client.insert(*armed[-1])
                    stop = client.go()
                if not isinstance(stop, Stopped):
                    return Session(tuple(stops), stop.status if isinstance(stop, Exited) else None, "the guest ended early")
                stops.append(Stop(step, client.register("rip")))
                if step.action in (*WORDS.values(), "thbreak") or _last_of_case(steps, index):
                    while armed:
                        client.remove(*armed.pop())
            last = client.go()
    except ClientError as error:
        return Session(tuple(stops), None, str(error))
    return Session(tuple(stops), last.status if isinstance(last, Exited) else None)


def find_gdb() -> str | None:
    """A gdb that knows x86-64, and says so in time, by path; None when there is none."""
    for name in ("gdb", "gdb-multiarch"):
        path = shutil.which(name)
        if path is None:
            continue
        command = [path, "-nx", "-batch", "-ex", "set architecture i386:x86-64"]
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT, check=False)
            if done.returncode == 0:
                return path
    return None


def lost(case: Case, steps: list[Step], session: Session) -> list[str]:
    """What the debugger did not get in one case, each a few words; empty when it got all it asked for."""
    wanted = [step for step in steps if step.case == case.number]
    stops = session.of(case)
    wrong = [f"gdb: no stop for {step.action}" for step in wanted[len(stops) :]]
    for stop in stops:
        if stop.step.action in ("break", "hbreak", "thbreak") and stop.pc != stop.step.address:
            wrong.append(f"gdb: {stop.step.action} at {stop.pc:x} instead of {stop.step.address:x}")
        if stop.step.action in WORDS.values() and stop.pc != case.expected[0].rip:
            wrong.append(f"gdb: {stop.step.action} at {stop.pc:x} instead of {case.expected[0].rip:x}")
    return wrong
