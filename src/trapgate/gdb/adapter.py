"""Makes a machine a debugger's `Target`: registers, memory, breakpoints; and what the debugger wants it to do next.

Nothing here runs the machine: `host` does, and asks `going` and `step` before each run.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from trapgate import snapshot
from trapgate.arch.control import CR0_PG, CR4_OSXSAVE, EFER_LMA
from trapgate.arch.cpuid import Dynamic, Leaf
from trapgate.arch.cpuid import leaf as cpuid
from trapgate.arch.flags import VM
from trapgate.arch.msrs import APIC_BASE, APIC_BASE_ENABLE, MsrError
from trapgate.arch.segments import ATTR_L
from trapgate.arch.vectors import DB
from trapgate.debug.breakpoints import BreakpointTable
from trapgate.devices.interrupts import InterruptsState
from trapgate.doings import CpuMode, Happened
from trapgate.errors import TrapgateError
from trapgate.gdb.architecture import Architecture, choose
from trapgate.gdb.description import PC
from trapgate.gdb.events import Events
from trapgate.gdb.names import RunningNames
from trapgate.gdb.spaces import ProcessBegins, Spaces
from trapgate.gdb.target import BreakKind, Cause, LastWrite, Names, Resume, Stopped, TargetError, Way, When
from trapgate.gdb.wishes import Wishes
from trapgate.machine import Machine
from trapgate.memory import RamError
from trapgate.stops import Stop
from trapgate.vcpu import Breakpoint, Kind, Vcpu

FIRST = 1
"""The thread of the first vCPU: the others follow."""

if TYPE_CHECKING:
    from trapgate.gdb.travel import Travel
    from trapgate.record.recording import Recording

_KINDS = {
    BreakKind.HARDWARE: Kind.EXEC,
    BreakKind.WRITE: Kind.WRITE,
    BreakKind.READ: Kind.READ,
    BreakKind.ACCESS: Kind.ACCESS,
}
_LINEAR = 0xFFFF_FFFF  # addresses outside 64-bit mode
_LONGEST_SHORT = 0xFFFF  # the last offset in a segment of real-address and virtual-8086 mode


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What trapgate's own errors say, for the debugger."""
    try:
        yield
    except TrapgateError as error:
        raise TargetError(str(error)) from error


class MachineTarget:
    """The `Target` of a machine. Call it on the machine's thread only, between runs of the vCPU.

    `reset` puts the machine into its state after loading and gives `code` anew (TargetError); None: that is not offered.
    `file` is where `save` writes it to; '': that is not offered.
    `recording` is the machine's, if it has one.
    `architecture` is what the user wants it to be described as, None to choose by `code`, the width of the image's code
    (`boot.plan.BootPlan.code`), and the CPU's mode.
    """

    def __init__(
        self,
        machine: Machine,
        going: bool,
        reset: Callable[[], int] | None = None,
        file: str = "",
        architecture: Architecture | None = None,
        code: int = 0,
        recording: "Recording | None" = None,
    ) -> None:
        self._architecture = architecture
        self._code = code
        self._machine = machine
        self._reset = reset
        self.file = file
        self._table = BreakpointTable()
        self._armed: tuple[frozenset[Breakpoint], frozenset[int]] = frozenset(), frozenset()
        self._moved = set[int]()  # threads whose RIP the debugger has put where it is
        self._names = RunningNames(machine)
        self._wishes, self._spaces = Wishes(machine), Spaces(machine, self._names)
        self._travel: Travel | None = None
        if recording is not None:
            from trapgate.gdb import travel  # most guests are not recorded

            self._travel = travel.Travel(machine, recording, self._disarm, self._arm)
        self.way: Way | None = None
        """How the guest is to go back, if it is."""
        self.going = going
        """Whether the guest is to run now."""
        self.actions: Sequence[Resume] = ()
        """What each thread does that does not stand still, the one that steps first; none named: all run."""
        self.last_stop: Stopped | None = None
        """What the debugger was told last."""
        self.interrupted = False
        """Whether the debugger asked for the stop that `Machine.pause` brings."""
        self.killed = False
        """Whether the debugger ended the machine."""

    # Running

    def attach(self) -> None:
        """Stop the guest for a debugger that has come."""
        self.going = False
        self._machine.pause()

    def resume(self, actions: Sequence[Resume]) -> None:
        """Let the guest go; execution breakpoints on the instruction it stands on do not stop it again.

        Where the debugger has put it, they do: gdb moves the PC behind an INT3 of the guest's own, breaks there and continues.
        """
        if not actions:
            raise TargetError("there is no such vCPU")
        try:
            self._arm()
        except ValueError as error:
            raise TargetError(str(error)) from error
        last = self.last
        stepping = sorted((one for one in actions if one.step), key=lambda one: one.thread != last)
        self.actions = stepping[:1] + [one for one in actions if not one.step]
        self.interrupted = False
        for one in self.actions:  # of one that has not stopped there yet, nobody was told
            if one.thread not in self._moved and (one.step or one.thread == last):
                self._vcpu(one.thread).resume_over()
        self._moved.clear()
        self.way, self.going = None, True

    @property
    def travels(self) -> bool:
        """Whether the guest is recorded."""
        return self._travel is not None

    @property
    def travel(self) -> "Travel":
        """Its time; TargetError where the guest is not recorded."""
        if self._travel is None:
            raise TargetError("the guest is not recorded, and cannot go back; start trapgate with --record FILE")
        return self._travel

    def back(self, way: Way) -> None:
        """Let the guest go back."""
        assert self.travel
        self._moved.clear()
        self.interrupted = False
        self.way, self.going = way, True

    def when(self) -> When:
        """Where the guest is."""
        return self.travel.when()

    def goto(self, executed: int) -> None:
        """Put the guest to a moment."""
        self.travel.goto(executed)
        self._stand()

    def last_write(self, thread: int, address: int) -> LastWrite | None:
        """Who changed what is at an address last."""
        return self.travel.last_write(address)

    @property
    def last(self) -> int:
        """The thread that ran last."""
        return FIRST + self._machine.turns.running.number

    def _vcpu(self, thread: int) -> Vcpu:
        return self._machine.processors[thread - FIRST].vcpu

    def interrupt(self) -> None:
        """Stop soon."""
        self.interrupted = True
        self._machine.pause()

    def detach(self) -> None:
        """No breakpoints, and run."""
        self._table.clear()
        self.stop_on(Events())
        self._spaces.clear()
        self._arm()
        self.actions, self.way = (), None
        self.interrupted = False
        self.going = True

    def kill(self) -> None:
        """End the machine."""
        self.killed = True
        self.going = False
        self._machine.pause()

    @property
    def can_reset(self) -> bool:
        """Whether it was made with a `reset`."""
        return self._reset is not None

    def reset(self) -> None:
        """Put the machine back to its start; breakpoints are armed again when it is let go."""
        if self._reset is None:
            raise TargetError("this machine cannot be reset; end it and start it again")
        self._code = self._reset()
        self._armed = frozenset(), frozenset()
        self._stand()

    def begin(self) -> bool:
        """The guest stands at its start, and goes on with the same breakpoints. Whether the debugger was stepping through it."""
        self._armed = frozenset(), frozenset()
        self._moved.clear()
        self._arm()
        stepping, self.actions = bool(self.actions) and self.actions[0].step, ()
        return stepping

    def press_power_button(self) -> None:
        """Ask the guest to switch itself off."""
        if self.travels:
            raise TargetError("the guest is recorded, and its power button is no part of a recording")
        self._machine.press_power_button()

    def save(self) -> None:
        """Write the machine to its file."""
        with _told():
            snapshot.save(self._machine, self._named_file())

    def restore(self) -> None:
        """Put the machine back to what its file says; the CPU keeps its breakpoints."""
        if self.travels:
            raise TargetError("the guest is recorded, and has the past of that recording: go back in it with monitor goto")
        with _told():
            snapshot.restore(self._machine, self._named_file())
        self._stand()

    def _named_file(self) -> str:
        """The file of a machine that was given one: a debugger names no files of the host."""
        if not self.file:
            raise TargetError("no file was named for the machine's state; start trapgate with --save FILE")
        return self.file

    def _stand(self) -> None:
        """The guest stands where it has been put."""
        self._moved.clear()
        self.going = self.interrupted = False
        self.actions = ()

    # Breakpoints

    def insert(self, kind: BreakKind, address: int, length: int) -> None:
        """Arm a breakpoint. An engine that may have no room for a hardware one is told at once, so that it can say so."""
        try:
            if kind is BreakKind.SOFTWARE:
                self._table.insert_software(address)
                return
            new = self._table.insert(_KINDS[kind], address, length) and not self._machine.engine.has_room
            if new and not frozenset(self._table.hardware()) <= self._armed[0]:
                self._arm()
        except ValueError as error:  # the table's, or the engine's that has no room
            self.remove(kind, address, length)
            raise TargetError(str(error)) from error

    def remove(self, kind: BreakKind, address: int, length: int) -> None:
        """Disarm a breakpoint."""
        if kind is BreakKind.SOFTWARE:
            self._table.remove_software(address)
        else:
            self._table.remove(_KINDS[kind], address, length)

    def breakpoints(self) -> Iterable[tuple[BreakKind, int, int]]:
        """All of them."""
        names = {kind: name for name, kind in _KINDS.items()}
        yield from ((BreakKind.SOFTWARE, address, 1) for address in self._table.software())
        yield from ((names[one.kind], one.address, one.length) for one in self._table.hardware())

    @property
    def why(self) -> Stopped:
        """The last stop; that of a debugger who has just come is none."""
        return self.last_stop or Stopped(self.last)

    def recent(self, thread: int) -> Sequence[Happened]:
        """By the engine."""
        return self._vcpu(thread).recent()

    def cpuid(self, thread: int, leaf: int, subleaf: int) -> Leaf:
        """By the model."""
        machine, vcpu = self._machine, self._vcpu(thread)
        osxsave, enabled = vcpu.get("cr4") & CR4_OSXSAVE, vcpu.read_msr(APIC_BASE) & APIC_BASE_ENABLE
        shown = Dynamic(thread - FIRST, len(machine.processors), bool(osxsave), bool(enabled), vcpu.get("xcr0"))
        return cpuid(machine.model, leaf, subleaf, shown)

    def interrupts(self) -> InterruptsState:
        """By the board."""
        with _told():
            return self._machine.board.interrupts.save()

    def cause(self) -> Cause:
        """What the CPU that ran last says of its last #DB."""
        verdict = self._machine.turns.running.verdict
        if verdict is None:
            return Cause()
        mine, guest = verdict.debugger, verdict.guest
        return Cause(DB, mine=(mine.causes, mine.hits), guests=(guest.causes, guest.hits))

    @property
    def events(self) -> Events:
        """As asked last."""
        return self._wishes.events

    def stop_on(self, events: Events) -> None:
        """By the machine."""
        self._wishes.stop_on(events)

    @property
    def bound(self) -> Mapping[int, int]:
        """As asked for."""
        return self._spaces.bound

    def bind(self, address: int, space: int | None) -> None:
        """For breakpoints that are there, and that will be."""
        if space is None:
            self._spaces.unbind(address)
        else:
            self._spaces.bind(address, space)

    def await_process(self, name: str) -> None:
        """By the kernel's own names."""
        self._spaces.await_process(name)

    def backtrace(self, thread: int) -> Iterable[str]:
        """By the kernel's own tables."""
        return self._names.backtrace(thread - FIRST)

    def seen(self, stop: Stop) -> Stop | ProcessBegins | None:
        """What a stop means for the debugger; None: the guest is to go on."""
        meant = self._spaces.seen(stop, self._table.software().__contains__, self._machine.turns.running.number)
        if meant is not stop:
            self._arm()
        return meant

    def _arm(self) -> None:
        """Tell the vCPUs, if anything differs from what it knows: gdb lifts and plants all breakpoints around every stop."""
        hardware, software = self._table.hardware(), [*{*self._table.software(), *self._spaces.places}]
        new = frozenset(hardware), frozenset(software)
        if new != self._armed:
            self._machine.arm(hardware, software)
            self._armed = new

    def _disarm(self) -> None:
        """No breakpoint is armed, until the guest is let go."""
        self._machine.arm((), ())
        self._armed = frozenset(), frozenset()

    # State

    def threads(self) -> Sequence[int]:
        """One for each vCPU."""
        return range(FIRST, FIRST + len(self._machine.processors))

    def architecture(self) -> Architecture:
        """What the user wants, or else what image and mode suggest."""
        return self._architecture or choose(self._code, self.mode())

    def mode(self) -> CpuMode:
        """That of the first vCPU."""
        return self._mode(FIRST)

    def _mode(self, thread: int) -> CpuMode:
        """By CR0.PE and EFER.LMA."""
        return CpuMode.of(self._vcpu(thread).get("cr0"), self._vcpu(thread).get("efer"))

    def describe(self, thread: int) -> str:
        """Mode and privilege level; and the task of a Linux kernel whose names are known."""
        if self._machine.processors[thread - FIRST].waiting:
            return "not started"
        mode, vcpu = self._mode(thread), self._vcpu(thread)
        if mode is CpuMode.REAL:
            return "real mode"
        paging = "" if vcpu.get("cr0") & CR0_PG else ", no paging"
        task = self._names.running(thread - FIRST)
        return f"{mode.value} mode{paging}, CPL {vcpu.get('cs') & 3}" + (f", {task}" if task else "")

    def _code_base(self, thread: int) -> int | None:
        """Where CS begins; None in 64-bit mode, where RIP is linear by itself (SDM vol. 3, 3.4.4)."""
        vcpu = self._vcpu(thread)
        if vcpu.get("efer") & EFER_LMA and vcpu.get("cs_attributes") & ATTR_L:
            return None
        return vcpu.get("cs_base")

    def program_counter(self, thread: int) -> int:
        """The linear address of the next instruction: it is what breakpoints, memory and symbols are told by."""
        base, offset = self._code_base(thread), self._vcpu(thread).get("rip")
        return offset if base is None else base + offset & _LINEAR

    def _set_program_counter(self, thread: int, address: int) -> None:
        """Go on at a linear address; ValueError when CS does not reach it."""
        vcpu, base, offset = self._vcpu(thread), self._code_base(thread), address
        if base is not None:
            offset = address - base & _LINEAR
            short = self._mode(thread) is CpuMode.REAL or vcpu.get("rflags") & VM
            if address > _LINEAR or (short and offset > _LONGEST_SHORT):
                raise ValueError(f"CS begins at {base:#x} and does not reach it")
        self.set_register(thread, "rip", offset)

    def get_register(self, thread: int, name: str) -> int | None:
        """A register; None when this vCPU has none such."""
        if name == PC:
            return self.program_counter(thread)
        try:
            return self._vcpu(thread).get(name)
        except KeyError:
            return None

    def set_register(self, thread: int, name: str, value: int) -> None:
        """Change a register."""
        vcpu = self._vcpu(thread)
        try:
            if name == PC:
                self._set_program_counter(thread, value)
                return
            if (before := vcpu.get(name)) != value and name == "rip":
                self._moved.add(thread)
            vcpu.set(name, value)
            if self._travel is not None and value != before:
                self._travel.register(thread - FIRST, name, value)
        except KeyError:
            raise TargetError(f"this vCPU has no register {name}") from None
        except ValueError as error:
            raise TargetError(f"{name} cannot be {value:#x}: {error}") from error

    def read_memory(self, thread: int, address: int, length: int) -> bytes:
        """Guest-virtual memory; short where it is unmapped."""
        return self._vcpu(thread).read_virtual(address, length)

    def write_memory(self, thread: int, address: int, data: bytes) -> bool:
        """Change guest-virtual memory, whatever its rights."""
        written = self._vcpu(thread).write_virtual(address, data)
        if written and self._travel is not None:
            self._travel.memory(thread - FIRST, address, data)
        return written

    def read_msr(self, thread: int, index: int) -> int:
        """An MSR."""
        try:
            return self._vcpu(thread).read_msr(index)
        except MsrError as error:
            raise TargetError(str(error)) from error

    def write_msr(self, thread: int, index: int, value: int) -> None:
        """Change an MSR."""
        try:
            self._vcpu(thread).write_msr(index, value)
        except MsrError as error:
            raise TargetError(str(error)) from error
        if self._travel is not None:
            self._travel.msr(thread - FIRST, index, value)

    def translate(self, thread: int, address: int) -> int | None:
        """Through the guest's page tables."""
        return self._vcpu(thread).translate(address)

    def _lift(self) -> None:
        """Take software breakpoints out of RAM, where an engine may have put bytes of its own; `resume` plants them again."""
        hardware, software = self._armed
        if software:
            self._machine.arm(tuple(hardware), ())
            self._armed = hardware, frozenset()

    def read_physical(self, address: int, length: int) -> bytes:
        """Guest RAM, up to its end or the hole in it."""
        self._lift()
        ram = self._machine.ram
        here = next((end for start, end in ram.regions() if start <= address < end), address)
        try:
            return ram.read(address, min(length, max(here - address, 1)))
        except RamError as error:
            raise TargetError(str(error)) from error

    def write_physical(self, address: int, data: bytes) -> bool:
        """Guest RAM."""
        self._lift()
        if not self._machine.ram.contains(address, len(data)):
            return False
        self._machine.ram.write(address, data)
        if self._travel is not None:
            self._travel.physical(address, data)
        return True

    def names(self, within: float | None = None) -> Names:
        """Those of a Linux kernel, out of its own tables."""
        return self._names.now(within)
