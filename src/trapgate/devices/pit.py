"""Models the 8254 timer: three channels, all modes, latches and read-back; and port 61h with the gate and output of channel 2."""

from typing import Annotated, Protocol

from trapgate.arch.layout import PIT_HZ
from trapgate.clock import Begun, Clock, Timer, TimerState
from trapgate.devices.lines import ByteDevice, Line, unconnected
from trapgate.devices.parts import Part
from trapgate.state import U8, U64, Bits, Length, Range, State
from trapgate.values import dataclass

CONTROL = 3  # offset of the control word
READ_BACK = 3  # control word's channel number that means "read back"
LATCH, LOW, HIGH, WORD = range(4)  # access modes (control word bits 5:4)
NS = 1_000_000_000
# No timer storm: a channel raises its line no more often than this, whatever count the guest wrote.
SHORTEST_NS = 20_000


@dataclass(frozen=True, slots=True)
class ChannelState(State):
    """One counter. `begun` is when the count was taken over while it runs, `frozen` the ticks it had made when it was stopped.

    `latched` and `held_status` are what reads get before the live count; `write_low` is the first byte of two.
    """

    gate: bool
    mode: Annotated[int, Range(0, 5)]
    access: Annotated[int, Range(LOW, WORD)]
    bcd: bool
    reload: Annotated[int, Range(1, 0x10000)]
    loaded: bool
    running: bool
    begun: Begun
    frozen: U64
    write_low: U8 | None
    read_high: bool
    latched: Annotated[tuple[U8, ...], Length(0, 2)]
    held_status: U8 | None
    timer: TimerState | None


@dataclass(frozen=True, slots=True)
class PitState(State):
    """The channels, and what is written to port 61h."""

    channels: tuple[ChannelState, ChannelState, ChannelState]
    system_control: Annotated[int, Bits(4)]


class Channel:
    """One counter. Its output is a function of the ticks since it started; `line` is called at the moments of its edges."""

    def __init__(self, clock: Clock, line: Line = unconnected, *, gate: bool = True) -> None:
        self._clock, self._line = clock, line
        self.gate = gate
        self._mode, self._access, self._bcd = 3, WORD, False
        self._reload = 0x10000
        self._loaded = False  # a count has been written since the control word
        self._running = False
        self._start = 0  # moment (ns) at which the count was taken over
        self._frozen = 0  # ticks elapsed when the gate stopped the counter
        self._write_low: int | None = None
        self._read_high = False
        self._latched: list[int] = []  # bytes that reads get before the live count
        self._held_status: int | None = None  # and before these
        self._timer: Timer | None = None

    def save(self) -> ChannelState:
        """All of it."""
        return ChannelState(
            gate=self.gate,
            mode=self._mode,
            access=self._access,
            bcd=self._bcd,
            reload=self._reload,
            loaded=self._loaded,
            running=self._running,
            begun=self._start,
            frozen=self._frozen,
            write_low=self._write_low,
            read_high=self._read_high,
            latched=tuple(self._latched),
            held_status=self._held_status,
            timer=self._timer.save() if self._timer else None,
        )

    def load(self, state: ChannelState) -> None:
        """All of it."""
        self.gate, self._mode, self._access, self._bcd = state.gate, state.mode, state.access, state.bcd
        self._reload, self._loaded, self._running = state.reload, state.loaded, state.running
        self._start, self._frozen = state.begun, state.frozen
        self._write_low, self._read_high = state.write_low, state.read_high
        self._latched, self._held_status = list(state.latched), state.held_status
        self._timer = self._clock.again(self._timer, state.timer, self._rise)
        if self._timer is None and self._running:  # saved by a chip that has no timers of ours
            self._schedule()

    # Time

    def _ticks(self) -> int:
        """Ticks since the count was taken over."""
        return (self._clock.now() - self._start) * PIT_HZ // NS if self._running else self._frozen

    def _moment(self, tick: int) -> int:
        return self._start - (-tick * NS // PIT_HZ)

    def _begin(self) -> None:
        self._start = self._clock.now()
        self._running, self._frozen = True, 0
        self._schedule()

    def _freeze(self) -> None:
        self._frozen, self._running = self._ticks(), False
        self._cancel()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next_rise(self) -> int | None:
        """The tick at which OUT next goes from 0 to 1, or None."""
        now, count = self._ticks(), self._reload
        match self._mode:
            case 2 | 3:
                return (now // count + 1) * count
            case 0 | 1:
                return count if now < count else None
            case _:  # strobe: low for the one tick at the end of the count
                return count + 1 if now <= count else None

    def _schedule(self) -> None:
        self._cancel()
        if self._line is unconnected:
            return
        rise = self._next_rise()
        if rise is not None:
            self._timer = self._clock.at(max(self._moment(rise), self._clock.now() + SHORTEST_NS), self._rise)

    def _rise(self) -> None:
        self._timer = None
        self._line(False)
        self._line(True)
        self._schedule()

    # What the guest sees

    def output(self) -> bool:
        """OUT now."""
        if not self._loaded:
            return self._mode != 0
        now, count = self._ticks(), self._reload
        if self._mode in (1, 5) and not self._running:
            return True  # waits for its trigger
        match self._mode:
            case 0 | 1:
                return now >= count
            case 2:
                return not self.gate or now % count != count - 1
            case 3:
                return not self.gate or now % count < (count + 1) // 2
            case _:
                return now != count

    def count(self) -> int:
        """The counting element now, 0-FFFFh (BCD digits in BCD mode)."""
        now, reload = self._ticks(), self._reload
        match self._mode:
            case 2:
                value = reload - now % reload
            case 3:
                value = reload - 2 * now % reload & ~1
            case _:
                value = reload - now
        if self._bcd:
            return int(f"{value % 10000:04}", 16)
        return value & 0xFFFF

    def set_gate(self, level: bool) -> None:
        """Drive GATE: it pauses, restarts or triggers the counter, as the mode says."""
        before, self.gate = self.gate, level
        if before == level or not self._loaded:
            return
        if level and self._mode in (1, 2, 3, 5):
            self._begin()
        elif level:
            self._start = self._moment_of_resume()
            self._running = True
            self._schedule()
        elif self._mode not in (1, 5):
            self._freeze()

    def _moment_of_resume(self) -> int:
        return self._clock.now() - -(-self._frozen * NS // PIT_HZ)

    # Registers

    def control(self, access: int, mode: int, bcd: bool) -> None:
        """A control word for this channel (access 1-3)."""
        self._cancel()
        self._access, self._mode, self._bcd = access, mode & 3 if mode > 5 else mode, bcd
        self._loaded = self._running = False
        self._frozen = 0
        self._write_low, self._read_high = None, False
        self._latched, self._held_status = [], None
        self._line(self._mode != 0)

    def latch_count(self) -> None:
        """Hold the count for reading; a latch that has not been read yet stands."""
        if not self._latched:
            value = self.count()
            low, high = [value & 0xFF], [value >> 8]
            self._latched = {LOW: low, HIGH: high, WORD: low + high}[self._access]

    def latch_status(self) -> None:
        """Hold the status byte, to be read before a held count; one that has not been read yet stands."""
        if self._held_status is None:
            null_count = not self._loaded
            mode = self._access << 4 | self._mode << 1 | self._bcd
            self._held_status = self.output() << 7 | null_count << 6 | mode

    def read(self) -> int:
        """The next byte: a held one, or of the live count."""
        if self._held_status is not None:
            status, self._held_status = self._held_status, None
            return status
        if self._latched:
            return self._latched.pop(0)
        value = self.count()
        if self._access == WORD:
            self._read_high = not self._read_high
            return value & 0xFF if self._read_high else value >> 8
        return value & 0xFF if self._access == LOW else value >> 8

    def write(self, value: int) -> None:
        """The next byte of a new count."""
        if self._access == WORD and self._write_low is None:
            self._write_low = value
            if self._mode == 0:
                self._freeze()  # the first byte of two stops a mode 0 count
            return
        if self._access == WORD:
            count, self._write_low = value << 8 | (self._write_low or 0), None
        else:
            count = value if self._access == LOW else value << 8
        self._load(count)

    def _load(self, count: int) -> None:
        if self._bcd:
            count = sum((count >> 4 * digit & 0xF) * 10**digit for digit in range(4))
        self._reload = count or (10000 if self._bcd else 0x10000)
        self._loaded = True
        if self._mode in (1, 5):
            return  # starts with its trigger
        if self._mode == 0:
            self._line(False)
        if self.gate:
            self._begin()
        else:
            self._running, self._frozen = False, 0


class SystemControl(ByteDevice):
    """Port 61h: bit 0 gates PIT channel 2, bit 1 is the speaker, bit 4 toggles with memory refresh, bit 5 is channel 2's output."""

    REFRESH_NS = 15_085  # the refresh request's half period

    def __init__(self, channel: Channel, clock: Clock) -> None:
        self._channel, self._clock = channel, clock
        self.written = 0

    def read8(self, offset: int) -> int:
        """Gate and speaker as written, refresh and output as they are."""
        refresh = self._clock.now() // self.REFRESH_NS & 1
        return self.written | refresh << 4 | self._channel.output() << 5

    def write8(self, offset: int, value: int) -> None:
        """Set gate and speaker."""
        self.written = value & 0x0F
        self._channel.set_gate(bool(value & 1))


class Elsewhere(Protocol):
    """Another timer of the same kind, in the host's kernel."""

    def save(self) -> PitState:
        """What ours would say."""
        ...

    def load(self, state: PitState) -> None:
        """Be so."""
        ...


class Pit(ByteDevice, Part[PitState]):
    """Ports 40h-43h, and `system_control`. Channel 0 drives the timer interrupt, channel 2 the speaker.

    Where the vCPU has its own at these ports, `elsewhere` is that one, and this one stands still.
    """

    LENGTH = 4

    def __init__(self, clock: Clock, line: Line = unconnected) -> None:
        self.channels = (Channel(clock, line), Channel(clock), Channel(clock, gate=False))
        self.system_control = SystemControl(self.channels[2], clock)
        self.elsewhere: Elsewhere | None = None

    def save(self) -> PitState:
        """Channels and port 61h."""
        if self.elsewhere is not None:
            return self.elsewhere.save()
        first, second, third = self.channels
        return PitState((first.save(), second.save(), third.save()), self.system_control.written)

    def load(self, state: PitState) -> None:
        """Channels and port 61h."""
        if self.elsewhere is not None:
            self.elsewhere.load(state)
            return
        for channel, one in zip(self.channels, state.channels, strict=True):
            channel.load(one)
        self.system_control.written = state.system_control

    def read8(self, offset: int) -> int:
        """The next byte of a channel; the control word cannot be read."""
        return 0 if offset == CONTROL else self.channels[offset].read()

    def write8(self, offset: int, value: int) -> None:
        """The next byte of a count, or a control word."""
        if offset != CONTROL:
            self.channels[offset].write(value)
            return
        select, access = value >> 6, value >> 4 & 3
        if select == READ_BACK:
            for number, channel in enumerate(self.channels):
                if value >> number + 1 & 1:
                    if not value & 0x20:
                        channel.latch_count()
                    if not value & 0x10:
                        channel.latch_status()
        elif access == LATCH:
            self.channels[select].latch_count()
        else:
            self.channels[select].control(access, value >> 1 & 7, bool(value & 1))
