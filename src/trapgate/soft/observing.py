"""Who watches the software CPU work: profilers, tracers. Nobody costs nothing."""

from typing import Protocol


class Observer(Protocol):
    """Is called on the thread that runs the CPU, amid `run`. It may look at the CPU, and kick it."""

    def entering(self) -> None:
        """Translated code is about to run."""
        ...

    def left(self) -> None:
        """Translated code has been left; `CpuState.exit_reason` says why."""
        ...

    def answered(self, reason: int) -> None:
        """A device, or Python, has settled an exit at once, and translated code is about to run on."""
        ...

    def translating(self) -> None:
        """A block is about to be looked for, and translated where there is none."""
        ...

    def translated(self) -> None:
        """That is done, or has failed."""
        ...
