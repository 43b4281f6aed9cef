"""A machine as a debugger's `Target`: registers, memory, breakpoints; and what the debugger wants it to do next.

Nothing here runs the machine: `host` does, and asks `going` and `step` before each run.
"""

from collections.abc import Callable, Iterable, Sequence

from trapgate.arch.control import CR0_PE, CR0_PG, EFER_LMA
from trapgate.arch.flags import VM
from trapgate.arch.msrs import MsrError
from trapgate.arch.segments import ATTR_L
from trapgate.debug.breakpoints import BreakpointTable
from trapgate.gdb.architecture import Architecture, CpuMode, choose
from trapgate.gdb.description import PC
from trapgate.gdb.target import BreakKind, Resume, TargetError
from trapgate.machine import Machine
from trapgate.memory import RamError
from trapgate.vcpu import Breakpoint, Kind

THREAD = 1
"""The thread of the only vCPU."""

_KINDS = {
    BreakKind.HARDWARE: Kind.EXEC,
    BreakKind.WRITE: Kind.WRITE,
    BreakKind.READ: Kind.READ,
    BreakKind.ACCESS: Kind.ACCESS,
}
_LINEAR = 0xFFFF_FFFF  # addresses outside 64-bit mode
_LONGEST_SHORT = 0xFFFF  # the last offset in a segment of real-address and virtual-8086 mode


class MachineTarget:
    """The `Target` of a machine with one vCPU. Call it on the machine's thread only, between runs of the vCPU.

    `reset` puts the machine into its state after loading and gives `code` anew (TargetError); None: that is not offered.
    `architecture` is what the user wants it to be described as, None to choose by `code`, the width of the image's code
    (`boot.plan.BootPlan.code`), and the CPU's mode.
    """

    def __init__(
        self,
        machine: Machine,
        going: bool,
        reset: Callable[[], int] | None = None,
        architecture: Architecture | None = None,
        code: int = 0,
    ) -> None:
        self._architecture = architecture
        self._code = code
        self._machine = machine
        self._vcpu = machine.vcpu
        self._reset = reset
        self._table = BreakpointTable()
        self._armed: tuple[frozenset[Breakpoint], frozenset[int]] = frozenset(), frozenset()
        self._moved = False  # the debugger has put RIP where it is
        self.going = going
        """Whether the guest is to run now."""
        self.action = Resume(THREAD)
        """How it is to run."""
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
        mine = next((action for action in actions if action.thread == THREAD), None)
        if mine is None:
            raise TargetError("there is no such vCPU")
        try:
            self._arm()
        except ValueError as error:
            raise TargetError(str(error)) from error
        self.action = mine
        self.interrupted = False
        if not self._moved:
            self._vcpu.resume_over()
        self._moved = False
        self.going = True

    def interrupt(self) -> None:
        """Stop soon."""
        self.interrupted = True
        self._machine.pause()

    def detach(self) -> None:
        """No breakpoints, and run."""
        self._table.clear()
        self._arm()
        self.action = Resume(THREAD)
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
        self._vcpu = self._machine.vcpu
        self._armed = frozenset(), frozenset()
        self._moved = self.going = self.interrupted = False
        self.action = Resume(THREAD)

    # Breakpoints

    def insert(self, kind: BreakKind, address: int, length: int) -> None:
        """Arm a breakpoint. A hardware one is armed at once, so that an engine that has no room for it can say so."""
        try:
            if kind is BreakKind.SOFTWARE:
                self._table.insert_software(address)
                return
            if self._table.insert(_KINDS[kind], address, length) and not frozenset(self._table.hardware()) <= self._armed[0]:
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

    def _arm(self) -> None:
        """Tell the vCPU, if anything differs from what it knows: gdb lifts and plants all breakpoints around every stop."""
        hardware, software = self._table.hardware(), self._table.software()
        new = frozenset(hardware), frozenset(software)
        if new != self._armed:
            self._vcpu.arm(hardware, software)
            self._armed = new

    # State

    def threads(self) -> Sequence[int]:
        """The one vCPU."""
        return (THREAD,)

    def architecture(self) -> Architecture:
        """What the user wants, or else what image and mode suggest."""
        return self._architecture or choose(self._code, self.mode())

    def mode(self) -> CpuMode:
        """By CR0.PE and EFER.LMA."""
        if not self._vcpu.get("cr0") & CR0_PE:
            return CpuMode.REAL
        return CpuMode.LONG if self._vcpu.get("efer") & EFER_LMA else CpuMode.PROTECTED

    def describe(self, thread: int) -> str:
        """Mode and privilege level."""
        mode = self.mode()
        if mode is CpuMode.REAL:
            return "real mode"
        paging = "" if self._vcpu.get("cr0") & CR0_PG else ", no paging"
        return f"{mode.value} mode{paging}, CPL {self._vcpu.get('cs') & 3}"

    def _code_base(self) -> int | None:
        """Where CS begins; None in 64-bit mode, where RIP is linear by itself (SDM vol. 3, 3.4.4)."""
        if self._vcpu.get("efer") & EFER_LMA and self._vcpu.get("cs_attributes") & ATTR_L:
            return None
        return self._vcpu.get("cs_base")

    def program_counter(self) -> int:
        """The linear address of the next instruction: it is what breakpoints, memory and symbols are told by."""
        base, offset = self._code_base(), self._vcpu.get("rip")
        return offset if base is None else base + offset & _LINEAR

    def _set_program_counter(self, address: int) -> None:
        """Go on at a linear address; ValueError when CS does not reach it."""
        base, offset = self._code_base(), address
        if base is not None:
            offset = address - base & _LINEAR
            short = self.mode() is CpuMode.REAL or self._vcpu.get("rflags") & VM
            if address > _LINEAR or (short and offset > _LONGEST_SHORT):
                raise ValueError(f"CS begins at {base:#x} and does not reach it")
        if offset != self._vcpu.get("rip"):
            self._moved = True
            self._vcpu.set("rip", offset)

    def get_register(self, thread: int, name: str) -> int | None:
        """A register; None when this vCPU has none such."""
        if name == PC:
            return self.program_counter()
        try:
            return self._vcpu.get(name)
        except KeyError:
            return None

    def set_register(self, thread: int, name: str, value: int) -> None:
        """Change a register."""
        try:
            if name == PC:
                self._set_program_counter(value)
                return
            self._moved |= name == "rip" and value != self._vcpu.get("rip")
            self._vcpu.set(name, value)
        except KeyError:
            raise TargetError(f"this vCPU has no register {name}") from None
        except ValueError as error:
            raise TargetError(f"{name} cannot be {value:#x}: {error}") from error

    def read_memory(self, thread: int, address: int, length: int) -> bytes:
        """Guest-virtual memory; short where it is unmapped."""
        return self._vcpu.read_virtual(address, length)

    def write_memory(self, thread: int, address: int, data: bytes) -> bool:
        """Change guest-virtual memory, whatever its rights."""
        return self._vcpu.write_virtual(address, data)

    def read_msr(self, thread: int, index: int) -> int:
        """An MSR."""
        try:
            return self._vcpu.read_msr(index)
        except MsrError as error:
            raise TargetError(str(error)) from error

    def write_msr(self, thread: int, index: int, value: int) -> None:
        """Change an MSR."""
        try:
            self._vcpu.write_msr(index, value)
        except MsrError as error:
            raise TargetError(str(error)) from error

    def translate(self, thread: int, address: int) -> int | None:
        """Through the guest's page tables."""
        return self._vcpu.translate(address)

    def _lift(self) -> None:
        """Take software breakpoints out of RAM, where an engine may have put bytes of its own; `resume` plants them again."""
        hardware, software = self._armed
        if software:
            self._vcpu.arm(tuple(hardware), ())
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
        return True
