"""Refuses instructions of more than 15 bytes: #GP(0), where bytes that mean nothing are #UD.

Sources: SDM vol. 3, 7.15, "#GP"; APM vol. 2, 8.2.14.
"""

from iced_x86 import Decoder

MAX_LENGTH = 15
_PREFIXES = frozenset((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3))


def is_too_long(raw: bytes, bits: int) -> bool:
    """Whether these undecodable bytes begin an instruction that would be one, were it allowed more than 15 bytes."""
    if len(raw) < MAX_LENGTH:
        return False
    kept: list[int] = []
    at = 0
    while at < MAX_LENGTH and (raw[at] in _PREFIXES or (bits == 64 and raw[at] >> 4 == 4)):
        at += 1
    if at == MAX_LENGTH:
        return True
    for number in range(at):
        prefix = raw[number]
        if prefix in _PREFIXES:
            if prefix not in kept:
                kept.append(prefix)
        elif number == at - 1:
            kept.append(prefix)  # REX counts only right before the opcode
    dropped = at - len(kept)
    instruction = Decoder(bits, bytes(kept) + raw[at:MAX_LENGTH] + bytes(MAX_LENGTH)).decode()
    return not instruction.is_invalid and instruction.len + dropped > MAX_LENGTH
