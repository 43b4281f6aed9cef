"""The board's devices: reads and writes of ports and registers, at any moment, with whatever comes from outside.

A line is an act, its numbers in hex: `in PORT SIZE`, `out PORT SIZE VALUE`, `read ADDRESS SIZE`, `write ADDRESS SIZE VALUE` (of
memory), `apic OFFSET SIZE`, `apicw OFFSET SIZE VALUE`, `rdmsr INDEX`, `wrmsr INDEX VALUE`, `wait NS`, `line NUMBER LEVEL`,
`feed VALUE`, `break`, `acknowledge`, `button`, `ram ADDRESS VALUE` (of 8 bytes), `rest` (the board is saved and loaded).
"""

import contextlib
import re
from collections.abc import Callable

from fuzz.target import Target
from trapgate.arch import layout
from trapgate.arch.models import DEFAULT_MODEL, CpuModel
from trapgate.arch.msrs import MsrError
from trapgate.clock import InstructionClock
from trapgate.devices import lapic
from trapgate.devices.board import Board, BoardState, standard
from trapgate.devices.dma import Dma
from trapgate.devices.parts import Surface, Switches
from trapgate.devices.pmtimer import AcpiPm
from trapgate.devices.uart import Uart
from trapgate.devices.virtio.console import ConsolePort, virtio_console
from trapgate.devices.virtio.rng import virtio_rng
from trapgate.encoding import decode, encode
from trapgate.memory import Ram
from trapgate.state import within

MOST_ACTS = 200
MOST_TIMERS = 300
SECOND, SOON = 1_000_000_000, 10_000_000  # ns
MOST_WAKES = 1500  # soon
_MODEL = CpuModel.parse(DEFAULT_MODEL)
_SIZES = (1, 2, 4, 8)
_NUMBER = re.compile(rb"[0-9a-fA-F]{1,16}")
_BLOCKS = (
    *(
        (0x20, 2),
        (0x40, 4),
        (0x60, 5),
        (0x70, 2),
        (0xA0, 2),
        (0x3F8, 8),
        (0x4D0, 2),
        (0x510, 12),
        (0x600, 16),
        (0xCF8, 8),
        (0xE0, 4),
    ),
    *((0x2000, 24), (0xE9, 1), (0xF4, 1), (0x501, 1)),
)
PORTS = [first + offset for first, length in _BLOCKS for offset in range(length)]
MSRS = (0x1B, 0x6E0, *range(0x800, 0x840))


class Bench:
    """A board alone, with time that is moved by hand."""

    def __init__(self) -> None:
        self.clock = InstructionClock(lambda: 0)
        self.sent = 0
        switches = Switches(lambda status: None, lambda: None, lambda: None)
        self.ram = Ram(1 << 16)
        surface = Surface(self.clock, Dma(self.ram), lambda call: call(), switches, wall_start=0)
        behind_virtio = virtio_rng(b"seed"), virtio_console(ConsolePort(self._send), ConsolePort(self._send, "second"))
        self.board = Board(surface, _MODEL, (*standard(self._send, self._send), *behind_virtio), cpus=2)
        uart = self.board.part(Uart)
        self.apic = self.board.interrupts.lapics[0]
        self.acts: dict[bytes, tuple[int, Callable[..., None]]] = {
            b"in": (2, self._in),
            b"out": (3, self._out),
            b"read": (2, self._read),
            b"write": (3, self._write),
            b"apic": (2, self._apic_read),
            b"apicw": (3, self._apic_write),
            b"rdmsr": (1, self._rdmsr),
            b"wrmsr": (2, self._wrmsr),
            b"wait": (1, self._wait),
            b"line": (2, lambda number, level: self.board.interrupts.line(number % layout.GSI_COUNT)(bool(level & 1))),
            b"feed": (1, lambda value: uart.feed(value.to_bytes(8, "little"))),
            b"break": (0, uart.feed_break),
            b"acknowledge": (0, self._acknowledge),
            b"button": (0, self.board.part(AcpiPm).press_power_button),
            b"ram": (2, lambda address, value: self.ram.write(address & 0xFFF8, value.to_bytes(8, "little"))),
            b"rest": (0, self._rest),
        }

    def act(self, line: bytes) -> None:
        """One line; what is no act is none."""
        word, *rest = line.split() or [b""]
        count, call = self.acts.get(word, (0, None))
        numbers = [int(number, 16) for number in rest[:count] if _NUMBER.fullmatch(number)]
        if call is not None and len(numbers) == count:
            with contextlib.suppress(MsrError):  # #GP in the guest
                call(*numbers)

    def _send(self, data: bytes) -> None:
        self.sent += len(data)

    def _in(self, port: int, size: int) -> None:
        size = _SIZES[size % 3]
        assert 0 <= self.board.ports.read(port & 0xFFFF, size) < 1 << 8 * size

    def _out(self, port: int, size: int, value: int) -> None:
        size = _SIZES[size % 3]
        self.board.ports.write(port & 0xFFFF, size, value & (1 << 8 * size) - 1)

    def _read(self, address: int, size: int) -> None:
        size = _SIZES[size % 4]
        assert 0 <= self.board.mmio.read(address, size) < 1 << 8 * size

    def _write(self, address: int, size: int, value: int) -> None:
        size = _SIZES[size % 4]
        self.board.mmio.write(address, size, value & (1 << 8 * size) - 1)

    def _apic_read(self, offset: int, size: int) -> None:
        size = _SIZES[size % 4]
        assert self.apic.read(offset & 0xFFF, size) >= 0  # bits above the size are ignored

    def _apic_write(self, offset: int, size: int, value: int) -> None:
        size = _SIZES[size % 4]
        self.apic.write(offset & 0xFFF, size, value & (1 << 8 * size) - 1)

    def _rdmsr(self, index: int) -> None:
        assert 0 <= self.apic.read_msr(index) < 1 << 64

    def _wrmsr(self, index: int, value: int) -> None:
        self.apic.write_msr(index, value)

    def _wait(self, time: int) -> None:
        self.clock.skip_to(self.clock.now() + time % (2 * SECOND))
        self.clock.run_due()

    def _acknowledge(self) -> None:
        if self.apic.pending():
            assert 0 <= self.apic.acknowledge() < 256

    def _rest(self) -> None:
        """Whatever a guest has done, all of it can be kept, is taken back, and is what it was."""
        clock, board = self.clock.save(), self.board.save()
        kept = encode(board)
        self.clock.load(clock)
        self.board.load(decode(kept, BoardState, {type(one) for one in within(board)}))
        assert (self.clock.save(), self.board.save()) == (clock, board)

    def check(self) -> int:
        """No timer out of range, no storm of them: how often the host wakes soon."""
        deadline = self.clock.next_deadline()
        assert deadline is None or deadline < 1 << 80
        assert len(self.clock._timers) < MOST_TIMERS
        end, wakes = self.clock.now() + SOON, 0
        while (deadline := self.clock.next_deadline()) is not None and deadline <= end:
            self.clock.skip_to(deadline)
            self.clock.run_due()
            wakes += 1
            assert wakes < MOST_WAKES, "a storm of timers"
        return wakes


def run(data: bytes) -> str:
    """Carry out some acts."""
    bench = Bench()
    for line in data.split(b"\n")[:MOST_ACTS]:
        bench.act(line)
    bench.act(b"rest")
    wakes = bench.check()
    return f"{wakes.bit_length()} bits of wakes"


def plant() -> None:
    """A read of the local APIC between two registers was not expected."""
    right = lapic.LocalApic.read

    def read(self: lapic.LocalApic, offset: int, size: int) -> int:
        assert offset % 16 == 0, "no register"
        return right(self, offset, size)

    lapic.LocalApic.read = read  # type: ignore[method-assign]


def _starts() -> list[bytes]:
    """Each device as a driver would use it."""
    ports = b"".join(b"in %x 0\nout %x 0 ff\nin %x 2\n" % (port, port, port) for port in PORTS)
    pic = b"out 20 0 11\nout 21 0 20\nout 21 0 4\nout 21 0 1\nline 4 1\nacknowledge\nout 20 0 20\nout 20 0 b\nin 20 0"
    timer = b"out 43 0 34\nout 40 0 10\nout 40 0 0\nwait 10000\nout 43 0 c2\nin 40 0\nout 61 0 3\nin 61 0\nout 43 0 b8\nin 42 0"
    clock = b"out 70 0 b\nout 71 0 72\nout 70 0 a\nout 71 0 26\nwait 3b9aca00\nout 70 0 c\nin 71 0\nout 70 0 4\nout 71 0 23"
    serial = b"out 3f9 0 f\nfeed 4142\nin 3fd 0\nin 3f8 0\nbreak\nout 3fb 0 83\nout 3f8 0 1\nout 3fc 0 1b\nin 3fa 0"
    keyboard = b"out 64 0 20\nin 60 0\nout 64 0 60\nout 60 0 41\nout 64 0 d1\nout 60 0 3\nout 64 0 fe"
    apic = b"apicw f0 2 1ff\napicw 320 2 20030\napicw 3e0 2 b\napicw 380 2 1000\nwait 100000\nacknowledge\napicw b0 2 0\napic 390 2"
    x2apic = b"wrmsr 1b fee00d00\nwrmsr 80f 1ff\nwrmsr 832 40031\nwrmsr 6e0 1000\nwrmsr 830 40031\nrdmsr 802\nwrmsr 83f 33"
    io = b"write fec00000 2 10\nwrite fec00010 2 31\nline 0 1\nacknowledge\nread fec00010 2\nwrite fec00040 2 31"
    power = b"out 602 1 1\nout 604 1 1\nbutton\nin 600 1\nout 604 1 2001\nin 608 2\nout cf8 2 80000000\nin cfc 2\nout cf9 0 6"
    virtio = b"".join(b"write feb0%x 2 %x\n" % row for row in (
        (0x1070, 3), (0x1024, 1), (0x1020, 1), (0x1024, 0), (0x1020, 0x30000002), (0x1070, 0xB), (0x1030, 1), (0x1038, 4),
        (0x1080, 0x1000), (0x1090, 0x2000), (0x10A0, 0x3000), (0x1044, 1), (0x1070, 0xF),
    )) + b"ram 1000 4000\nram 1008 10\nram 2000 10000\nwrite feb01050 2 1\nread feb01060 2\nread feb01100 3"  # fmt: skip
    firmware = b"out 510 1 19\nin 511 0\nram 100 1000000a000019\nram 108 20000000000000\nout 518 2 10000"
    return [ports[at : at + 2000].split(b"\n", 1)[1] for at in range(0, len(ports), 2000)] + [
        *(pic, timer, clock, serial, keyboard, apic, x2apic, io, power, virtio, firmware),
    ]


TARGET = Target(
    run,
    _starts(),
    plant,
    lines=True,
    words=(
        *(f"in {port:x} 0\n".encode() for port in PORTS),
        *(f"out {port:x} 0 ".encode() for port in PORTS),
        *(f"wrmsr {index:x} ".encode() for index in MSRS),
        *(f"rdmsr {index:x}\n".encode() for index in MSRS),
        *(f"apicw {offset:x} 2 ".encode() for offset in range(0, 0x400, 16)),
        *(b"write fec00000 2 ", b"write fec00010 2 ", b"acknowledge\n", b"button\n", b"wait 5f5e100\n", b"line 8 1\n", b"rest\n"),
        *(f"write feb0{place + offset:x} 2 ".encode() for place in (0, 0x1000) for offset in (*range(0x10, 0xB0, 4), 0x100)),
    ),
    short=600,
)
