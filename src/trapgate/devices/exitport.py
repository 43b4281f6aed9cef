"""Ends the run with a status that a guest's test program writes to a port."""

from collections.abc import Callable

from trapgate.devices.parts import Stateless


class ExitPort(Stateless):
    """A write of v ends the run with status `v * 2 + 1`, so that 0 (a power-off) never is an exit port's status."""

    def __init__(self, leave: Callable[[int], None]) -> None:
        self._leave = leave

    def read(self, offset: int, size: int) -> int:
        """Nothing to read."""
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """End the run."""
        self._leave(value * 2 + 1)
