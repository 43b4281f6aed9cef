"""Pushes and pops from Python, on the present stack or on one that an inner level is about to get. Nothing moves until `commit`."""

from trapgate.arch import paging, vectors
from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.soft.exact.operands import ALL_64, is_64, refuse_unaligned, within, write_part
from trapgate.soft.state.core import SoftCore
from trapgate.soft.state.fault import GuestFault


class Stack:
    """A stack pointer on the move. `bits`: its width; `error`: the code of the #SS that an access outside the segment raises."""

    def __init__(
        self, cpu: SoftCore, pointer: int, bits: int, base: int = 0, limit: int = 0, attributes: int = 0,
        error: int = 0, rights: int | None = None,
    ) -> None:  # fmt: skip
        self.cpu, self.pointer, self.bits = cpu, pointer, bits
        self.base, self.limit, self.attributes, self.error, self.rights = base, limit, attributes, error, rights

    @classmethod
    def current(cls, cpu: SoftCore, rights: int | None = None, error: int = 0) -> "Stack":
        """SS:rSP as it stands, with the rights of the running mode unless told. In 64-bit mode there is no segment."""
        st = cpu.state
        if is_64(cpu):
            return cls(cpu, st.rsp, 64, error=error, rights=rights)
        bits = 32 if st.mode & modes.STACK32 else 16
        return cls(cpu, st.rsp, bits, st.ss_base, st.ss_limit, st.ss_attributes, error, rights)

    def _linear(self, offset: int, size: int, write: bool = False) -> int:
        """The linear address after every check but paging; alignment counts where the rights are those of the running mode."""
        address = self._in_segment(offset, size)
        if self.rights is None:
            refuse_unaligned(self.cpu, address, size)
        return address

    def _in_segment(self, offset: int, size: int) -> int:
        if self.bits == 64:
            if not paging.is_canonical(offset) or not paging.is_canonical((offset + size - 1) & ALL_64):
                raise GuestFault(vectors.SS, self.error)
            return offset
        if not within(self.cpu, self.limit, self.attributes, offset, size):
            raise GuestFault(vectors.SS, self.error)
        return (self.base + offset) & 0xFFFFFFFF

    def _moved(self, by: int) -> int:
        mask = (1 << self.bits) - 1
        return self.pointer & ~mask | (self.pointer + by) & mask

    def push(self, value: int, size: int) -> None:
        """Store `size` bytes below the pointer; GuestFault (#SS, #PF)."""
        pointer = self._moved(-size)
        offset = pointer & (1 << self.bits) - 1
        self.cpu.write(self._linear(offset, size, write=True), size, value, self.rights)
        self.pointer = pointer

    def pop(self, size: int, used: int | None = None) -> int:
        """Take `size` bytes, of which the lowest `used` are read (all unless told); GuestFault (#SS, #PF)."""
        used = size if used is None else used
        offset = self.pointer & (1 << self.bits) - 1
        value = self.cpu.read(self._linear(offset, used), used, self.rights)
        self.pointer = self._moved(size)
        return value

    def peek(self, size: int) -> int:
        """Read at the pointer; GuestFault (#SS, #PF)."""
        return self.cpu.read(self._linear(self.pointer & (1 << self.bits) - 1, size), size, self.rights)

    def probe(self, size: int) -> None:
        """Fault as a store of `size` bytes at the pointer would."""
        rights = self.cpu.rights() if self.rights is None else self.rights
        self.cpu.pieces(self._linear(self.pointer & (1 << self.bits) - 1, size, write=True), size, rights | s.ACCESS_WRITE)

    def skip(self, count: int) -> None:
        """Let the pointer rise by `count` bytes."""
        self.pointer = self._moved(count)

    def commit(self) -> None:
        """The stack pointer of the CPU becomes this one, in the width of this stack."""
        write_part(self.cpu, "rsp", self.bits, self.pointer)
