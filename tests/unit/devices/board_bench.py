"""A board that anything may happen to: what it says at rest is any state that its devices can come to."""

import random
import struct
from collections.abc import Callable
from typing import Any

from trapgate.arch import layout
from trapgate.arch.models import DEFAULT_MODEL, CpuModel
from trapgate.arch.msrs import MsrError
from trapgate.clock import InstructionClock
from trapgate.devices.board import Board, standard
from trapgate.devices.dma import Dma
from trapgate.devices.parts import Surface, Switches
from trapgate.devices.pmtimer import AcpiPm
from trapgate.devices.uart import Uart
from trapgate.memory import Ram
from trapgate.state import State

MODEL = CpuModel.parse(DEFAULT_MODEL)
BLOCKS = (
    *((0x20, 2), (0x40, 4), (0x60, 2), (0x64, 1), (0x70, 2), (0xA0, 2), (0x3F8, 8), (0x4D0, 2), (0x600, 16), (0xCF8, 8)),
    *((0xE0, 4), (0xE8, 1), (0x2000, 24), (0x510, 12), (0x510, 12)),
)
PORTS = [first + offset for first, length in BLOCKS for offset in range(length)]
KEYS = (0, 1, 3, 5, 0x0F, 0x19, 0x20, 0x8002, 0x4000, 0x77)
LIKELY = (0, 1, 0x02, 0x11, 0x20, 0x30, 0x34, 0xB6, 0xFF, 0x80, 0xC2, 0xD0, 0xD2, 0x72)
REGISTERS = [16 * index for index in (2, 3, 8, 0xA, 0xB, 0xD, 0xE, 0xF, 0x10, 0x20, 0x28, 0x30, 0x31, *range(0x32, 0x3A), 0x3E)]
MSRS = (0x1B, 0x6E0, 0x808, 0x80B, 0x80F, 0x828, 0x830, 0x832, 0x838, 0x839, 0x83E, 0x83F)
Act = Callable[["Bench"], object]


class Bench:
    """A board with two local APICs, of which all that goes out is noted."""

    def __init__(self) -> None:
        self.clock = InstructionClock(lambda: 0)
        self.noted: list[object] = []
        note = self.noted.append
        switches = Switches(note, lambda: note("off"), lambda: note("reset"))
        self.ram = Ram(1 << 16)
        surface = Surface(self.clock, Dma(self.ram), lambda call: call(), switches, wall_start=10**18)
        self.board = Board(surface, MODEL, standard(note, note), cpus=2)
        for number, one in enumerate(self.board.interrupts.lapics):
            one.nmi = lambda number=number: note(("nmi", number))  # type: ignore[misc]
            one.init = lambda number=number: note(("init", number))  # type: ignore[misc]
            one.notify = lambda number=number, one=one: note((number, one.pending()))  # type: ignore[misc]

    def save(self) -> list[State]:
        return [self.clock.save(), self.board.save(), self.ram.save()]

    def load(self, clock: Any, board: Any, ram: Any) -> None:
        self.clock.load(clock)
        self.board.load(board)
        self.ram.load(ram)

    def wait(self, ns: int) -> None:
        end = self.clock.now() + ns
        for _ in range(40):
            if (deadline := self.clock.next_deadline()) is None or deadline > end:
                break
            self.clock.skip_to(deadline)
            self.clock.run_due()
        self.clock.skip_to(end)

    def acknowledge(self, number: int) -> int | None:
        lapic = self.board.interrupts.lapics[number]
        return lapic.acknowledge() if lapic.pending() else None

    def msr(self, number: int, index: int, value: int | None) -> int | None:
        lapic = self.board.interrupts.lapics[number]
        try:
            return lapic.read_msr(index) if value is None else lapic.write_msr(index, value)
        except MsrError:
            return None


def act(chance: random.Random) -> Act:
    """Something that happens to a board."""
    port, size, value = (
        chance.choice(PORTS),
        chance.choice((1, 1, 1, 2, 4)),
        chance.choice((*LIKELY, *KEYS, chance.randrange(1 << 32))),
    )
    number, offset = chance.randrange(2), chance.choice(REGISTERS)
    match chance.randrange(17):
        case 0 | 1 | 2 | 3:
            return lambda one: one.board.ports.write(port, size, value & (1 << 8 * size) - 1)
        case 4 | 5 | 6:
            return lambda one: one.board.ports.read(port, size)
        case 7:
            return lambda one: one.board.interrupts.lapics[number].write(offset, 4, value)
        case 8:
            return lambda one: one.board.interrupts.lapics[number].read(offset, 4)
        case 9:
            index, new = chance.choice(MSRS), chance.choice((None, value, 0xFEE0_0800, 0xFEE0_0C00, 0xFEE0_0900, 0xFEE0_0D00))
            return lambda one: one.msr(number, index, new)
        case 10:
            register = chance.choice((0, 0, 0, 0x10, 0x10, 0x10, 0x40))
            return lambda one: one.board.mmio.write(layout.IOAPIC_BASE + register, 4, value & 0x3F if not register else value)
        case 11:
            return lambda one: one.acknowledge(number)
        case 12:
            data = chance.randbytes(chance.choice((1, 20)))
            return lambda one: one.board.part(Uart).feed(data)
        case 13:
            return lambda one: one.board.part(Uart).feed_break() if value & 1 else one.board.part(AcpiPm).press_power_button()
        case 14:
            request = struct.pack(
                ">IIQ", chance.randrange(32) | chance.choice(KEYS) << 16, chance.randrange(99), chance.randrange(1 << 16)
            )
            return lambda one: (one.ram.write(0x1000, request), one.board.ports.write(0x518, 4, 0x0010_0000))
        case _:
            ns = chance.choice((0, 1, 1000, 20_000, 10**6, 10**7, 10**9, 3 * 10**9))
            return lambda one: one.wait(ns)
