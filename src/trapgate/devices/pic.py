"""Models two cascaded 8259A interrupt controllers with edge/level registers (Intel 8259A data sheet; ELCR as in the 82371)."""

from typing import Annotated

from trapgate.devices.lines import ByteDevice, Line, unconnected
from trapgate.state import U8, Bits, Length, Mask, OneOf, State, require
from trapgate.values import dataclass

COMMAND, DATA = 0, 1  # register offsets (A0)
ICW1, ICW1_LEVEL, ICW1_SINGLE, ICW1_ICW4 = 0x10, 0x08, 0x02, 0x01
ICW4_FULLY_NESTED, ICW4_AUTO_EOI = 0x10, 0x02
OCW3, OCW3_MASK_SET, OCW3_MASK, OCW3_POLL = 0x08, 0x40, 0x20, 0x04
CASCADE = 2  # the master's input that the slave drives
SPURIOUS = 7  # the input that an acknowledge without request names


@dataclass(frozen=True, slots=True)
class PicState(State):
    """One chip: its inputs and output, registers, and what initialisation and operation words have made of it."""

    inputs: U8
    elcr: U8
    irr: U8
    isr: U8
    imr: U8
    base: Annotated[int, Mask(0xF8)]
    lowest: Annotated[int, Bits(3)]
    awaited: Annotated[tuple[Annotated[int, OneOf((2, 3, 4))], ...], Length(0, 3)]
    auto_eoi: bool
    rotate_auto: bool
    special_mask: bool
    fully_nested: bool
    read_isr: bool
    poll: bool
    all_level: bool
    asserted: bool


@dataclass(frozen=True, slots=True)
class PicPairState(State):
    """Both chips."""

    master: PicState
    slave: PicState


class Pic8259(ByteDevice):
    """One chip: eight inputs, IRR, ISR, IMR. `output` is its INTR pin."""

    LENGTH = 2

    def __init__(self, output: Line = unconnected, *, level_capable: int = 0xFF, master: bool = True) -> None:
        self.output = output
        self._level_capable = level_capable
        self.master = master
        self.elcr = 0
        self.base = 0  # first vector (ICW2)
        self._inputs = 0
        self._reset()

    def _reset(self) -> None:
        self.irr = self._inputs & self.elcr
        self.isr = self.imr = 0
        self._lowest = 7  # the input with the lowest priority; rotation moves it
        self._awaited: list[int] = []  # initialisation words still to come
        self._auto_eoi = self._rotate_auto = self._special_mask = self._fully_nested = False
        self._read_isr = self._poll = False
        self._all_level = False
        self.asserted = False  # INTR now

    def save(self) -> PicState:
        """All of it."""
        return PicState(
            inputs=self._inputs,
            elcr=self.elcr,
            irr=self.irr,
            isr=self.isr,
            imr=self.imr,
            base=self.base,
            lowest=self._lowest,
            awaited=tuple(self._awaited),
            auto_eoi=self._auto_eoi,
            rotate_auto=self._rotate_auto,
            special_mask=self._special_mask,
            fully_nested=self._fully_nested,
            read_isr=self._read_isr,
            poll=self._poll,
            all_level=self._all_level,
            asserted=self.asserted,
        )

    def check(self, state: PicState) -> None:
        """Raise StateError where `load` would: an input is level-triggered that cannot be."""
        require(not state.elcr & ~self._level_capable, f"inputs {state.elcr:#x} cannot all be level-triggered")

    def load(self, state: PicState) -> None:
        """All of it. StateError, as `check` has it."""
        self.check(state)
        self._inputs, self.elcr = state.inputs, state.elcr
        self.irr, self.isr, self.imr, self.base = state.irr, state.isr, state.imr, state.base
        self._lowest, self._awaited = state.lowest, list(state.awaited)
        self._auto_eoi, self._rotate_auto = state.auto_eoi, state.rotate_auto
        self._special_mask, self._fully_nested = state.special_mask, state.fully_nested
        self._read_isr, self._poll = state.read_isr, state.poll
        self._all_level, self.asserted = state.all_level, state.asserted

    def settled(self) -> PicState:
        """All of it, with INTR as it follows from the rest."""
        self.asserted = self.request() is not None
        return self.save()

    # Inputs and output

    def set_line(self, number: int, level: bool) -> None:
        """Drive input 0-7."""
        bit = 1 << number
        if level:
            if self._is_level(bit) or not self._inputs & bit:
                self.irr |= bit
            self._inputs |= bit
        else:
            self._inputs &= ~bit
            if self._is_level(bit):
                self.irr &= ~bit
        self._update()

    def _is_level(self, bit: int) -> bool:
        return self._all_level or bool(self.elcr & bit)

    def _first(self, bits: int) -> int | None:
        """The input of highest priority among `bits`: the order starts behind the lowest one."""
        for step in range(1, 9):
            number = (self._lowest + step) & 7
            if bits >> number & 1:
                return number
        return None

    def _rank(self, number: int | None) -> int:
        return 8 if number is None else (number - self._lowest - 1) & 7

    def request(self) -> int | None:
        """The input that INTR stands for now, or None."""
        number = self._first(self.irr & ~self.imr)
        if number is None:
            return None
        serviced = self.isr
        if self._special_mask:
            serviced &= ~self.imr
        if self._fully_nested and self.master:
            serviced &= ~(1 << CASCADE)
        return number if self._rank(number) < self._rank(self._first(serviced)) else None

    def acknowledge(self) -> int | None:
        """INTA: the input that is now in service; None when the request has gone (the chip then answers 7, no ISR bit set)."""
        number = self.request()
        if number is not None:
            bit = 1 << number
            if not self._is_level(bit):
                self.irr &= ~bit
            if not self._auto_eoi:
                self.isr |= bit
            elif self._rotate_auto:
                self._lowest = number
        self._update()
        return number

    def _update(self) -> None:
        level = self.request() is not None
        if level != self.asserted:
            self.asserted = level
            self.output(level)

    # Registers

    def read8(self, offset: int) -> int:
        """IMR at the data port; IRR, ISR or the answer to a poll at the command port."""
        if self._poll:
            self._poll = False
            number = self.acknowledge()
            return SPURIOUS if number is None else 0x80 | number
        if offset == DATA:
            return self.imr
        return self.isr if self._read_isr else self.irr

    def write8(self, offset: int, value: int) -> None:
        """ICW1-4 and OCW1-3."""
        if offset == DATA:
            if self._awaited:
                self._initialise(self._awaited.pop(0), value)
            else:
                self.imr = value
        elif value & ICW1:
            self._reset()
            self._all_level = bool(value & ICW1_LEVEL)
            self._awaited = [2] + ([] if value & ICW1_SINGLE else [3]) + ([4] if value & ICW1_ICW4 else [])
            self.output(False)
        elif value & OCW3:
            self._operation3(value)
        else:
            self._operation2(value >> 5, value & 7)
        self._update()

    def _initialise(self, word: int, value: int) -> None:
        if word == 2:
            self.base = value & 0xF8
        elif word == 4:  # word 3 names the cascade, which is wired
            self._auto_eoi = bool(value & ICW4_AUTO_EOI)
            self._fully_nested = bool(value & ICW4_FULLY_NESTED)

    def _operation3(self, value: int) -> None:
        self._poll = bool(value & OCW3_POLL)
        if value & 2:
            self._read_isr = bool(value & 1)
        if value & OCW3_MASK_SET:
            self._special_mask = bool(value & OCW3_MASK)

    def _operation2(self, operation: int, number: int) -> None:
        match operation:
            case 0 | 4:
                self._rotate_auto = operation == 4
            case 1 | 5:  # end the interrupt of highest priority, with rotation (5) or without
                # in special mask mode a masked interrupt stays in service
                serviced = self._first(self.isr & ~self.imr if self._special_mask else self.isr)
                if serviced is not None:
                    self.isr &= ~(1 << serviced)
                    if operation == 5:
                        self._lowest = serviced
            case 3 | 7:  # end a named one
                self.isr &= ~(1 << number)
                if operation == 7:
                    self._lowest = number
            case 6:
                self._lowest = number

    def set_elcr(self, value: int) -> None:
        """Edge (0) or level (1) for each input; the system timer and others are always edge."""
        self.elcr = value & self._level_capable
        self.irr = self.irr & ~self.elcr | self._inputs & self.elcr
        self._update()


class _Elcr(ByteDevice):
    LENGTH = 2

    def __init__(self, chips: tuple[Pic8259, Pic8259]) -> None:
        self._chips = chips

    def read8(self, offset: int) -> int:
        return self._chips[offset].elcr

    def write8(self, offset: int, value: int) -> None:
        self._chips[offset].set_elcr(value)


class PicPair:
    """Master and slave as a PC wires them: inputs 0-15, the slave at the master's input 2. `output` is INTR to the CPU."""

    def __init__(self, output: Line = unconnected) -> None:
        self.master = Pic8259(output, level_capable=0xF8)
        self.slave = Pic8259(self._cascade, level_capable=0xDE, master=False)
        self.elcr = _Elcr((self.master, self.slave))

    def save(self) -> PicPairState:
        """Both chips."""
        return PicPairState(self.master.save(), self.slave.save())

    def check(self, state: PicPairState) -> None:
        """Raise StateError where `load` would."""
        self.master.check(state.master)
        self.slave.check(state.slave)

    def load(self, state: PicPairState) -> None:
        """Both chips. StateError, as `check` has it."""
        self.check(state)
        self.master.load(state.master)
        self.slave.load(state.slave)

    def _cascade(self, level: bool) -> None:
        self.master.set_line(CASCADE, level)

    def set_line(self, number: int, level: bool) -> None:
        """Drive input 0-15 (2 is the cascade: nobody else's)."""
        if number < 8:
            if number != CASCADE:
                self.master.set_line(number, level)
        else:
            self.slave.set_line(number - 8, level)

    def pending(self) -> bool:
        """Whether INTR is asserted."""
        return self.master.asserted

    def acknowledge(self) -> int:
        """INTA: the vector of the request of highest priority; spurious vectors (input 7) when it has gone meanwhile."""
        number = self.master.acknowledge()
        if number is None:
            return self.master.base + SPURIOUS
        if number != CASCADE:
            return self.master.base + number
        behind = self.slave.acknowledge()
        return self.slave.base + (SPURIOUS if behind is None else behind)
