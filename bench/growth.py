"""Guests of any size: code put together from real instructions, every block another one, executed once from end to end."""

import os
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.build import IMAGES, Guest, build

SEED = 20_240_607
KINDS = 4000  # different instructions to choose from
FREE = (0, 1, 2, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15)  # not RSP; RSI and RDI point to scratch memory and stay
BLOCK = (3, 9)  # instructions in a block, least and most, besides its end
ENDS = (b"\x74\x00", b"\x75\x00", b"\x72\x00", b"\x7f\x00", b"\x0f\x84\0\0\0\0", b"\x0f\x85\0\0\0\0", b"\xeb\x00", b"\xe9\0\0\0\0")


@dataclass(frozen=True, slots=True)
class Grown:
    """A guest with `size` bytes of generated code: how many instructions and blocks those are."""

    guest: Guest
    size: int
    instructions: int
    blocks: int


def grow(mebibytes: int, folder: Path = IMAGES) -> Grown:
    """The guest with so many MiB of code; the same one each time."""
    data, instructions, blocks = generate(mebibytes << 20)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"grown-{mebibytes}-{SEED}.bin"
    if not path.is_file() or path.stat().st_size != len(data):
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as scratch:
            scratch.write(data)
        os.replace(scratch.name, path)
    guest = Guest(f"grown-{mebibytes}", 1, f"{mebibytes} MiB of code", ("grown.c",), (f'-DCODE="{path}"',))
    build(guest, folder)
    return Grown(guest, len(data), instructions, blocks)


def generate(size: int) -> tuple[bytes, int, int]:
    """(code of about `size` bytes that runs from its first to its last byte, instructions, blocks)."""
    chance = random.Random(SEED)
    kinds = [_instruction(chance) for _ in range(KINDS)]
    parts: list[bytes] = []
    done = instructions = blocks = 0
    while done < size:
        count = chance.randint(*BLOCK)
        block = chance.choices(kinds, k=count)
        # a constant of its own makes the block a new one, as addresses do in real code: MOV r32, imm32
        block.append(bytes((0xB8 + chance.choice((0, 1, 2, 3, 5)),)) + chance.getrandbits(32).to_bytes(4, "little"))
        block.append(chance.choice(ENDS))
        parts += block
        done += sum(map(len, block))
        instructions += count + 2
        blocks += 1
    return b"".join(parts), instructions, blocks


def _instruction(chance: random.Random) -> bytes:
    """One instruction of those that compilers use most: moves, loads, stores, arithmetic, shifts, LEA, SETcc, CMOVcc, SSE2."""
    first, second = chance.choice(FREE), chance.choice(FREE)
    rex = 0x40 | chance.choice((0, 8)) | (second >> 3) << 2 | first >> 3
    registers = 0xC0 | (second & 7) << 3 | first & 7
    kind = chance.random()
    if kind < 0.30:  # load, store, LEA, or arithmetic with memory: [RSI or RDI + disp]
        opcode = chance.choice((0x8B, 0x8B, 0x8B, 0x89, 0x89, 0x8D, 0x03, 0x3B, 0x39, 0x85))
        far = chance.random() < 0.3
        place = (chance.randrange(128) * 8 if far else chance.randrange(16) * 8).to_bytes(4 if far else 1, "little")
        return bytes((rex & ~1, opcode, (0x80 if far else 0x40) | (second & 7) << 3 | chance.choice((6, 7)))) + place
    if kind < 0.60:  # register with register
        return bytes((rex, chance.choice((0x89, 0x8B, 0x01, 0x29, 0x31, 0x21, 0x09, 0x39, 0x85, 0x11, 0x19)), registers))
    if kind < 0.75:  # register with immediate
        return bytes((rex & ~4, 0x83, 0xC0 | chance.randrange(8) << 3 | first & 7, chance.randrange(256)))
    if kind < 0.83:  # shifts
        return bytes((rex & ~4, 0xC1, 0xC0 | chance.choice((4, 5, 7)) << 3 | first & 7, chance.randrange(1, 31)))
    if kind < 0.88:  # MOVZX, MOVSX, IMUL
        return bytes((rex, 0x0F, chance.choice((0xB6, 0xB7, 0xBE, 0xBF, 0xAF)), registers))
    if kind < 0.94:  # SETcc, CMOVcc
        condition = chance.randrange(16)
        return bytes((rex, 0x0F, chance.choice((0x90, 0x40)) + condition, registers))
    return bytes((chance.choice((0x66, 0xF2)), 0x0F, chance.choice((0x58, 0x59, 0x5C)), 0xC0 | chance.randrange(64)))
