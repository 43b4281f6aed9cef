"""Walks the stacks of a Linux kernel by its own tables, ORC (Linux, Documentation/arch/x86/orc-unwinder.rst, since 6.4).

For each address of code they say where the caller's stack pointer and frame pointer are, and whether what lies there is a return
address or the registers of what was interrupted.
"""

import struct
from bisect import bisect_right
from enum import IntEnum

from trapgate.linux.kernel import Kernel, Memory
from trapgate.values import dataclass

MOST_FRAMES = 128
_ENTRY = struct.Struct("<hhBB")  # offsets of stack pointer and frame pointer; what they count from; type and signal
_PLACE = 4  # bytes of an entry's address, which is relative to where it stands
_WORD = 8
_USER = 3  # the low bits of a user's CS
_ADDRESSES = (1 << 64) - 1
_FULL = ("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi", "")
_IRET = ("rip", "cs", "rflags", "rsp", "ss")


class _From(IntEnum):
    """What an offset counts from (ORC_REG_*)."""

    UNDEFINED = 0
    CALLERS_STACK = 1
    RDX = 2
    RDI = 3
    RBP = 4
    RSP = 5
    R10 = 6
    R13 = 7
    AT_RBP = 8
    AT_RSP = 9


class _Type(IntEnum):
    """What lies where the caller's stack pointer is (ORC_TYPE_*)."""

    UNDEFINED = 0
    END = 1
    CALL = 2
    REGISTERS = 3
    INTERRUPT = 4


_REGISTERS = {_From.RDX: "rdx", _From.RDI: "rdi", _From.RBP: "rbp", _From.RSP: "rsp", _From.R10: "r10", _From.R13: "r13"}


@dataclass(frozen=True, slots=True)
class KernelFrame:
    """An address of the kernel's; `called`: it lies behind a call."""

    pc: int
    called: bool


@dataclass(frozen=True, slots=True)
class KernelStack:
    """The frames in the kernel, the innermost first; `user`: the registers with which it was entered from a program, if it was."""

    frames: tuple[KernelFrame, ...]
    user: dict[str, int] | None


class Orc:
    """The tables of a kernel; without any, each stack is its first frame."""

    def __init__(self, kernel: Kernel, memory: Memory) -> None:
        self._memory = memory
        names = "_text", "__start_orc_unwind_ip", "__stop_orc_unwind_ip", "__start_orc_unwind"
        code, start, stop, entries = (kernel.address(name) or 0 for name in names)
        self._tables = {code: (start, (stop - start) // _PLACE, entries)} if start and entries else {}

    def add(self, code: int, tables: tuple[int, int, int]) -> None:
        """The tables of a module whose code begins there: its table of addresses, how many there are, and their entries.

        Each module is looked for in its own alone: those of another name addresses that were freed, and given to this one, as well.
        """
        self._tables[code] = tables

    def walk(self, registers: dict[str, int], *, called: bool = False) -> KernelStack:
        """The stack at some registers; `called`: RIP lies behind a call."""
        known, frames = dict(registers), [KernelFrame(registers["rip"], called)]
        while len(frames) < MOST_FRAMES:
            caller = self._caller(known, frames[-1])
            if caller is None:
                break
            known, called = caller
            if not called and known.get("cs", 0) & _USER == _USER:
                return KernelStack(tuple(frames), known)
            frames.append(KernelFrame(known["rip"], called))
        return KernelStack(tuple(frames), None)

    def _caller(self, known: dict[str, int], frame: KernelFrame) -> tuple[dict[str, int], bool] | None:
        """(registers of the caller, whether it called); None where there is none."""
        entry = self._find(frame.pc - frame.called)
        if entry is None:
            return None
        stack_offset, base_offset, sources, kind = entry
        stack = self._stack(known, sources & 0xF, stack_offset)
        if stack is None:
            return None
        match kind & 7:
            case _Type.CALL:
                pc = self._memory.word(stack - _WORD)
                found = {"rsp": stack, "rbp": known.get("rbp", 0)} | ({"rip": pc} if pc is not None else {})
            case _Type.REGISTERS:
                found = self._words(stack, _FULL) | self._words(stack + _WORD * len(_FULL), _IRET)
            case _Type.INTERRUPT:
                found = {"rbp": known.get("rbp", 0)} | self._words(stack, _IRET)
            case _:
                return None
        base = self._base(known, stack, sources >> 4, base_offset)
        if base is not None:
            found["rbp"] = base
        called = kind & 7 == _Type.CALL
        ahead = found.get("rsp", 0) > known["rsp"] or not called
        return (found, called) if found.get("rip") and ahead else None

    def _stack(self, known: dict[str, int], source: int, offset: int) -> int | None:
        if source == _From.AT_RBP:
            return self._memory.word(known.get("rbp", 0) + offset & _ADDRESSES)
        if source == _From.AT_RSP:
            value = self._memory.word(known["rsp"])
            return None if value is None else value + offset & _ADDRESSES
        if source not in _REGISTERS or (value := known.get(_REGISTERS[_From(source)])) is None:
            return None
        return value + offset & _ADDRESSES

    def _base(self, known: dict[str, int], stack: int, source: int, offset: int) -> int | None:
        if source == _From.CALLERS_STACK:
            return self._memory.word(stack + offset & _ADDRESSES)
        if source == _From.RBP:
            return self._memory.word(known.get("rbp", 0) + offset & _ADDRESSES)
        return None

    def _words(self, address: int, names: tuple[str, ...]) -> dict[str, int]:
        data = self._memory.read(address, _WORD * len(names))
        values = struct.unpack_from(f"<{len(data) // _WORD}Q", data)
        return {name: value for name, value in zip(names, values, strict=False) if name}

    def _find(self, address: int) -> tuple[int, int, int, int] | None:
        """The last entry at or before an address, of the table of what it is in."""
        table = max((one for one in self._tables.items() if one[0] <= address), default=None)
        if table is None:
            return None
        places, count, entries = table[1]
        at = bisect_right(range(count), address, key=lambda number: self._place(places, number)) - 1
        data = self._memory.read(entries + _ENTRY.size * at, _ENTRY.size) if at >= 0 else b""
        return _ENTRY.unpack(data) if len(data) == _ENTRY.size else None

    def _place(self, places: int, number: int) -> int:
        at = places + _PLACE * number
        distance = self._memory.number(at, _PLACE) or 0
        return at + (distance - (distance >> 31 << 32)) & _ADDRESSES
