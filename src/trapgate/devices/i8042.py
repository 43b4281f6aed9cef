"""Plays a keyboard controller (8042) with nothing plugged in: it passes its self test, answers commands, resets the machine."""

from collections import deque
from collections.abc import Callable
from typing import Annotated

from trapgate.devices.lines import ByteDevice, Line, unconnected
from trapgate.devices.parts import Part
from trapgate.state import U8, Length, Mask, OneOf, State
from trapgate.values import dataclass

OUTPUT_FULL, SYSTEM_FLAG, LAST_WAS_COMMAND, AUX_FULL, TIMEOUT = 0x01, 0x04, 0x08, 0x20, 0x40  # status register
KEYBOARD_INTERRUPT, AUX_INTERRUPT, KEYBOARD_OFF, AUX_OFF = 0x01, 0x02, 0x10, 0x20  # command byte
RESEND = 0xFE  # what stands in the buffer after a transmission that nobody answered
SELF_TEST_PASSED = 0x55
RESET_OFF = 0x01  # output port bit 0: 0 holds the CPU in reset
WITH_PARAMETER = (0x60, 0xD1, 0xD2, 0xD3, 0xD4)  # commands that take a byte at the data port
MOST_ANSWERS = 16


@dataclass(frozen=True, slots=True)
class I8042State(State):
    """Registers, the command that waits for its byte (0: none), and the answers (byte, status bits) that wait to be read."""

    command_byte: U8
    output_port: U8
    parameter_of: Annotated[int, OneOf((0, *WITH_PARAMETER))]
    last_was_command: bool
    answers: Annotated[tuple[tuple[U8, Annotated[int, Mask(AUX_FULL | TIMEOUT)]], ...], Length(0, MOST_ANSWERS)]
    last: U8


class _CommandPort(ByteDevice):
    def __init__(self, controller: "I8042") -> None:
        self._controller = controller

    def read8(self, offset: int) -> int:
        return self._controller.status()

    def write8(self, offset: int, value: int) -> None:
        self._controller.command(value)


class I8042(ByteDevice, Part[I8042State]):
    """The data port (60h); `command_port` is the other one (64h).

    A byte sent to the absent keyboard or mouse comes back as a timeout, so drivers give up at once.
    """

    def __init__(self, reset: Callable[[], None], keyboard: Line = unconnected, mouse: Line = unconnected) -> None:
        self._reset = reset
        self._keyboard, self._mouse = keyboard, mouse
        self._command_byte = SYSTEM_FLAG | KEYBOARD_OFF | AUX_OFF
        self._output_port = 0x03  # reset line high, A20 on
        self._parameter_of = 0  # command that waits for its byte at the data port
        self._last_was_command = False
        self._answers: deque[tuple[int, int]] = deque()  # (byte, status bits that come with it)
        self._last = 0
        self.command_port = _CommandPort(self)

    def save(self) -> I8042State:
        """All of it."""
        waiting = self._parameter_of, self._last_was_command
        return I8042State(self._command_byte, self._output_port, *waiting, tuple(self._answers), self._last)

    def load(self, state: I8042State) -> None:
        """All of it."""
        self._command_byte, self._output_port = state.command_byte, state.output_port
        self._parameter_of, self._last_was_command = state.parameter_of, state.last_was_command
        self._answers, self._last = deque(state.answers), state.last

    def status(self) -> int:
        """The status register."""
        status = SYSTEM_FLAG | (LAST_WAS_COMMAND if self._last_was_command else 0)
        return status | (OUTPUT_FULL | self._answers[0][1] if self._answers else 0)

    def read8(self, offset: int) -> int:
        """The next answer; the last one again when there is none."""
        if self._answers:
            self._last = self._answers.popleft()[0]
            self._drive()
        return self._last

    def write8(self, offset: int, value: int) -> None:
        """A byte for the command that waits for one, or for the absent keyboard."""
        self._last_was_command = False
        command, self._parameter_of = self._parameter_of, 0
        self._data(command, value)

    def command(self, value: int) -> None:
        """A controller command."""
        self._last_was_command = True
        self._parameter_of = 0
        self._command(value)

    def _answer(self, byte: int, bits: int = 0) -> None:
        if len(self._answers) < MOST_ANSWERS:
            self._answers.append((byte, bits))
        self._drive()

    def _drive(self) -> None:
        from_aux = bool(self._answers) and bool(self._answers[0][1] & AUX_FULL)
        self._keyboard(bool(self._answers) and not from_aux and bool(self._command_byte & KEYBOARD_INTERRUPT))
        self._mouse(from_aux and bool(self._command_byte & AUX_INTERRUPT))

    def _command(self, value: int) -> None:
        match value:
            case 0x20:
                self._answer(self._command_byte)
            case _ if value in WITH_PARAMETER:
                self._parameter_of = value
            case 0xA7:
                self._command_byte |= AUX_OFF
            case 0xA8:
                self._command_byte &= ~AUX_OFF
            case 0xA9 | 0xAB:  # interface tests: no fault
                self._answer(0x00)
            case 0xAA:
                self._command_byte |= SYSTEM_FLAG
                self._answer(SELF_TEST_PASSED)
            case 0xAD:
                self._command_byte |= KEYBOARD_OFF
            case 0xAE:
                self._command_byte &= ~KEYBOARD_OFF
            case 0xC0:
                self._answer(0x80)  # input port: keyboard not locked
            case 0xD0:
                self._answer(self._output_port | (OUTPUT_FULL << 4 if self._answers else 0))
            case _ if value >= 0xF0:  # pulse the output port's low bits that are 0 here
                if not value & RESET_OFF:
                    self._reset()

    def _data(self, command: int, value: int) -> None:
        match command:
            case 0x60:
                self._command_byte = value
                self._drive()
            case 0xD1:
                self._output_port = value
                if not value & RESET_OFF:
                    self._reset()
            case 0xD2:
                self._answer(value)
            case 0xD3:
                self._answer(value, AUX_FULL)
            case 0xD4:
                self._answer(RESEND, AUX_FULL | TIMEOUT)
            case _:
                self._answer(RESEND, TIMEOUT)
