"""A machine whose vCPU plays a script: what the tests of the run loop stand on."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import pytest

from engine import TestEngine, Unkept
from trapgate.arch import layout
from trapgate.devices.lapic_registers import LVT_TIMER, SVR, TIMER_DIVIDE, TIMER_INITIAL
from trapgate.engine import Surroundings
from trapgate.exits import (
    Exit,
    Interrupted,
    MmioWrite,
    PortWrite,
)
from trapgate.machine import Machine, MachineConfig
from trapgate.vcpu import Alone, Breakpoint, CpuStart, GuestDebug, Unobserved

IF = 1 << 9
POWER_OFF = PortWrite(layout.PM1_CONTROL_PORT, 2, 0x2000)
Step = Exit | Callable[["ScriptedVcpu"], Exit | None]


class ScriptedVcpu(Alone, Unkept, Unobserved):
    """Plays exits in order; an empty script is a guest that computes until kicked. Each step counts as 100 instructions."""

    def __init__(self, around: Surroundings) -> None:
        self.ram, self.model, self.lapic = around.ram, around.model, around.lapic
        self.script: deque[Step] = deque()
        self.registers = {"rip": 0x1000, "rflags": IF}
        self.completed: list[int] = []
        self.log: list[str] = []
        self.kicked = threading.Event()
        self.wanted = False
        self.stepping = False
        self.count = 0
        self.limit: int | None = None
        self.breakpoints: list[Breakpoint] = []
        self.guest = GuestDebug(tf=False, gd=False, task_trap=False, bus_lock=False)

    def run(self) -> Exit:
        if self.kicked.is_set():
            self.kicked.clear()
            return Interrupted()
        if self.wanted and self.can_interrupt():
            return Interrupted()
        if not self.script:
            if self.limit is not None:
                self.count = self.limit
            else:
                assert self.kicked.wait(10), "the machine forgot its guest"
                self.kicked.clear()
            return Interrupted()
        self.count += 100
        step = self.script.popleft()
        if callable(step):
            return step(self) or Interrupted()
        return step

    def kick(self) -> None:
        self.kicked.set()

    def close(self) -> None:
        pass

    def complete(self, value: int) -> None:
        self.completed.append(value)

    def can_interrupt(self) -> bool:
        return bool(self.registers["rflags"] & IF)

    def interrupt(self, vector: int) -> None:
        assert self.can_interrupt()
        self.log.append(f"interrupt {vector:#x}")

    def want_interrupt(self, waiting: bool) -> None:
        self.wanted = waiting

    waits = False

    def wait(self) -> bool:
        return False

    def nmi(self) -> None:
        self.log.append("nmi")

    def get(self, register: str) -> int:
        return self.registers[register]

    def set(self, register: str, value: int) -> None:
        self.registers[register] = value

    def read_msr(self, index: int) -> int:
        return self.lapic.read_msr(index)

    def write_msr(self, index: int, value: int) -> None:
        self.lapic.write_msr(index, value)

    def read_virtual(self, address: int, length: int) -> bytes:
        return self.ram.read(address, length)

    def write_virtual(self, address: int, data: bytes) -> bool:
        self.ram.write(address, data)
        return True

    def translate(self, address: int) -> int | None:
        return address

    def arm(self, breakpoints: Sequence[Breakpoint], software: Sequence[int]) -> None:
        self.breakpoints = list(breakpoints)

    def armed(self) -> Sequence[Breakpoint]:
        return self.breakpoints

    def step(self, on: bool) -> None:
        self.stepping = on

    def resume_over(self) -> None:
        self.log.append("resume over")

    def guest_debug(self) -> GuestDebug:
        return self.guest

    def deliver_debug(self, causes: int, hits: int, icebp: bool) -> None:
        self.log.append(f"#DB causes={causes:#x} hits={hits:#x} icebp={icebp}")

    def catch(self, vectors: frozenset[int]) -> None:
        assert not vectors

    def start(self, first: CpuStart) -> None:
        self.registers.update(first.registers())

    def executed(self) -> int:
        return self.count

    def budget(self, instructions: int) -> None:
        self.limit = self.count + instructions

    amid = False

    def forget_pages(self) -> None:
        pass


class Rig:
    """A machine with its scripted vCPU."""

    def __init__(self, *script: Step, **config: object) -> None:
        self.serial, self.lines = bytearray(), list[str]()
        settings: dict[str, object] = {"memory": 1 << 20, "serial": self.serial.extend, "report": self.lines.append} | config
        self.machine = Machine(MachineConfig(**settings), TestEngine(ScriptedVcpu))  # type: ignore[arg-type]
        vcpu = self.machine.vcpu
        assert isinstance(vcpu, ScriptedVcpu)
        self.vcpu = vcpu
        self.vcpu.script.extend(script)


Make = Callable[..., Rig]


@pytest.fixture
def rig() -> Iterator[Make]:
    rigs: list[Rig] = []

    def make(*script: Step, **config: object) -> Rig:
        rigs.append(Rig(*script, **config))
        return rigs[-1]

    yield make
    for one in rigs:
        one.machine.close()


def lapic_timer(count: int, mode: int = 0) -> list[Step]:
    """Program the local APIC timer with vector 40h, to expire after `count` ns (cut to its 40 ns)."""
    base = layout.LAPIC_BASE
    values = ((SVR, 0x1FF), (TIMER_DIVIDE, 0b1011), (LVT_TIMER, mode | 0x40), (TIMER_INITIAL, count // 40))
    return [MmioWrite(base + 16 * index, 4, value) for index, value in values]
