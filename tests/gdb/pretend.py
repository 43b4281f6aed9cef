"""A pretend guest for the stub's tests: a CPU of five x86-64 instructions behind the `Target` protocol, and its thread."""

import queue
import threading
from collections.abc import Callable, Iterable, Sequence

from trapgate.arch.models import CpuModel
from trapgate.arch.registers import AVX, BY_NAME, TABLE
from trapgate.clock import InstructionClock
from trapgate.devices.interrupts import Interrupts, InterruptsState
from trapgate.doings import Cause as Happening
from trapgate.doings import CpuMode, Happened
from trapgate.gdb.address import Address, TcpAddress
from trapgate.gdb.architecture import Architecture
from trapgate.gdb.description import PC
from trapgate.gdb.events import Events
from trapgate.gdb.stub import Stub
from trapgate.gdb.target import (
    SIGINT,
    BreakKind,
    Cause,
    Exited,
    Killed,
    LastWrite,
    Names,
    Resume,
    Stop,
    Stopped,
    TargetError,
    Way,
    When,
    Why,
)

MACHINE_CHECK = 18
CODE = 0x1000
DATA = 0x2000
HIGH = 0xFFFFFFFF81000000
END = 0x3000  # the first unmapped byte after the low pages

# 1000: nop; inc rax; mov [rdi], al; mov cl, [rdi]; 100b: inc rax; jmp 1000
LOOP = bytes.fromhex("90 48ffc0 8807 8a0f 90 90 90 48ffc0 ebf0".replace(" ", ""))
LOAD_AT, STORE_AT, INC_AT, JUMP_AT = 0x1006, 0x1004, 0x100B, 0x100E


class PretendTarget:
    """One vCPU or several (they share memory; only the first ever runs unless told). `on_stop` hears of stops."""

    def __init__(self, on_stop: Callable[[Stop], object] = lambda stop: None, cpus: int = 1, program: bytes = LOOP) -> None:
        self.on_stop = on_stop
        self.regs = [{register.name: 0 for register in TABLE} for _ in range(cpus)]
        for regs in self.regs:
            regs.update(rip=CODE, rflags=2, rdi=DATA, cs=8, cr0=0x80000011, cr3=0x7000, dr6=0xFFFF0FF0, mxcsr=0x1F80)
        self.pages = {0x1000: bytearray(4096), 0x2000: bytearray(4096), HIGH: bytearray(4096)}
        self.pages[0x1000][: len(program)] = program
        self.armed: list[tuple[BreakKind, int, int]] = []
        self.msrs = {0x1D9: 4, 0xC0000080: 0xD01}
        self.actions: Sequence[Resume] = ()
        self.running = True
        self.wanted_interrupt = False
        self.log: list[str] = []
        self.alive = True
        self.described_as = Architecture.X86_64
        self.code_base = 0
        self.named: Names | None = None
        self.recorded, self.executed = False, 1500
        self.way: Way | None = None
        self.events = Events()
        self.bound: dict[int, int] = {}
        self.awaited = ""

    def architecture(self) -> Architecture:
        return self.described_as

    def mode(self) -> CpuMode:
        return {Architecture.X86_64: CpuMode.LONG, Architecture.I8086: CpuMode.REAL}.get(self.described_as, CpuMode.PROTECTED)

    def stop_on(self, events: Events) -> None:
        if MACHINE_CHECK in events.vectors:
            raise TargetError("this CPU cannot stop on exceptions of vector 18")
        self.events = events

    def names(self, within: float | None = None) -> Names:
        if self.named is None:
            raise TargetError("there is no kernel here")
        return self.named

    def attach(self) -> None:
        self.running = False
        self.log.append("attach")

    def threads(self) -> Sequence[int]:
        return range(1, len(self.regs) + 1)

    def describe(self, thread: int) -> str:
        return "running <all> the time" if thread == 1 else "halted"

    def get_register(self, thread: int, name: str) -> int | None:
        if name == PC:
            return self.regs[thread - 1]["rip"] + self.code_base
        if name not in BY_NAME:
            return None
        return None if name == "k_gs_base" or BY_NAME[name].feature == AVX else self.regs[thread - 1][name]

    def set_register(self, thread: int, name: str, value: int) -> None:
        if name == "cr0" and not value & 1:
            raise TargetError("CR0 refuses this value")
        name = "rip" if name == PC else name
        assert name in BY_NAME
        self.regs[thread - 1][name] = value

    @property
    def travels(self) -> bool:
        return self.recorded

    def back(self, way: Way) -> None:
        self.way, self.running = way, True

    def when(self) -> When:
        if not self.recorded:
            raise TargetError("the guest is not recorded")
        return When(self.executed, 10 * self.executed, 1000, 2000)

    def goto(self, executed: int) -> None:
        if not 1000 <= executed <= 2000:
            raise TargetError(f"instruction {executed} is not recorded")
        self.executed = executed

    def last_write(self, thread: int, address: int) -> LastWrite | None:
        return LastWrite(1234, CODE, bytes(8), bytes([7] * 8)) if address == DATA else None

    def read_memory(self, thread: int, address: int, length: int) -> bytes:
        data = bytearray()
        while len(data) < length and (page := self.pages.get((address + len(data)) & ~0xFFF)) is not None:
            start = (address + len(data)) & 0xFFF
            data += page[start : start + length - len(data)]
        return bytes(data)

    def write_memory(self, thread: int, address: int, data: bytes) -> bool:
        if len(self.read_memory(thread, address, len(data))) < len(data):
            return False
        for at, byte in enumerate(data, address):
            self.pages[at & ~0xFFF][at & 0xFFF] = byte
        return True

    def insert(self, kind: BreakKind, address: int, length: int) -> None:
        if kind is BreakKind.HARDWARE and address == 0xBAD:
            raise TargetError("no slot is left")
        if (kind, address, length) not in self.armed:
            self.armed.append((kind, address, length))

    def remove(self, kind: BreakKind, address: int, length: int) -> None:
        if (kind, address, length) in self.armed:
            self.armed.remove((kind, address, length))

    def resume(self, actions: Sequence[Resume]) -> None:
        self.actions = actions
        self.running = True
        self.wanted_interrupt = False
        self.log.append("resume")
        self.fresh = True

    def interrupt(self) -> None:
        self.wanted_interrupt = True

    def detach(self) -> None:
        self.armed.clear()
        self.actions = ()
        self.running = True
        self.log.append("detach")

    def kill(self) -> None:
        self.alive = False
        self.log.append("kill")

    can_reset = True
    file = "guest.saved"

    def save(self) -> None:
        self.log.append("save")

    def restore(self) -> None:
        raise TargetError("guest.saved: it cannot be read: No such file or directory")

    def reset(self) -> None:
        self.regs[0].update(rip=CODE, rax=0)
        self.log.append("reset")

    def press_power_button(self) -> None:
        self.log.append("power button")

    def read_msr(self, thread: int, index: int) -> int:
        if index not in self.msrs:
            raise TargetError(f"there is no MSR {index:x}")
        return self.msrs[index]

    def write_msr(self, thread: int, index: int, value: int) -> None:
        self.read_msr(thread, index)
        self.msrs[index] = value

    def translate(self, thread: int, address: int) -> int | None:
        return address & 0xFFFF if address & ~0xFFF in self.pages else None

    def read_physical(self, address: int, length: int) -> bytes:
        if address >= 0x3000:
            raise TargetError("not RAM")
        return bytes(at & 0xFF for at in range(address, min(address + length, 0x3000)))

    def write_physical(self, address: int, data: bytes) -> bool:
        self.log.append(f"physical {address:x}: {data.hex()}")
        return address + len(data) <= 0x3000

    @property
    def why(self) -> Stopped:
        return Stopped(1, 11, cause=Cause(14, 6, 0xDEAD000))

    def recent(self, thread: int) -> Sequence[Happened]:
        return [Happened(32, None, CODE, None, Happening.INTERRUPT), Happened(14, 6, STORE_AT, 0xDEAD000)]

    def cpuid(self, thread: int, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        return leaf, subleaf, 0xC, 0xD

    def bind(self, address: int, space: int | None) -> None:
        if space is None:
            if self.bound.pop(address, None) is None:
                raise TargetError(f"nothing is bound at {address:#x}")
        else:
            self.bound[address] = space

    def backtrace(self, thread: int) -> Iterable[str]:
        self.names()
        return ["#0  0xffffffff81000000  work", "entered from a program at 0x401000, its stack at 0x7000"]

    def await_process(self, name: str) -> None:
        self.names()
        self.awaited = name

    def interrupts(self) -> InterruptsState:
        return Interrupts(InstructionClock(lambda: 0), CpuModel.parse("x86-64-v3"), cpus=len(self.regs)).save()

    def breakpoints(self) -> Iterable[tuple[BreakKind, int, int]]:
        return list(self.armed)

    # The CPU

    def run(self, instructions: int) -> None:
        """Execute while running, up to so many instructions; tells `on_stop` of a stop."""
        for _ in range(instructions):
            if not self.running:
                return
            stop = self._once()
            if stop is not None:
                self.running = False
                self.on_stop(stop)

    def _once(self) -> Stop | None:
        if self.way is not None:
            way, self.way = self.way, None
            return Stopped(1) if way is Way.STEP else Stopped(1, why=Why.BEGIN)
        action = self.actions[0] if self.actions else Resume(1)
        regs = self.regs[action.thread - 1]
        if self.wanted_interrupt:
            return Stopped(action.thread, SIGINT)
        if not getattr(self, "fresh", False):
            for kind, why in ((BreakKind.SOFTWARE, Why.SOFTWARE), (BreakKind.HARDWARE, Why.HARDWARE)):
                if any(armed[:2] == (kind, regs["rip"]) for armed in self.armed):
                    return Stopped(action.thread, why=why)
        self.fresh = False
        touched = self._execute(regs)
        if isinstance(touched, Exited):
            return touched
        for kind, address, length in self.armed:
            if touched is None or kind.value < 2 or not address <= touched[1] < address + length:
                continue
            if kind is BreakKind.ACCESS or kind is touched[0]:
                return Stopped(action.thread, why=Why[kind.name], address=address)
        if action.step and not (action.within and action.within[0] <= regs["rip"] < action.within[1]):
            return Stopped(action.thread)
        return None

    def _execute(self, regs: dict[str, int]) -> tuple[BreakKind, int] | Exited | None:
        code = self.read_memory(1, regs["rip"], 3)
        touched: tuple[BreakKind, int] | None = None
        length = 2
        if code[:1] == b"\x90":
            length = 1
        elif code[:3] == b"\x48\xff\xc0":
            length, regs["rax"] = 3, (regs["rax"] + 1) & (1 << 64) - 1
        elif code[:2] == b"\x88\x07":
            self.write_memory(1, regs["rdi"], bytes((regs["rax"] & 0xFF,)))
            touched = BreakKind.WRITE, regs["rdi"]
        elif code[:2] == b"\x8a\x0f":
            loaded = self.read_memory(1, regs["rdi"], 1)
            if not loaded:  # a page fault, and nobody to handle it
                return Exited(regs["rax"] & 0xFF)
            regs["rcx"] = loaded[0]
            touched = BreakKind.READ, regs["rdi"]
        elif code[:1] == b"\xeb":
            regs["rip"] += int.from_bytes(code[1:2], "little", signed=True)
        else:
            return Exited(regs["rax"] & 0xFF)
        regs["rip"] += length
        return touched


class PretendMachine:
    """A pretend guest with a stub, on a thread of its own, as a machine would run it."""

    def __init__(
        self, address: Address | None = None, patience: float = 10.0, program: bytes = LOOP, cpus: int = 1, waiting: bool = False
    ) -> None:
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.told: list[str] = []
        self.target = PretendTarget(program=program, cpus=cpus)
        self.target.running = not waiting
        self.stub = Stub(address or TcpAddress("127.0.0.1", 0), self.target, self._inbox.put, patience, tell=self.told.append)
        self.target.on_stop = self._stopped
        self.errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()

    def _stopped(self, stop: Stop) -> None:
        if isinstance(stop, Exited | Killed):
            self.target.alive = False
        self.stub.stopped(stop)

    def _main(self) -> None:
        try:
            while self.target.alive:
                try:
                    item = self._inbox.get(timeout=0.0 if self.target.running else None)
                    if item is None:
                        break
                    item()
                except queue.Empty:
                    self.target.run(200)
        except BaseException as error:
            self.errors.append(error)
        finally:
            self.stub.close()

    def call(self, function: Callable[[], None]) -> None:
        """Run something on the machine's thread and wait for it."""
        done = threading.Event()
        self._inbox.put(lambda: (function(), done.set())[0])
        assert done.wait(10)

    def settle(self, line: str) -> None:
        """Wait until the target's log has a line."""
        for _ in range(1000):
            if line in self.target.log:
                return
            threading.Event().wait(0.01)
        raise AssertionError(f"never happened: {line}; only {self.target.log}")

    def join(self) -> bool:
        """Wait for the machine to end by itself."""
        self._thread.join(10)
        return not self._thread.is_alive()

    def __enter__(self) -> "PretendMachine":
        return self

    def __exit__(self, *exception: object) -> None:
        self._inbox.put(None)
        self._thread.join(10)
        assert not self.errors, self.errors
        assert not self._thread.is_alive()
