"""Answers to packets about registers, memory and breakpoints."""

from collections.abc import Callable

from trapgate.gdb.context import MALFORMED, OK, UNMAPPED, Context, Malformed, data_of_hex, number, numbers, split
from trapgate.gdb.description import IN_G, REGISTERS, Register
from trapgate.gdb.framing import PAYLOAD_SIZE
from trapgate.gdb.target import BreakKind, TargetError

_LONGEST_HEX_READ = PAYLOAD_SIZE // 2
_LONGEST_BINARY_READ = (PAYLOAD_SIZE - 1) // 2  # every byte may need an escape
_LONGEST_BREAKPOINT = 1 << 20
_ADDRESSES = 1 << 64


def _register_hex(context: Context, register: Register) -> bytes:
    value = context.target.get_register(context.thread(), register.name)
    if value is None:
        return b"x" * (2 * register.size)
    return (value & ((1 << register.bits) - 1)).to_bytes(register.size, "little").hex().encode()


def _store(context: Context, register: Register, data: bytes) -> None:
    value = int.from_bytes(data, "little")
    if register.name == "rflags":  # 32 bits on the wire; the upper half is reserved
        value &= 0xFFFFFFFF
    context.target.set_register(context.thread(), register.name, value)


def read_registers(context: Context, arguments: None) -> bytes:
    """g: every register of the standard groups."""
    return b"".join(_register_hex(context, register) for register in IN_G)


def write_registers(context: Context, digits: bytes) -> bytes:
    """G: the registers of the standard groups, as many whole ones as are given; those written as `xx` stay.

    Only registers that change are stored. All digits are checked before the first is.
    """
    new: list[tuple[Register, bytes]] = []
    at = 0
    for register in IN_G:
        text = digits[at : at + 2 * register.size]
        at += 2 * register.size
        if len(text) < 2 * register.size:
            if text:
                return MALFORMED
            break
        if text.strip(b"x"):
            data = data_of_hex(text)
            if text.lower() != _register_hex(context, register):
                new.append((register, data))
    if not digits or len(digits) > at:
        return MALFORMED
    for register, data in new:
        _store(context, register, data)
    return OK


def read_register(context: Context, arguments: list[int]) -> bytes:
    """p n: one register."""
    if arguments[0] >= len(REGISTERS):
        return MALFORMED
    return _register_hex(context, REGISTERS[arguments[0]])


def parse_write_register(text: bytes) -> tuple[Register, bytes]:
    """n=value, the value as wide as the register."""
    index, digits = split(text, b"=")
    if number(index) >= len(REGISTERS):
        raise Malformed("no such register")
    register, data = REGISTERS[number(index)], data_of_hex(digits)
    if len(data) != register.size:
        raise Malformed(f"{register.name} has {register.size} bytes")
    return register, data


def write_register(context: Context, arguments: tuple[Register, bytes]) -> bytes:
    """P n=value."""
    _store(context, *arguments)
    return OK


def _read(context: Context, address: int, length: int) -> bytes:
    """What is mapped of a range, from its start; a range never wraps round the end of the address space."""
    return context.target.read_memory(context.thread(), address, min(length, _ADDRESSES - address))


def read_memory(context: Context, arguments: list[int]) -> bytes:
    """m address,length: what is there of it, in hex; E14 when nothing is."""
    address, length = arguments
    data = _read(context, address, min(length, _LONGEST_HEX_READ)) if length else b""
    return data.hex().encode() if data or not length else UNMAPPED


def read_binary(context: Context, arguments: list[int]) -> bytes:
    """x address,length: as m, in binary after a `b`."""
    address, length = arguments
    data = _read(context, address, min(length, _LONGEST_BINARY_READ)) if length else b""
    return b"b" + data if data or not length else UNMAPPED


def _parse_write(text: bytes) -> tuple[int, int, bytes]:
    address, length, data = split(text, b",", b":")
    return number(address), number(length), data


def parse_hex_write(text: bytes) -> tuple[int, bytes]:
    """address,length:hex with exactly as much data as it says."""
    address, length, digits = _parse_write(text)
    data = data_of_hex(digits)
    if len(data) != length:
        raise Malformed(f"{len(data)} bytes of data where {length} were announced")
    return address, data


def parse_binary_write(text: bytes) -> tuple[int, bytes]:
    """address,length:bytes with exactly as much data as it says."""
    address, length, data = _parse_write(text)
    if len(data) != length:
        raise Malformed(f"{len(data)} bytes of data where {length} were announced")
    return address, data


def write_memory(context: Context, arguments: tuple[int, bytes]) -> bytes:
    """M and X: all of it or, with E14, nothing."""
    address, data = arguments
    if address + len(data) > _ADDRESSES:
        return UNMAPPED
    return OK if not data or context.target.write_memory(context.thread(), address, data) else UNMAPPED


parse_read = numbers(b",")


def parse_breakpoint(kind: BreakKind) -> Callable[[bytes], tuple[BreakKind, int, int]]:
    """A reader of address,length; conditions and commands are not negotiated, so none may follow."""

    def parse(text: bytes) -> tuple[BreakKind, int, int]:
        address, length = numbers(b",")(text)
        watch = kind not in (BreakKind.SOFTWARE, BreakKind.HARDWARE)
        if length > _LONGEST_BREAKPOINT or address + length > _ADDRESSES or (watch and not length):
            raise Malformed("bad range to watch")
        return kind, address, length

    return parse


def insert_breakpoint(context: Context, arguments: tuple[BreakKind, int, int]) -> bytes:
    """Z0-Z4."""
    try:
        context.target.insert(*arguments)
    except TargetError as error:
        context.say(f"{error}\n")
        return context.failure(b"E28", str(error))
    return OK


def remove_breakpoint(context: Context, arguments: tuple[BreakKind, int, int]) -> bytes:
    """z0-z4."""
    context.target.remove(*arguments)
    return OK
