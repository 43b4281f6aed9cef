"""Puts the guest that the user asked for into its machine: at first, when a debugger starts it again, when it resets itself."""

from collections.abc import Callable, Collection

from trapgate.boot import BootPlan
from trapgate.build import plan_firmware, plan_guest, put_guest, restart
from trapgate.cli.request import Request
from trapgate.machine import Machine
from trapgate.stops import ExitKind, MachineExit


class Guest:
    """The guest of a run. ImageError, SnapshotError: it cannot be had; RamError: it does not fit.

    It begins again in place at those ends that are named in `again`, if there is an image to begin with. `tell` takes lines for
    the user.
    """

    def __init__(self, machine: Machine, request: Request, again: Collection[ExitKind], tell: Callable[[str], None]) -> None:
        self._machine, self._request, self._again, self._tell = machine, request, again, tell
        self._plan: BootPlan | None = None
        self.began: Callable[[], None] = lambda: None
        """Called when it has begun again."""
        if request.restored:
            from trapgate.snapshot import restore

            restore(machine, request.image)
        else:
            self._plan = self._planned()
            put_guest(machine, self._plan)

    @property
    def code(self) -> int:
        """`BootPlan.code`."""
        if self._plan is not None:
            return self._plan.code
        return 0 if self._request.replayed is None else self._request.replayed.head.code  # whatever it is by now

    def start_over(self) -> int:
        """As at its start, for a debugger: its image is read anew. Its `code`. As for the class."""
        if self._plan is None:
            from trapgate.snapshot import restore

            self._machine.power_cycle()
            restore(self._machine, self._request.image)
        else:
            self._plan = self._planned()
            restart(self._machine, self._plan)
        self.began()
        return self.code

    def begins_again(self, end: MachineExit) -> bool:
        """Whether it is to go on behind such an end; then it stands at its start, as the image was."""
        if self._plan is None or end.kind not in self._again:
            return False
        if end.story:
            self._tell(f"the guest begins again after a triple fault; what led to it:\n{end.story}")
        restart(self._machine, self._plan)
        self.began()
        return True

    def run(self) -> MachineExit:
        """Run to the end, without a debugger."""
        while self.begins_again(end := self._machine.run()):
            pass
        return end

    def _planned(self) -> BootPlan:
        """How the image that the user named starts, as it is now."""
        machine, request = self._machine, self._request
        if request.firmware:
            return plan_firmware(machine, request.image)
        return plan_guest(
            machine.ram,
            request.image,
            request.command_line,
            request.initrd,
            request.cpus,
            request.modules,
            request.load_at,
            virtio=machine.board.virtio,
        )
