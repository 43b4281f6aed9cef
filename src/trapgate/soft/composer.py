"""A whole block before it has a place: templates strung together, out-of-line parts behind them, and almost nothing left to fill.

A block begins with its own RIP (8 bytes of data, 8 of padding); out-of-line code finds RIP there, relative to itself, and reaches
native functions through the table in the CPU state. So a block can be kept, in memory and on disk, and copied to wherever its
bytes are met again: only the 64-bit constants that contain RIP are filled in, and the branches out are chained. Where the bytes
hold an address, blocks that differ in nothing else are one: the address is a parameter, taken from the guest's bytes at each copy.
"""

import struct

from trapgate.isa.native.placing import ENTRY, RELATIVE
from trapgate.soft.template import Parameters, Template

_LEA_RCX = b"\x48\x8d\x0d"  # lea rcx, [rip + disp32]: RCX holds RESUME at every seam
_LOAD_RAX = b"\x48\x8b\x05"  # mov rax, [rip + disp32]
_STORE_RIP = b"\x49\x89\x04\x24"  # mov [r12], rax: RIP is the first field of the state
_JUMP_TABLE = b"\x41\xff\xa4\x24"  # jmp [r12 + disp32]
_ADD_RAX, _ADD_EAX, _ADD_AX = b"\x48\x05", b"\x05", b"\x66\x05"  # add with an immediate of 32, 32 and 16 bits
_LEAVE64, _LEAVE32, _LEAVE16 = struct.Struct("<3si2si4s4sI"), struct.Struct("<3si1sI4s4sI"), struct.Struct("<3si2sH4s4sI")


Rips = tuple[tuple[int, int], ...]  # 8-byte holes: (offset, addend to the block's RIP)
Exits = tuple[tuple[int, int, int], ...]  # 4-byte branches: (offset, offset of the unlinked way out, target - the block's RIP)
Numbers = tuple[tuple[int, bytes], ...]  # 4-byte numbers of Python-executed instructions: (offset, instruction bytes)
BlockTemplate = tuple[bytes, bytes, Parameters, Rips, Exits, Numbers]
"""A translated block, independent of where it runs: guest bytes, host code, holes."""


class Composer:
    """Lays a block out."""

    def __init__(self, code_size: int, natives: dict[str, int]) -> None:
        self._code_size, self._natives = code_size, natives  # natives: offset in the CPU state of each function's address
        self._code = bytearray(ENTRY)
        self._parameters: list[tuple[int, int, int, int]] = []
        self._rips: list[tuple[int, int]] = []
        self._colds: list[tuple[int, str, int, int]] = []
        self._direct: list[tuple[int, str]] = []
        self._exits: list[tuple[int, int]] = []
        self._python: list[tuple[int, bytes]] = []

    def add(self, template: Template, by: int, raw: bytes = b"") -> None:
        """Append an instruction that lies `by` bytes into the block."""
        start = len(self._code)
        self._code += template.code
        for place, kind, at, addend in template.parameters:
            self._parameters.append((by + place, kind, start + at, addend + by if kind == RELATIVE else addend))
        for at, addend in template.rips:
            self._rips.append((start + at, by + addend))
        for at, function, resume in template.colds:
            self._colds.append((start + at, function, start + resume, by))
        for at, function in template.natives:
            self._direct.append((start + at, function))
        for way in template.exits:
            self._exits.append((start + way.at, by + way.by))
        for at in template.python:
            self._python.append((start + at, raw))

    def leave(self, by: int) -> None:
        """The block ends here; on at `by`."""
        self._exits.append((len(self._code) + 1, by))
        self._code += b"\xe9\0\0\0\0"

    def finish(self, guest: bytes) -> BlockTemplate:
        """Add the out-of-line parts."""
        code = self._code
        for at, function, resume, by in self._colds:
            self._bind(at)
            code += _LEA_RCX + (resume - len(code) - 7).to_bytes(4, "little", signed=True)
            self._leave(by, function)
        shared: dict[str, int] = {}
        for at, function in self._direct:
            if function not in shared:
                shared[function] = len(code)
                code += _JUMP_TABLE + self._natives[function].to_bytes(4, "little")
            code[at : at + 4] = (shared[function] - at - 4).to_bytes(4, "little", signed=True)
        exits = []
        for at, by in self._exits:
            exits.append((at, len(code), by))
            self._bind(at)
            self._leave(by, "dispatch")
        return guest, bytes(code), tuple(self._parameters), tuple(self._rips), tuple(exits), tuple(self._python)

    def _bind(self, at: int) -> None:
        """The branch at `at` goes to the end of what there is."""
        self._code[at : at + 4] = (len(self._code) - at - 4).to_bytes(4, "little", signed=True)

    def _leave(self, by: int, function: str) -> None:
        """cpu.rip = the block's RIP + by, cut to the code size; on at a native function. RAX is free at every seam."""
        code = self._code
        rip = -len(code) - 7
        if self._code_size == 64:
            most = (1 << 31) - 1
            if by > most:  # as far as a branch goes, and its own length
                code += _LOAD_RAX + rip.to_bytes(4, "little", signed=True) + _ADD_RAX + most.to_bytes(4, "little")
                code += _ADD_RAX + (by - most).to_bytes(4, "little") + _STORE_RIP
                code += _JUMP_TABLE + self._natives[function].to_bytes(4, "little")
                return
            code += _LEAVE64.pack(_LOAD_RAX, rip, _ADD_RAX, by, _STORE_RIP, _JUMP_TABLE, self._natives[function])
        elif self._code_size == 32:
            code += _LEAVE32.pack(_LOAD_RAX, rip, _ADD_EAX, by & 0xFFFFFFFF, _STORE_RIP, _JUMP_TABLE, self._natives[function])
        else:
            code += _LEAVE16.pack(_LOAD_RAX, rip, _ADD_AX, by & 0xFFFF, _STORE_RIP, _JUMP_TABLE, self._natives[function])
