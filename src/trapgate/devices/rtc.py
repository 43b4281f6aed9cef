"""Models the MC146818 real-time clock with its CMOS RAM: index and data port, alarm, periodic and update interrupts."""

import calendar
import time
from typing import Annotated

from trapgate.arch.layout import RTC_CENTURY_INDEX
from trapgate.clock import FAR, Clock, Moment, Timer, TimerState
from trapgate.devices.lines import ByteDevice, Line, unconnected
from trapgate.devices.parts import Part
from trapgate.state import U8, Bits, Length, Mask, Range, State
from trapgate.values import dataclass

SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM, WEEKDAY, DAY, MONTH, YEAR, A, B, C, D = range(14)
UIP = 0x80  # register A: update in progress
SET, PERIODIC, ALARM, UPDATE, BINARY, HOURS24 = 0x80, 0x40, 0x20, 0x10, 0x04, 0x02  # register B; C has the flags at the same bits
IRQF = 0x80  # register C: any enabled flag
VALID = 0x80  # register D: the battery is good
DIVIDER_RUNS = 0x20  # register A bits 6:4 = 010: the 32 KiHz time base
NS = 1_000_000_000
UIP_NS = 244_000  # UIP rises so long before the update
TIME_REGISTERS = (SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, RTC_CENTURY_INDEX)
CMOS_SIZE = 128
LATEST = 1 << 68  # ns since 1970: the year 11322, which no guest can set


@dataclass(frozen=True, slots=True)
class RtcState(State):
    """Registers and CMOS RAM. `offset` is the world's time (ns since 1970, UTC) at guest time 0.

    `held` has the time registers, in the order of `TIME_REGISTERS`, while SET stops them; flags in C tell events up to `seen`.
    """

    offset: Annotated[int, Range(-FAR, LATEST)]
    index: Annotated[int, Bits(7)]
    cmos: Annotated[bytes, Length(CMOS_SIZE)]
    a: Annotated[int, Bits(7)]
    b: U8
    c: Annotated[int, Mask(PERIODIC | ALARM | UPDATE)]
    held: Annotated[tuple[U8, ...], Length(len(TIME_REGISTERS))] | None
    seen: Moment
    timer: TimerState | None


class Rtc(ByteDevice, Part[RtcState]):
    """Ports 70h and 71h. Time is `wall_start` (ns since 1970, UTC) plus guest time plus what the guest set."""

    LENGTH = 2

    def __init__(self, clock: Clock, wall_start: int, line: Line = unconnected) -> None:
        self._clock, self._line = clock, line
        self._offset = wall_start
        self._index = 0
        self.cmos = bytearray(CMOS_SIZE)
        self._a, self._b, self._c = DIVIDER_RUNS | 6, HOURS24, 0
        self._held: dict[int, int] | None = None  # the time registers while SET stops them
        self._seen = clock.now()  # flags in C tell events up to this moment
        self._timer: Timer | None = None

    def save(self) -> RtcState:
        """Time, registers, CMOS RAM and timer."""
        held = tuple(self._held[index] for index in TIME_REGISTERS) if self._held is not None else None
        timer = self._timer.save() if self._timer else None
        registers = self._a, self._b, self._c
        return RtcState(self._offset, self._index, bytes(self.cmos), *registers, held, self._seen, timer)

    def load(self, state: RtcState) -> None:
        """Time, registers, CMOS RAM and timer."""
        self._offset, self._index, self.cmos[:] = state.offset, state.index, state.cmos
        self._a, self._b, self._c = state.a, state.b, state.c
        self._held = dict(zip(TIME_REGISTERS, state.held, strict=True)) if state.held is not None else None
        self._seen = state.seen
        self._timer = self._clock.again(self._timer, state.timer, self._update)

    # Time

    def begin(self, wall_start: int) -> None:
        """The guest starts only now: so late it is (ns since 1970) at guest time 0, whenever the machine was made."""
        self._offset = wall_start

    def _wall(self) -> int:
        return self._clock.now() + self._offset

    def _encode(self, value: int) -> int:
        return value if self._b & BINARY else value // 10 << 4 | value % 10

    def _decode(self, value: int) -> int:
        return value if self._b & BINARY else (value >> 4) * 10 + (value & 0xF)

    def _encode_hour(self, hour: int) -> int:
        if self._b & HOURS24:
            return self._encode(hour)
        return self._encode((hour - 1) % 12 + 1) | (0x80 if hour >= 12 else 0)

    def _decode_hour(self, value: int) -> int:
        if self._b & HOURS24:
            return self._decode(value)
        return self._decode(value & 0x7F) % 12 + (12 if value & 0x80 else 0)

    def _fields(self) -> dict[int, int]:
        """The time registers as they read now."""
        if self._held is not None:
            return self._held
        when = time.gmtime(self._wall() // NS)
        encode = self._encode
        return {
            SECONDS: encode(min(when.tm_sec, 59)),
            MINUTES: encode(when.tm_min),
            HOURS: self._encode_hour(when.tm_hour),
            WEEKDAY: encode((when.tm_wday + 1) % 7 + 1),  # Sunday is 1
            DAY: encode(when.tm_mday),
            MONTH: encode(when.tm_mon),
            YEAR: encode(when.tm_year % 100),
            RTC_CENTURY_INDEX: encode(when.tm_year // 100 % 100),
        }

    def _adopt(self, fields: dict[int, int]) -> None:
        """Go on from a time that the guest wrote; nonsense is normalised (day 31 of a short month runs over into the next)."""
        decode = self._decode
        year = min(max(decode(fields[RTC_CENTURY_INDEX]) * 100 + decode(fields[YEAR]), 1970), 9999)
        month = min(max(decode(fields[MONTH]), 1), 12)
        clock_time = self._decode_hour(fields[HOURS]), decode(fields[MINUTES]), decode(fields[SECONDS])
        self._offset = calendar.timegm((year, month, decode(fields[DAY]), *clock_time)) * NS - self._clock.now()

    # Events

    def _period(self) -> int | None:
        """The periodic interrupt's period in ns, or None when it is off."""
        rate = self._a & 0x0F
        if not rate or self._a & 0x70 != DIVIDER_RUNS:
            return None
        return (1 << (rate + 6 if rate < 3 else rate - 1)) * NS // 32768

    def _next_second(self, after: int) -> int:
        """The first moment of guest time after `after` at which the seconds change."""
        return after + NS - (after + self._offset) % NS

    def _next_alarm(self, after: int) -> int | None:
        """The first moment after `after` at which the alarm registers match; an alarm byte of C0h or more matches always."""
        wall = self._next_second(after) + self._offset
        wanted = (self.cmos[HOURS_ALARM], self.cmos[MINUTES_ALARM], self.cmos[SECONDS_ALARM])
        decoders = (self._decode_hour, self._decode, self._decode)
        hour, minute, second = (None if raw >= 0xC0 else decode(raw) for raw, decode in zip(wanted, decoders, strict=True))
        if (hour or 0) > 23 or (minute or 0) > 59 or (second or 0) > 59:
            return None
        now = wall // NS
        for unit, part, size in ((1, second, 60), (60, minute, 60), (3600, hour, 24)):
            if part is not None and now // unit % size != part:
                now = (now // unit + (part - now // unit % size) % size) * unit
                # finer parts start again at their own earliest match
                if unit == 60 and second is not None:
                    now += second
                elif unit == 3600:
                    now += (minute or 0) * 60 + (second or 0)
        return now * NS - self._offset

    def _catch_up(self) -> None:
        """Set the flags of all that happened since the last look."""
        now, since = self._clock.now(), self._seen
        self._seen = now
        period = self._period()
        if period is not None and now // period != since // period:
            self._c |= PERIODIC
        if self._held is None:
            if self._next_second(since) <= now:
                self._c |= UPDATE
            alarm = self._next_alarm(since)
            if alarm is not None and alarm <= now:
                self._c |= ALARM

    def _update(self) -> None:
        """Drive the line and ask to be called at the next event whose interrupt is enabled."""
        self._catch_up()
        self._line(bool(self._c & self._b & (PERIODIC | ALARM | UPDATE)))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        moments: list[int] = []
        period = self._period()
        if self._b & ~self._c & PERIODIC and period is not None:
            moments.append((self._seen // period + 1) * period)
        if self._held is None:
            if self._b & ~self._c & UPDATE:
                moments.append(self._next_second(self._seen))
            alarm = self._next_alarm(self._seen) if self._b & ~self._c & ALARM else None
            if alarm is not None:
                moments.append(alarm)
        if moments:
            self._timer = self._clock.at(min(moments), self._update)

    # Registers

    def read8(self, offset: int) -> int:
        """The indexed byte; the index itself cannot be read."""
        if offset == 0:
            return 0xFF
        index = self._index
        if index in TIME_REGISTERS:
            return self._fields()[index]
        match index:
            case 10:
                updating = self._held is None and self._wall() % NS >= NS - UIP_NS
                return self._a | (UIP if updating else 0)
            case 11:
                return self._b
            case 12:
                return self._take_flags()
            case 13:
                return VALID
            case _:
                return self.cmos[index]

    def _take_flags(self) -> int:
        self._catch_up()
        flags = self._c | (IRQF if self._c & self._b & (PERIODIC | ALARM | UPDATE) else 0)
        self._c = 0
        self._update()
        return flags

    def write8(self, offset: int, value: int) -> None:
        """Select an index (bit 7 masks NMI, which nothing here raises through the chip set), or store the indexed byte."""
        if offset == 0:
            self._index = value & 0x7F
            return
        index = self._index
        if index in TIME_REGISTERS:
            if self._held is not None:
                self._held[index] = value
            else:
                self._adopt(self._fields() | {index: value})
        elif index == A:
            self._catch_up()
            self._a = value & 0x7F
        elif index == B:
            self._write_b(value)
        elif index not in (C, D):
            self.cmos[index] = value
        self._update()

    def _write_b(self, value: int) -> None:
        self._catch_up()
        if value & SET and self._held is None:
            self._held = self._fields()
        leaving = not value & SET and self._held is not None
        self._b = value & ~UPDATE if value & SET else value  # SET clears UIE
        if leaving:
            held, self._held = self._held, None
            assert held is not None
            self._adopt(held)
            self._seen = self._clock.now()
