"""The escape key of a raw terminal, as QEMU has it: Ctrl-A x quits, Ctrl-A h helps, Ctrl-A twice sends one. No I/O here."""

from enum import Enum

ESCAPE = 0x01  # Ctrl-A
HELP = "\r\nCtrl-A x  quit\r\nCtrl-A h  this help\r\nCtrl-A Ctrl-A  send Ctrl-A to the guest\r\n"


class Key(Enum):
    """What the user asked of trapgate itself."""

    QUIT = "x"
    HELP = "h"


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
            elif (letter := chr(byte).lower()) in ("x", "h"):
                if plain:
                    parts.append(bytes(plain))
                    plain.clear()
                parts.append(Key(letter))
        if plain:
            parts.append(bytes(plain))
        return parts
