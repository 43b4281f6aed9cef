"""Takes the escape key of a raw terminal, as QEMU has it: Ctrl-A x quits, h helps, p is the power button. No I/O here."""

from enum import Enum

ESCAPE = 0x01  # Ctrl-A
HELP = (
    "\r\nCtrl-A x  quit\r\nCtrl-A p  press the power button\r\nCtrl-A h  this help\r\nCtrl-A Ctrl-A  send Ctrl-A to the guest\r\n"
)


class Key(Enum):
    """What the user asked of trapgate itself."""

    QUIT = "x"
    HELP = "h"
    POWER = "p"


class Escape:
    """Splits what was typed into bytes for the guest and commands. An escape may end one `feed` and its letter begin the next."""

    def __init__(self) -> None:
        self._escaped = False

    def feed(self, data: bytes) -> list[bytes | Key]:
        """Bytes for the guest and commands, in the order they were typed. An unknown letter after the escape is dropped with it."""
        parts: list[bytes | Key] = []
        plain = bytearray()
        for byte in data:
            if not self._escaped:
                if byte == ESCAPE:
                    self._escaped = True
                else:
                    plain.append(byte)
                continue
            self._escaped = False
            if byte == ESCAPE:
                plain.append(byte)
            elif (letter := chr(byte).lower()) in [key.value for key in Key]:
                if plain:
                    parts.append(bytes(plain))
                    plain.clear()
                parts.append(Key(letter))
        if plain:
            parts.append(bytes(plain))
        return parts
