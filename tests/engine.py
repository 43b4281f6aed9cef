"""An engine for tests: its vCPUs are made by whatever the test gives it."""

from collections.abc import Callable

from trapgate.engine import Surroundings
from trapgate.vcpu import Vcpu


class TestEngine:
    """See `trapgate.engine.Engine`."""

    __test__ = False

    breaks_anywhere = True

    def __init__(self, make: Callable[[Surroundings], Vcpu]) -> None:
        self.make = make

    def catch_crashes(self, terminal: bytes | None) -> None:
        """Nothing crashes here."""

    def keep(self) -> None:
        """Nothing is worth keeping."""
