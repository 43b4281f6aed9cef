"""Shows the machine as a program sees it."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType

from trapgate import snapshot
from trapgate.api.cpu import Cpu
from trapgate.api.hooks import Hook, Hooks
from trapgate.api.signals import interruptible
from trapgate.boot import BootPlan, code
from trapgate.build import Hearing, make_machine, plan_firmware, plan_guest, put_guest, restart
from trapgate.config import ClockKind, MachineConfig
from trapgate.debug.buslock import BusLockLog, Mode
from trapgate.devices.lines import Line
from trapgate.devices.parts import P, Wiring
from trapgate.errors import TrapgateError
from trapgate.machine import Machine as Core
from trapgate.memory import Ram
from trapgate.stops import BreakpointHit, BusLocked, CountDone, ExceptionRaised, PortAccessed, SoftwareHit, Stop
from trapgate.vcpu import EngineError, Kind, Vcpu


class MachineError(TrapgateError):
    """A machine that is closed, or has no guest, was asked for what only another can do."""


class Machine:
    """A machine with one guest, and all that is seen and changed of it. Close it, or use it in a `with` statement.

    `engine` is "soft" (the software CPU) or "kvm" (the host's). Making one raises a TrapgateError: ModelError, RamError,
    EngineError, CacheError or HostError. All methods but `pause` are for one thread.
    """

    def __init__(self, config: MachineConfig = MachineConfig(), engine: str = "soft", hearing: Hearing = Hearing()) -> None:  # noqa: B008  (both are frozen)
        self._core: Core | None = make_machine(config, engine, hearing)
        self._hooks = Hooks(lambda: self._machine)
        self._plan: Callable[[], BootPlan] | None = None
        self._used = False  # something is in RAM already
        self.config = config
        self.cpus = tuple(Cpu(partial(self._vcpu, number)) for number in range(config.cpus))
        """Registers, virtual memory, MSRs of each CPU."""
        self.cpu = self.cpus[0]
        """The first one, which boots."""

    def __enter__(self) -> "Machine":
        """The machine."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None) -> None:
        """`close`."""
        self.close()

    def close(self) -> None:
        """Give back threads, descriptors and memory, the guest's RAM among it; a second call does nothing.

        What was translated is kept on disk, where it is worth it: later runs of the guest begin faster.
        """
        if self._core is not None:
            self._core.engine.keep()
            self._core.close()
            self._hooks.close()
            self._core = None

    @property
    def ram(self) -> Ram:
        """Physical memory: `read`, `write`."""
        return self._machine.ram

    @property
    def running(self) -> int:
        """The number of the CPU that runs, or ran last: which one a hook or a stop is about."""
        return self._machine.turns.running.number

    def _vcpu(self, number: int) -> Vcpu:
        return self._machine.processors[number].vcpu

    @property
    def _machine(self) -> Core:
        if self._core is None:
            raise MachineError("this machine is closed")
        return self._core

    # Guests

    def load(self, image: str | Path, command_line: str = "", *, initrd: str | Path | None = None, modules: tuple[str, ...] = (),
             load_address: int | None = None) -> BootPlan:  # fmt: skip
        """Put in an image from a file: a Linux bzImage, an ELF with a PVH note, a multiboot image, a flat binary.

        Each of `modules` is a path and, after a space, its text. `load_address` is for flat binaries (None: 7C00h). ImageError,
        RamError. A machine that has a guest is switched off and on before.
        """
        return self._put(
            lambda: plan_guest(
                self._machine.ram,
                image,
                command_line,
                initrd,
                self.config.cpus,
                modules,
                load_address=load_address,
                virtio=self._machine.board.virtio,
            )
        )

    def load_firmware(self, path: str | Path | None = None) -> BootPlan:
        """Put in PC firmware from a file, this host's SeaBIOS where none is named, which boots what a disk holds. ImageError.

        It is for boards without PCI (bios-microvm.bin). A machine that has a guest is switched off and on before.
        """
        return self._put(lambda: plan_firmware(self._machine, path))

    def load_code(self, machine_code: bytes, address: int = 0x1000, bits: int = 64) -> BootPlan:
        """Put in bare machine code of 16, 32 or 64 bits, RIP on its first byte: `trapgate.boot.code.plan` says in which world.

        ImageError. A machine that has a guest is switched off and on before.
        """
        return self._put(lambda: code.plan(machine_code, address, bits, self._machine.ram.low_end))

    def reset(self) -> BootPlan:
        """Switch off and on, with the guest put in anew: its image is read again. Hooks and devices stay. ImageError."""
        if self._plan is None:
            raise MachineError("this machine has no guest to begin again")
        return self._put(self._plan)

    def _put(self, make: Callable[[], BootPlan]) -> BootPlan:
        plan = make()
        if not self._used:
            put_guest(self._machine, plan)
        else:
            restart(self._machine, plan)
            self._hooks.arm()
        self._plan, self._used = make, True
        return plan

    # Files

    def save(self, path: str | Path) -> None:
        """Write the machine to a file, in place of the one that is there: it is whole, or as it was. SnapshotError, EngineError."""
        snapshot.save(self._machine, path)

    def restore(self, path: str | Path) -> None:
        """Be the machine in a file, with the hooks of this one. Its memory, CPU and clock must be those of `saved_config`.

        SnapshotError, and nothing is changed: it is no such file, or another kind of machine.
        """
        snapshot.restore(self._machine, path)
        self._plan, self._used = None, True

    # Running

    def run(self, *, until: int | None = None, instructions: int | None = None) -> Stop:
        """Run the guest until it ends (MachineExit), a hook stops it, a device fails, or `pause` is called.

        `until` is a linear address of code before which it stops as well (SoftwareHit). `instructions` is how many it executes at
        most (CountDone); for a machine whose clock counts them. What a callback raises comes out of here, and so does a
        KeyboardInterrupt, between two instructions.
        """
        machine = self._machine
        if instructions is not None and self.config.clock is not ClockKind.INSTRUCTIONS:
            raise EngineError("instructions are counted with MachineConfig(clock=ClockKind.INSTRUCTIONS) only")
        with ExitStack() as stack:
            if until is not None:
                stack.enter_context(self.on_code(until))
            stack.enter_context(interruptible(machine))
            end = None if instructions is None else machine.executed() + instructions
            while True:
                left = None if end is None else end - machine.executed()
                if left is not None and left <= 0:
                    return CountDone()
                stop = machine.resume(instructions=left)
                self._hooks.check()
                if not self._hooks.answered(stop):
                    return stop

    def step(self, cpu: int | None = None) -> Stop:
        """Execute one instruction (StepDone), or reach the handler of its exception; no interrupt is taken before it.

        It is one of the CPU of this number, None: of the one that ran last; the others stand still.
        Hooks on code do not see the instruction that it begins on.
        """
        stop = self._machine.resume(step=True, only=() if cpu is None else (cpu,))
        self._hooks.check()
        self._hooks.answered(stop)
        return stop

    def pause(self) -> None:
        """Make `run` return Paused soon; from any thread."""
        self._machine.pause()

    def feed(self, data: bytes) -> None:
        """Bytes arrive at the guest's serial port; in no hook or device, but before a run."""
        self._machine.feed(data)

    def press_power_button(self) -> None:
        """Ask the guest to switch itself off, by ACPI; from any thread. One that does not listen goes on."""
        self._machine.post(self._machine.press_power_button)

    @property
    def bus_locks(self) -> BusLockLog:
        """The bus locks counted so far, by place: where `MachineConfig.bus_locks` asks for it."""
        return self._machine.bus_locks

    @property
    def time(self) -> int:
        """Guest time in ns: with ClockKind.INSTRUCTIONS, instructions executed plus time slept."""
        return self._machine.clock.now()

    # Hooks

    def on_code(self, first: int, last: int | None = None, call: Callable[[SoftwareHit], object] | None = None) -> Hook:
        """See the execution of each instruction that begins at a linear address `first`, or up to and including `last`.

        It is not executed yet. A `call` that returns True stops the run, as no `call` does. BreakpointError, EngineError.
        """
        return self._hooks.add(Hook(call, code=range(first, (first if last is None else last) + 1)))

    def on_write(self, address: int, length: int = 1, call: Callable[[BreakpointHit], object] | None = None) -> Hook:
        """See writes to any of the bytes at a linear address, after the instruction. As `on_code` otherwise."""
        return self._hooks.add(Hook(call, data=(Kind.WRITE, address, length)))

    def on_read(self, address: int, length: int = 1, call: Callable[[BreakpointHit], object] | None = None) -> Hook:
        """See reads, as `on_write` sees writes."""
        return self._hooks.add(Hook(call, data=(Kind.READ, address, length)))

    def on_access(self, address: int, length: int = 1, call: Callable[[BreakpointHit], object] | None = None) -> Hook:
        """See reads and writes, as `on_write` sees writes."""
        return self._hooks.add(Hook(call, data=(Kind.ACCESS, address, length)))

    def on_exception(self, *vectors: int, call: Callable[[ExceptionRaised], object] | None = None) -> Hook:
        """See exceptions of these vectors, or of all, before they are delivered; the next run delivers them.

        RIP is on the instruction. Who sets RIP, to the same value for another try, or to another, takes the exception back. Not
        seen: what arises amid a delivery (#DF, a triple fault), INT n, NMI. EngineError: the engine "kvm" has no such hooks.
        """
        return self._hooks.add(Hook(call, vectors=frozenset(vectors or range(32))))

    def on_port(self, first: int, last: int | None = None, call: Callable[[PortAccessed], object] | None = None) -> Hook:
        """See IN and OUT at a port, or several, with their values, once they are done. As `on_code` otherwise."""
        ports = range(first, (first if last is None else last) + 1)
        return self._hooks.add(Hook(call, watch=self._hooks.watching(ports, call)))

    def on_bus_lock(self, call: Callable[[BusLocked], object] | None = None) -> Hook:
        """See bus locks, after the instruction. EngineError but with MachineConfig(bus_locks=BusLockMode.STOP)."""
        if self.config.bus_locks is not Mode.STOP:
            raise EngineError("bus locks are seen with MachineConfig(bus_locks=BusLockMode.STOP) only")
        return self._hooks.add(Hook(call, bus_locks=True))

    # Devices

    def attach(self, make: Callable[[Wiring], P]) -> P:
        """Add a device of your own: make a `Part`, now, and anew each time the machine is switched on. BusConflict.

        `MachineConfig.devices` has those of the start.
        """
        return self._machine.added.add(make)

    def part(self, kind: type[P]) -> P:
        """The first device of a class, as the machine has it since it was switched on. LookupError: there is none."""
        return self._machine.board.part(kind)

    def line(self, number: int) -> Line:
        """An interrupt line (ISA 0 to 15, GSI to 23): call it with True to assert it, False to withdraw."""
        return lambda level: self._machine.board.interrupts.line(number)(level)
