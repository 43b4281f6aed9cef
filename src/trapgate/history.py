"""States what a machine asks of whoever keeps what reaches it from outside, and has it come again: `record.recording`."""

from typing import Protocol


class History(Protocol):
    """Who keeps what reaches the guest from outside, and has it come again at the same moment: `record.recording`."""

    def settle(self) -> None:
        """Between two runs of the vCPU, when every timer that is due has been called, and before interrupts are taken."""
        ...

    def room(self) -> int:
        """How many instructions may be executed until `settle` must be called again."""
        ...

    def feed(self, data: bytes) -> None:
        """Bytes are to arrive at the serial port."""
        ...

    def waiting(self) -> int:
        """How many of them the guest has not been fed yet."""
        ...

    def says(self) -> bool:
        """The guest says something: whether it has not been heard before."""
        ...
