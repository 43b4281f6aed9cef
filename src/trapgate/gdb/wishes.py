"""Has a machine stop on what its debugger wants besides breakpoints (`events`)."""

from trapgate.answering import Watch
from trapgate.doings import Doing
from trapgate.gdb.events import Events
from trapgate.gdb.target import TargetError
from trapgate.machine import Machine
from trapgate.vcpu import EngineError


class Wishes:
    """What a debugger has asked for last."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self.events = machine, Events()
        self._watches: tuple[Watch, ...] = ()

    def stop_on(self, events: Events) -> None:
        """Have the vCPUs tell of exceptions and of what the guest does, and the ports of accesses. TargetError: it cannot be."""
        now = self.events
        try:
            if events.vectors != now.vectors:
                self._machine.catch(events.vectors)
            if events.interest != now.interest:
                self._machine.tell_of(events.interest, self._heard)
        except EngineError as error:
            raise TargetError(str(error)) from error
        if events.ports != now.ports:
            for watch in self._watches:
                self._machine.added.unwatch(watch)
            self._watches = tuple(Watch(ports, self._machine.stop) for ports in events.ports)
            for watch in self._watches:
                self._machine.added.watch(watch)
        self.events = events

    def _heard(self, doing: Doing) -> None:
        """The guest has done it, amid a run."""
        if self.events.wants(doing):
            self._machine.stop(doing)
