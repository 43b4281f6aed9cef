"""Holds back the signal that ends KVM_RUN in threads that run vCPUs, and lets it through where none does any more."""

import signal
import threading

KICK = signal.SIGUSR1  # blocked in a vCPU's thread but while the guest runs: it ends KVM_RUN and is never handled


class Thread:
    """One that vCPUs have run in: those that may be kicked there, and whether KICK was blocked before the first."""

    def __init__(self, before: bool) -> None:
        self.before = before
        self.vcpus: set[int] = set()


_here = threading.local()  # `thread`: this one's


class Kicks:
    """KICK as one vCPU needs it, in whatever threads it runs."""

    def __init__(self) -> None:
        self._threads: list[Thread] = []

    def hold_back(self) -> None:
        """Block KICK in this thread."""
        before = KICK in signal.pthread_sigmask(signal.SIG_BLOCK, {KICK})
        thread = getattr(_here, "thread", None)
        if thread is None:
            thread = _here.thread = Thread(before)
        thread.vcpus.add(id(self))
        self._threads.append(thread)

    def let_through(self) -> None:
        """This vCPU is kicked no more: KICK is again in this thread as it was before the first, if no other runs here.

        In other threads it stays blocked until a vCPU that ran there is done with in one of them.
        """
        for thread in self._threads:
            thread.vcpus.discard(id(self))
        mine = getattr(_here, "thread", None)
        if mine in self._threads and not mine.vcpus:
            if not mine.before:
                signal.sigtimedwait({KICK}, 0)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {KICK})
            del _here.thread
        self._threads.clear()
