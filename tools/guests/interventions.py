"""What a debugger may do to a running guest at random, unseen by it: looks, steps, breakpoints, watchpoints."""

import random

from trapgate.gdb.client import Client, ClientError
from trapgate.gdb.target import BreakKind, Stop, Stopped

STEPS = 20  # at most, in one intervention
PATIENCE = 60.0  # seconds for a stop
SHORT = 0.5  # seconds that a breakpoint may take to be hit


class InterventionError(Exception):
    """The guest did not stop, or ended, under the debugger."""


class Debugger:
    """Interventions one after another on a stub; the guest runs between them. `counts` says how often each kind was done."""

    def __init__(self, client: Client, chance: random.Random) -> None:
        self._client, self._chance = client, chance
        self.counts: dict[str, int] = {}
        self._kinds = (self._look, self._step, self._break, self._watch)

    def begin(self) -> None:
        """Let go of the guest, which stopped when we came."""
        self._client.resume()

    def intervene(self) -> None:
        """Stop the guest, do something, let it go. InterventionError, ClientError."""
        self._client.interrupt()
        self._stopped(self._client.wait(PATIENCE))
        kind = self._chance.choice(self._kinds)
        kind()
        name = kind.__name__.strip("_")
        self.counts[name] = self.counts.get(name, 0) + 1
        self._client.resume()

    def _look(self) -> None:
        """All registers, some system registers, memory around the stack pointer."""
        registers = self._client.registers()
        for name in ("cr3", "dr6", "efer"):
            self._client.register(name)
        self._client.read_memory(registers["rsp"] & ~0xFFF, 256)

    def _step(self) -> None:
        """Single steps."""
        for _ in range(self._chance.randint(1, STEPS)):
            self._stopped(self._client.go("s", PATIENCE))

    def _break(self) -> None:
        """A breakpoint on an instruction a few steps ahead, which the guest is about to execute again or not."""
        start = self._client.registers()["rip"]
        for _ in range(self._chance.randint(1, 5)):
            self._stopped(self._client.go("s", PATIENCE))
        kind = self._chance.choice((BreakKind.SOFTWARE, BreakKind.HARDWARE))
        self._run_with(kind, start, 1)

    def _watch(self) -> None:
        """A watchpoint at the top of the stack."""
        address = self._client.registers()["rsp"] & ~7
        self._run_with(self._chance.choice((BreakKind.WRITE, BreakKind.ACCESS)), address, 8)

    def _run_with(self, kind: BreakKind, address: int, length: int) -> None:
        """Arm, run until it is hit or time is up, disarm."""
        self._client.insert(kind, address, length)
        self._client.resume()
        try:
            stop = self._client.wait(SHORT)
        except ClientError:  # not hit in time; a stub that is gone fails again
            self._client.interrupt()
            stop = self._client.wait(PATIENCE)
        self._stopped(stop)
        self._client.remove(kind, address, length)

    def _stopped(self, stop: Stop) -> None:
        if not isinstance(stop, Stopped):
            raise InterventionError(f"the guest ended under the debugger: {stop}")
