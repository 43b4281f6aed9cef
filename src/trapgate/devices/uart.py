"""Models a 16550A serial port (National Semiconductor PC16550D): FIFOs, interrupts, modem control with loopback."""

from collections import deque
from collections.abc import Callable
from typing import Annotated

from trapgate.clock import Clock, Moment, Timer, TimerState
from trapgate.devices.lines import ByteDevice, Line, unconnected
from trapgate.devices.parts import Part
from trapgate.state import U8, U16, Bits, Length, Mask, State, require
from trapgate.values import dataclass

DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(8)  # register offsets; FCR is written where IIR is read
IER_RECEIVED, IER_TRANSMIT, IER_LINE, IER_MODEM = 1, 2, 4, 8
IIR_NONE, IIR_LINE, IIR_RECEIVED, IIR_TIMEOUT, IIR_TRANSMIT, IIR_MODEM = 0x01, 0x06, 0x04, 0x0C, 0x02, 0x00
IIR_FIFOS = 0xC0
FCR_ENABLE, FCR_CLEAR_RECEIVE, FCR_CLEAR_TRANSMIT = 1, 2, 4
LCR_DLAB = 0x80
MCR_DTR, MCR_RTS, MCR_OUT1, MCR_OUT2, MCR_LOOP = 1, 2, 4, 8, 0x10
LSR_DATA, LSR_OVERRUN, LSR_BREAK, LSR_THR_EMPTY, LSR_IDLE, LSR_FIFO_ERROR = 1, 2, 0x10, 0x20, 0x40, 0x80
MSR_CTS, MSR_DSR, MSR_RI, MSR_DCD = 0x10, 0x20, 0x40, 0x80
FIFO_SIZE = 16
TRIGGERS = (1, 4, 8, 14)
LOOPED = 0x200  # marks a byte in the FIFO that came by loopback
BREAK = 0x100  # marks a break in the receive queue: a zero byte with LSR.BI
# A driver that is told "transmitter empty" again within the handler never leaves it, and gives up with an error: leave it a breath.
TRANSMIT_NS = 10_000
CHARACTER_NS = 86_806  # ten bits at 115200 baud: input comes no faster than a driver of a real port must bear


@dataclass(frozen=True, slots=True)
class UartState(State):
    """Registers, what is in the FIFO, and the input that waits in front of it (`LOOPED` and `BREAK` mark what is no plain byte)."""

    ier: Annotated[int, Bits(4)]
    lcr: U8
    mcr: Annotated[int, Bits(5)]
    fcr: Annotated[int, Mask(0xC0 | FCR_ENABLE)]
    scratch: U8
    divisor: U16
    lsr_errors: Annotated[int, Mask(LSR_OVERRUN | LSR_BREAK)]
    msr_delta: Annotated[int, Bits(4)]
    transmit_pending: bool
    transmit_timer: TimerState | None
    fifo: Annotated[tuple[Annotated[int, Mask(0xFF | LOOPED | BREAK)], ...], Length(0, FIFO_SIZE)]
    queue: tuple[Annotated[int, Mask(0xFF | BREAK)], ...]
    refill_timer: TimerState | None
    next_refill: Moment
    level: bool


class Uart(ByteDevice, Part[UartState]):
    """Eight registers.

    Output goes to `sink` at once; input waits in an unbounded queue in front of the FIFO, so nothing typed is lost.

    The interrupt line does not depend on MCR.OUT2 as on a PC: small guests forget the bit, and no other card shares the line.
    """

    LENGTH = 8

    def __init__(self, sink: Callable[[bytes], None], clock: Clock, line: Line = unconnected) -> None:
        self._sink, self._clock, self._line = sink, clock, line
        self._ier = self._lcr = self._mcr = self._fcr = self._scratch = 0
        self._divisor = 1
        self._lsr_errors = 0
        self._msr_delta = 0
        self._modem = MSR_CTS | MSR_DSR | MSR_DCD  # the other side is always there and ready
        self._transmit_pending = False  # the transmitter-empty interrupt, cleared by reading IIR or writing THR
        self._transmit_timer: Timer | None = None
        self._fifo: deque[int] = deque()
        self._queue: deque[int] = deque()
        self._refill_timer: Timer | None = None
        self._next_refill = 0
        self._level = False

    def save(self) -> UartState:
        """All of it, input that waits as well."""
        return UartState(
            ier=self._ier,
            lcr=self._lcr,
            mcr=self._mcr,
            fcr=self._fcr,
            scratch=self._scratch,
            divisor=self._divisor,
            lsr_errors=self._lsr_errors,
            msr_delta=self._msr_delta,
            transmit_pending=self._transmit_pending,
            transmit_timer=self._transmit_timer.save() if self._transmit_timer else None,
            fifo=tuple(self._fifo),
            queue=tuple(self._queue),
            refill_timer=self._refill_timer.save() if self._refill_timer else None,
            next_refill=self._next_refill,
            level=self._level,
        )

    def load(self, state: UartState) -> None:
        """All of it. StateError: more in the FIFO than it takes."""
        require(state.fcr & FCR_ENABLE or len(state.fifo) <= 1, "a FIFO that is off holds one byte")
        self._ier, self._lcr, self._mcr, self._fcr = state.ier, state.lcr, state.mcr, state.fcr
        self._scratch, self._divisor = state.scratch, state.divisor
        self._lsr_errors, self._msr_delta = state.lsr_errors, state.msr_delta
        self._transmit_pending = state.transmit_pending
        self._transmit_timer = self._clock.again(self._transmit_timer, state.transmit_timer, self._transmitted)
        self._fifo, self._queue = deque(state.fifo), deque(state.queue)
        self._refill_timer = self._clock.again(self._refill_timer, state.refill_timer, self._refill_due)
        self._next_refill, self._level = state.next_refill, state.level

    # The other side

    def feed(self, data: bytes) -> None:
        """Bytes arrive from outside."""
        self._queue.extend(data)
        self._refill()
        self._update()

    def waiting(self) -> int:
        """How many input bytes the guest has not taken into its FIFO yet."""
        return len(self._queue)

    def feed_break(self) -> None:
        """A break arrives: with Linux, the next byte is a SysRq command."""
        self._queue.append(BREAK)
        self._refill()
        self._update()

    def _refill(self) -> None:
        """Move input from the queue to the FIFO: a FIFO's load at a time, no faster than the line's speed."""
        now = self._clock.now()
        if not self._queue or self._fifo or self._mcr & MCR_LOOP or self._refill_timer is not None:
            return
        if now < self._next_refill:
            self._refill_timer = self._clock.at(self._next_refill, self._refill_due)
            return
        count = min(len(self._queue), self._depth)
        for _ in range(count):
            self._fifo.append(self._queue.popleft())
        self._note_break()
        self._next_refill = now + count * CHARACTER_NS

    def _refill_due(self) -> None:
        self._refill_timer = None
        self._refill()
        self._update()

    def _note_break(self) -> None:
        if self._fifo and self._fifo[0] & BREAK:  # LSR tells about the character at the top of the FIFO
            self._lsr_errors |= LSR_BREAK

    # Registers

    @property
    def _depth(self) -> int:
        return FIFO_SIZE if self._fcr & FCR_ENABLE else 1

    def read8(self, offset: int) -> int:
        """A register as the guest sees it, with the side effects of looking."""
        match offset:
            case 0:
                return self._divisor & 0xFF if self._lcr & LCR_DLAB else self._receive()
            case 1:
                return self._divisor >> 8 if self._lcr & LCR_DLAB else self._ier
            case 2:
                return self._identify()
            case 3:
                return self._lcr
            case 4:
                return self._mcr
            case 5:
                return self._line_status()
            case 6:
                return self._modem_status()
            case _:
                return self._scratch

    def write8(self, offset: int, value: int) -> None:
        """Store a register."""
        match offset:
            case 0 if self._lcr & LCR_DLAB:
                self._divisor = self._divisor & 0xFF00 | value
            case 0:
                self._transmit(value)
            case 1 if self._lcr & LCR_DLAB:
                self._divisor = self._divisor & 0xFF | value << 8
            case 1:
                self._enable_interrupts(value & 0x0F)
            case 2:
                self._control_fifos(value)
            case 3:
                self._lcr = value
            case 4:
                self._control_modem(value & 0x1F)
            case 7:
                self._scratch = value
            case _:  # LSR and MSR are for reading; factory tests only write them
                pass

    def _receive(self) -> int:
        if not self._fifo:
            return 0
        value = self._fifo.popleft() & 0xFF
        self._note_break()
        self._refill()
        self._update()
        return value

    def _transmit(self, value: int) -> None:
        if self._mcr & MCR_LOOP:
            if len(self._fifo) >= self._depth:
                self._lsr_errors |= LSR_OVERRUN
            else:
                self._fifo.append(value | LOOPED)
        else:
            self._sink(bytes([value]))
        if self._ier & IER_TRANSMIT and self._transmit_timer is None:
            self._transmit_timer = self._clock.at(self._clock.now() + TRANSMIT_NS, self._transmitted)
        if self._transmit_pending or self._mcr & MCR_LOOP:  # nothing else that may raise an interrupt has changed
            self._transmit_pending = False
            self._update()

    def _transmitted(self) -> None:
        self._transmit_timer = None
        self._transmit_pending = True
        self._update()

    def _enable_interrupts(self, value: int) -> None:
        if value & ~self._ier & IER_TRANSMIT:
            self._transmit_pending = True  # enabling the interrupt with an empty transmitter raises it
        self._ier = value
        self._update()

    def _control_fifos(self, value: int) -> None:
        if (value ^ self._fcr) & FCR_ENABLE or value & FCR_CLEAR_RECEIVE:
            self._clear_receive()
        self._fcr = value & (0xC0 | FCR_ENABLE) if value & FCR_ENABLE else 0
        if value & FCR_CLEAR_TRANSMIT and self._ier & IER_TRANSMIT:
            self._transmit_pending = True
        self._refill()
        self._update()

    def _clear_receive(self) -> None:
        """Empty the FIFO. What came from outside comes again later: drivers clear it as they start, with early input in it."""
        kept = [entry for entry in self._fifo if not entry & LOOPED]
        self._fifo.clear()
        self._lsr_errors = 0
        if kept:
            self._queue.extendleft(reversed(kept))
            self._next_refill = self._clock.now() + FIFO_SIZE * CHARACTER_NS

    def _control_modem(self, value: int) -> None:
        before = self._modem_inputs()
        self._mcr = value
        after = self._modem_inputs()
        changed = before ^ after
        self._msr_delta |= changed >> 4 & 0x0B  # CTS, DSR, DCD: any change
        if before & ~after & MSR_RI:
            self._msr_delta |= 4  # RI: its trailing edge
        self._refill()
        self._update()

    def _modem_inputs(self) -> int:
        if not self._mcr & MCR_LOOP:
            return self._modem
        loop = ((MCR_RTS, MSR_CTS), (MCR_DTR, MSR_DSR), (MCR_OUT1, MSR_RI), (MCR_OUT2, MSR_DCD))
        return sum(status for control, status in loop if self._mcr & control)

    def _modem_status(self) -> int:
        value = self._modem_inputs() | self._msr_delta
        self._msr_delta = 0
        self._update()
        return value

    def _line_status(self) -> int:
        value = LSR_THR_EMPTY | LSR_IDLE | self._lsr_errors
        if self._fifo:
            value |= LSR_DATA
            if self._fcr & FCR_ENABLE and any(entry & BREAK for entry in self._fifo):
                value |= LSR_FIFO_ERROR
        if self._lsr_errors:
            self._lsr_errors = 0
            self._update()
        return value

    # Interrupts

    def _cause(self) -> int:
        """The IIR value of the most urgent interrupt (PC16550D, table IV)."""
        if self._ier & IER_LINE and self._lsr_errors:
            return IIR_LINE
        if self._ier & IER_RECEIVED and self._fifo:
            # The character timeout comes at once: whoever types waits for no more than what is there.
            full = not self._fcr & FCR_ENABLE or len(self._fifo) >= TRIGGERS[self._fcr >> 6]
            return IIR_RECEIVED if full else IIR_TIMEOUT
        if self._ier & IER_TRANSMIT and self._transmit_pending:
            return IIR_TRANSMIT
        if self._ier & IER_MODEM and self._msr_delta:
            return IIR_MODEM
        return IIR_NONE

    def _identify(self) -> int:
        cause = self._cause()
        if cause == IIR_TRANSMIT:
            self._transmit_pending = False
            self._update()
        return cause | (IIR_FIFOS if self._fcr & FCR_ENABLE else 0)

    def _update(self) -> None:
        level = self._cause() != IIR_NONE
        if level != self._level:
            self._level = level
            self._line(level)
