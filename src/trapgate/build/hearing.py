"""Names who hears what there is to say while a machine is made, or what it learnt is kept."""

from collections.abc import Callable

from trapgate.values import dataclass


def _nobody(*anything: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Hearing:
    """Callbacks, called on the caller's thread.

    `progress(done, total)` counts the parts of the CPU that LLVM has compiled, on a host's first run. `note(line)` says in a line
    what is less than the user may expect: features that this host lacks, a cache that cannot be used.
    """

    progress: Callable[[int, int], None] = _nobody
    note: Callable[[str], None] = _nobody
