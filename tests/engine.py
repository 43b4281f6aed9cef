"""An engine for tests: its vCPUs are made by whatever the test gives it."""

from collections.abc import Callable

from trapgate.cpustate import CpuState
from trapgate.engine import Surroundings
from trapgate.state import State
from trapgate.vcpu import EngineError, Vcpu


class TestEngine:
    """See `trapgate.engine.Engine`."""

    __test__ = False

    most_cpus = 64
    breaks_anywhere = True
    has_room = False

    def __init__(self, make: Callable[[Surroundings], Vcpu]) -> None:
        self.make = make

    def catch_crashes(self, terminal: bytes | None) -> None:
        """Nothing crashes here."""

    def keep(self) -> None:
        """Nothing is worth keeping."""


class Unkept:
    """A vCPU whose state nobody keeps."""

    underway = State

    def save(self) -> CpuState:
        """It has none to say."""
        raise EngineError("it has no state")

    def load(self, state: CpuState) -> None:
        """It takes none."""
        raise EngineError("it takes no state")
