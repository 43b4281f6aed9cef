"""Makes a kernel's tables of symbols as the releases of Linux lay them out, for whoever reads them."""

import struct
from collections.abc import Mapping, Sequence
from enum import Enum
from random import Random

from trapgate.linux.kallsyms import KernelSymbol

TOKENS = 256
SINGLE = "0123456789_.$ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class Release(Enum):
    """Where offsets are and what they count from."""

    BEFORE = "offsets and their base in front of the names"  # up to 6.3
    BEHIND = "offsets and their base behind the tokens"  # from 6.4 on
    RELATIVE = "offsets behind the tokens that count from their own places"  # 7.3


def tokens(random: Random) -> list[str]:
    """256 tokens: each character that names have stands for itself, the others for pieces of names."""
    pieces = ["".join(random.choices(SINGLE[10:], k=random.randint(2, 6))) for _ in range(TOKENS)]
    return [chr(number) if chr(number) in SINGLE else pieces[number] for number in range(TOKENS)]


def coded(label: str, numbers: Mapping[str, int]) -> bytes:
    """The tokens of a label: the longest that fits, each time."""
    out = bytearray()
    while label:
        piece = next(piece for length in range(6, 0, -1) if (piece := label[:length]) in numbers)
        out.append(numbers[piece])
        label = label[len(piece) :]
    return bytes(out)


def aligned(data: bytes, to: int = 8) -> bytes:
    """With zeros behind it."""
    return data.ljust(-(-len(data) // to) * to, b"\0")


def image(
    symbols: Sequence[KernelSymbol],
    start: int,
    release: Release,
    *,
    word: int = 8,
    long: bool = True,
    seed: int = 1,
    before: int = 4096,
) -> bytes:
    """Memory from the virtual address `start` on: `before` bytes of code, the tables, more bytes."""
    random = Random(seed)
    words = tokens(random)
    numbers = {each: number for number, each in enumerate(words)}
    base = min(one.address for one in symbols if one.kind != "A")
    names, markers = bytearray(), []
    for number, one in enumerate(symbols):
        if number % 256 == 0:
            markers.append(len(names))
        body = coded(one.label, numbers)
        names += (bytes([len(body) & 0x7F | 0x80, len(body) >> 7]) if long and len(body) > 0x7F else bytes([len(body)])) + body
    table = [len(symbols).to_bytes(4, "little"), bytes(names), struct.pack(f"<{len(markers)}I", *markers)]
    index, text = [], b""
    for each in words:
        index.append(len(text))
        text += each.encode() + b"\0"
    middle = b"".join(aligned(part, word) for part in (*table, text, struct.pack(f"<{TOKENS}H", *index)))
    code = random.randbytes(before)
    if release is Release.RELATIVE:
        at = start + len(code) + len(middle)
        offsets = [one.address - (at + 4 * number) for number, one in enumerate(symbols)]
    else:
        offsets = [one.address if one.kind == "A" else base - 1 - one.address for one in symbols]
    places = aligned(struct.pack(f"<{len(symbols)}i", *offsets), word) + base.to_bytes(word, "little")
    parts = (places, middle) if release is Release.BEFORE else (middle, places)
    return code + b"".join(parts) + random.randbytes(64)
