"""Any `Vcpu` as a runner: the guest of `guest_kernel` in its RAM, a batch of cases for every entry into `run`.

How a vCPU is brought to the kernel's first instruction is its maker's business: `start` gets the register values, which are those
of 64-bit mode, paging on, CPL 0 (see `start_registers`).
"""

import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Generic, Protocol, TypeVar

from trapgate.exits import Exit, Interrupted, PortWrite
from trapgate.memory import Ram

from . import guest_kernel as guest
from .state import SLOT_SIZE, Outcome, State, hung, pack_case, unpack_outcome


class Engine(Protocol):
    """What is needed of a `Vcpu` here."""

    def run(self) -> Exit:
        """As `Vcpu.run`."""
        ...

    def kick(self) -> None:
        """As `Vcpu.kick`."""
        ...

    def get(self, register: str) -> int:
        """As `Vcpu.get`."""
        ...


E = TypeVar("E", bound=Engine)


class GuestFailed(Exception):
    """The guest kernel did not come back with its batch: the CPU failed in the kernel itself, not in a case."""


def start_registers() -> dict[str, int]:
    """Register values (names of `arch.registers`) for the kernel's first instruction; CS is a 64-bit code segment of DPL 0, TR as
    in the GDT entry."""
    return {
        "cr3": guest.PML4,
        "cr4": guest.CR4,
        "efer": guest.EFER,
        "cr0": guest.CR0,
        "gdt_base": guest.UPPER + guest.GDT,
        "gdt_limit": guest.GDT_LIMIT,
        "idt_base": guest.UPPER + guest.IDT,
        "idt_limit": 32 * 16 - 1,
        "tr": guest.TR,
        "cs": guest.KERNEL_CS,
        "ss": guest.KERNEL_SS,
        "rflags": 2,
        "rsp": guest.UPPER + guest.STACK_TOP,
        "rip": guest.UPPER + guest.KERNEL + guest.ENTRY,
    }


class SoftCpu(Generic[E]):
    """Runs cases on a vCPU; same use as `HostCpu`. `ram` must have at least `guest_kernel.memory_size(batch)` bytes.

    A batch that takes more than `timeout` seconds by `clock` (CPU time of this process) ends with the case that it is at.
    With `fx` False the kernel leaves x87, MXCSR and XMM registers alone, for a CPU without FXSAVE: outcomes then repeat the
    state's. `upper`: whether it moves the upper halves of YMM registers.
    """

    def __init__(
        self,
        vcpu: E,
        ram: Ram,
        start: Callable[[E, dict[str, int]], None],
        batch: int = 64,
        timeout: float = 5.0,
        fx: bool = True,
        clock: Callable[[], float] = time.process_time,
        upper: bool = False,
    ) -> None:
        if ram.size < guest.memory_size(batch):
            raise ValueError(f"{ram.size:#x} bytes of RAM: {batch} slots need {guest.memory_size(batch):#x}")
        self.vcpu, self.ram, self.batch, self.timeout, self.fx = vcpu, ram, batch, timeout, fx
        self.upper = upper
        self._start, self._clock = start, clock
        self._running = False

    def run(self, code: bytes, state: State) -> Outcome:
        """Execute 1 to CODE_SIZE bytes of code from a state."""
        return next(self.run_many([(code, state)]))

    def run_many(self, cases: Iterable[tuple[bytes, State]]) -> Iterator[Outcome]:
        """Execute cases in order, a batch at a time; GuestFailed when the kernel itself is lost."""
        rest = iter(cases)
        while batch := list(islice(rest, self.batch)):
            slots = bytearray(len(batch) * SLOT_SIZE)
            for n, (code, state) in enumerate(batch):
                pack_case(memoryview(slots), n * SLOT_SIZE, code, state)
            self.ram.write(guest.SLOTS, slots)
            lost = self._execute(len(batch))
            results = memoryview(self.ram.read(guest.SLOTS, len(slots)))
            for n, (_, state) in enumerate(batch):
                outcome = hung(state) if n in lost else unpack_outcome(results, n * SLOT_SIZE)
                outcome = outcome if self.fx else outcome._replace(fx=state.fx)
                yield outcome if self.upper else outcome._replace(upper=state.upper)

    def _execute(self, count: int) -> set[int]:
        """Run the cases in the slots; the numbers of those that hung."""
        lost: set[int] = set()
        first = 0
        while first < count:
            if not self._running:
                for address, data in guest.pieces(self.batch):
                    self.ram.write(address, data)
                self._start(self.vcpu, start_registers())
                self._running = True
            slot = guest.UPPER + guest.SLOTS + first * SLOT_SIZE
            self.ram.write(guest.CONTROL, struct.pack("<5Q", 1, slot, count - first, 0, self.fx | guest.WITH_UPPER * self.upper))
            if self._finished():
                break
            self._running = False
            at = count - self.ram.read_int(guest.CONTROL + guest.CASES_LEFT, 8)
            lost.add(at)
            first = at + 1
        return lost

    def _finished(self) -> bool:
        """Run until the kernel reports its batch; False when it took so long that a kick ended it."""
        done = threading.Event()
        watch = threading.Thread(target=self._watch, args=(done,), daemon=True)
        watch.start()
        try:
            end: Exit = self.vcpu.run()
            while isinstance(end, Interrupted) and watch.is_alive():
                end = self.vcpu.run()
        finally:
            done.set()
            watch.join()
        if isinstance(end, PortWrite) and end.port == guest.DONE_PORT:
            return True
        if isinstance(end, Interrupted):
            return False
        self._running = False
        at = self.ram.read_int(guest.CONTROL + guest.NEXT_SLOT, 8) - guest.UPPER - guest.SLOTS
        raise GuestFailed(
            f"{end} at rip {self.vcpu.get('rip'):#x} around case {at // SLOT_SIZE}: expected a write to port {guest.DONE_PORT:#x}"
        )

    def _watch(self, done: threading.Event) -> None:
        """Kick the vCPU when the time is over."""
        end = self._clock() + self.timeout
        while not done.wait(max(end - self._clock(), 0.05)):
            if self._clock() >= end:
                self.vcpu.kick()
                return
