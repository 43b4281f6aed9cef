"""Answers packets about registers, memory and breakpoints."""

from collections.abc import Callable

from trapgate.arch.registers import Register
from trapgate.gdb import pages
from trapgate.gdb.agent import LONGEST, AgentError, any_holds
from trapgate.gdb.context import MALFORMED, OK, UNMAPPED, Context, Malformed, data_of_hex, number, numbers, on_wire, split
from trapgate.gdb.description import PC, size
from trapgate.gdb.framing import PAYLOAD_SIZE
from trapgate.gdb.target import BreakKind, Stopped, TargetError, Why

_LONGEST_HEX_READ = PAYLOAD_SIZE // 2
_LONGEST_BINARY_READ = (PAYLOAD_SIZE - 1) // 2  # every byte may need an escape
_LONGEST_BREAKPOINT = 1 << 20
MOST_CONDITIONS = 64  # of one breakpoint
MOST_CONDITION_BYTES = 1 << 20  # of all breakpoints
MOST_SEARCHED = 1 << 30  # bytes looked through for one packet: some seconds
_SEARCHED = 1 << 20  # and at a time
_ADDRESSES = 1 << 64


def _register_hex(context: Context, register: Register) -> bytes:
    value = context.target.get_register(context.thread(), register.name)
    if value is None:
        return b"x" * (2 * size(register))
    return on_wire(register, value).hex().encode()


def _holds(context: Context, register: Register, value: int) -> bool:
    """Whether a register has a value as far as it goes on the wire: EAX may be a part of RAX, which keeps its upper half then."""
    now = context.target.get_register(context.thread(), register.name)
    return now is not None and on_wire(register, now) == on_wire(register, value)


def _in_g(context: Context) -> tuple[Register, ...]:
    return context.layout.core if context.own_description else context.layout.in_g


def _register(context: Context, number: int) -> Register:
    """The register of a number; Malformed when the client knows none such."""
    if number >= len(context.layout.registers):
        raise Malformed(f"there is no register {number}: their numbers go from 0 to {len(context.layout.registers) - 1}")
    return context.layout.registers[number]


def _value(register: Register, digits: bytes) -> int:
    """A register's value from its hex digits, which have its width on the wire."""
    data = data_of_hex(digits)
    if len(data) != size(register):
        raise Malformed(f"{register.gdb_name} has {size(register)} bytes")
    value = int.from_bytes(data, "little")
    if value > register.mask:
        raise Malformed(f"{register.gdb_name} has {register.bits} bits")
    return value


def read_registers(context: Context, arguments: None) -> bytes:
    """g: every register of the standard groups."""
    return b"".join(_register_hex(context, register) for register in _in_g(context))


def write_registers(context: Context, digits: bytes) -> bytes:
    """G: the registers of the standard groups, as many whole ones as are given; those written as `xx` stay.

    Only registers that change are stored. All digits are checked before the first is.
    """
    new: list[tuple[Register, int]] = []
    at = 0
    for register in _in_g(context):
        text = digits[at : at + 2 * size(register)]
        at += 2 * size(register)
        if len(text) < 2 * size(register):
            if text:
                return MALFORMED
            break
        if text.strip(b"x"):
            value = _value(register, text)
            if not _holds(context, register, value):
                new.append((register, value))
    if not digits or len(digits) > at:
        return MALFORMED
    for register, value in new:
        context.target.set_register(context.thread(), register.name, value)
    return OK


def read_register(context: Context, arguments: list[int]) -> bytes:
    """p n: one register."""
    return _register_hex(context, _register(context, arguments[0]))


def parse_write_register(text: bytes) -> tuple[int, bytes]:
    """n=value: the number of a register, hex digits."""
    index, digits = split(text, b"=")
    return number(index), digits


def write_register(context: Context, arguments: tuple[int, bytes]) -> bytes:
    """P n=value, the value as wide as the register. What it holds already is not stored: after a call gdb restores all."""
    register = _register(context, arguments[0])
    value = _value(register, arguments[1])
    if not _holds(context, register, value):
        context.target.set_register(context.thread(), register.name, value)
    return OK


def _read(context: Context, address: int, length: int) -> bytes:
    """What is mapped of a range, from its start; a range never wraps round the end of the address space."""
    if not context.physical:
        return context.target.read_memory(context.thread(), address, min(length, _ADDRESSES - address))
    try:
        return context.target.read_physical(address, length)
    except TargetError:
        return b""


def _unmapped(context: Context, address: int, length: int = 1) -> bytes:
    """Why nothing can be read at an address, or not all of a range be written."""
    if context.physical:
        return context.failure(UNMAPPED, f"no RAM is at guest-physical {address:#x}")
    there = len(context.target.read_memory(context.thread(), address, length)) if length > 1 else 0
    return context.failure(UNMAPPED, pages.reason(context.target, context.thread(), address + there))


def read_memory(context: Context, arguments: list[int]) -> bytes:
    """m address,length: what is there of it, in hex; E14 when nothing is."""
    address, length = arguments
    data = _read(context, address, min(length, _LONGEST_HEX_READ)) if length else b""
    return data.hex().encode() if data or not length else _unmapped(context, address)


def read_binary(context: Context, arguments: list[int]) -> bytes:
    """x address,length: as m, in binary after a `b`."""
    address, length = arguments
    data = _read(context, address, min(length, _LONGEST_BINARY_READ)) if length else b""
    return b"b" + data if data or not length else _unmapped(context, address)


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
        return context.failure(UNMAPPED, "addresses have 64 bits")
    if not data:
        return OK
    if context.physical:
        written = context.target.write_physical(address, data)
    else:
        written = context.target.write_memory(context.thread(), address, data)
    return OK if written else _unmapped(context, address, len(data))


def parse_search(text: bytes) -> tuple[int, int, bytes]:
    """address;length;pattern, the pattern in binary."""
    address, length, pattern = split(text, b";", b";")
    if not pattern:
        raise Malformed("there is nothing to search for")
    return number(address), number(length), pattern


def search_memory(context: Context, arguments: tuple[int, int, bytes]) -> bytes:
    """qSearch:memory: where the pattern lies first, all of it in the range; E14 when nothing is mapped at its start.

    The search ends where nothing is mapped; TargetError when it takes too long: a guest's page tables can map one page for ever.
    """
    address, length, pattern = arguments
    end, before, enough = min(address + length, _ADDRESSES), b"", address + MOST_SEARCHED
    if address < end and not _read(context, address, 1):
        return _unmapped(context, address)
    while address < end:
        wanted = min(_SEARCHED, end - address)
        data = _read(context, address, wanted)
        looked = before + data
        at = looked.find(pattern)
        if at >= 0:
            return b"1,%x" % (address - len(before) + at)
        if len(data) < wanted:
            break
        if address + wanted >= enough and enough < end:
            raise TargetError(f"nothing found up to {enough:#x}, and that is enough for one search: go on from there")
        before = looked[max(len(looked) - len(pattern) + 1, 0) :]
        address += wanted
    return b"0"


def physical_mode(context: Context, arguments: None) -> bytes:
    """qqemu.PhyMemMode, of QEMU's: whether memory packets mean guest-physical memory."""
    return b"1" if context.physical else b"0"


def set_physical_mode(context: Context, arguments: list[int]) -> bytes:
    """Qqemu.PhyMemMode:0 or 1. Breakpoints stay where they are, in linear memory."""
    context.physical = bool(arguments[0])
    return OK


parse_read = numbers(b",")


Conditions = tuple[bytes, ...]


def parse_breakpoint(kind: BreakKind) -> Callable[[bytes], tuple[BreakKind, int, int, Conditions]]:
    """A reader of address,length[;Xlength,condition...]; only breakpoints have conditions, any of which stops the guest."""
    watch = kind not in (BreakKind.SOFTWARE, BreakKind.HARDWARE)

    def parse(text: bytes) -> tuple[BreakKind, int, int, Conditions]:
        place, _, rest = text.partition(b";")
        address, length = numbers(b",")(place)
        if length > _LONGEST_BREAKPOINT or address + length > _ADDRESSES or (watch and (rest or not length)):
            raise Malformed("bad range to watch")
        return kind, address, length, _parse_conditions(rest)

    return parse


def _parse_conditions(text: bytes) -> Conditions:
    conditions: list[bytes] = []
    while text:
        head, text = split(text, b",")
        if not head.startswith(b"X"):
            raise Malformed("bad condition")
        if len(conditions) >= MOST_CONDITIONS:
            raise Malformed(f"a breakpoint has {MOST_CONDITIONS} conditions at most")
        length = number(head[1:])
        if not 0 < length <= LONGEST:
            raise Malformed(f"a condition has 1 to {LONGEST} bytes, not {length}")
        code, text = data_of_hex(text[: 2 * length]), text[2 * length :].lstrip(b";")
        if len(code) != length:
            raise Malformed("condition shorter than it says")
        conditions.append(code)
    return tuple(conditions)


def insert_breakpoint(context: Context, arguments: tuple[BreakKind, int, int, Conditions]) -> bytes:
    """Z0-Z4; inserting one again replaces its conditions."""
    kind, address, length, conditions = arguments
    others = sum(len(code) for key, codes in context.conditions.items() if key != (kind, address) for code in codes)
    if others + sum(map(len, conditions)) > MOST_CONDITION_BYTES:
        return context.failure(
            b"E28", f"the conditions of all breakpoints take more than {MOST_CONDITION_BYTES} bytes; remove some"
        )
    try:
        context.target.insert(kind, address, length)
    except TargetError as error:
        return context.failure(b"E28", str(error))  # no console output here: gdb would take it for the reply
    context.conditions.pop((kind, address), None)
    if conditions:
        context.conditions[kind, address] = conditions
    return OK


def remove_breakpoint(context: Context, arguments: tuple[BreakKind, int, int, Conditions]) -> bytes:
    """z0-z4."""
    kind, address, length, _ = arguments
    context.target.remove(kind, address, length)
    context.conditions.pop((kind, address), None)
    return OK


def condition_holds(context: Context, stop: Stopped) -> bool:
    """Whether a stop is one that the client wants to hear of: not a breakpoint all of whose conditions are false.

    A condition that cannot be evaluated holds: better a stop too many.
    """
    kind = {Why.SOFTWARE: BreakKind.SOFTWARE, Why.HARDWARE: BreakKind.HARDWARE}.get(stop.why)
    if kind is None or not context.conditions:
        return True
    target, thread = context.target, stop.thread

    def register(index: int) -> int:
        known = context.layout.registers
        value = target.get_register(thread, known[index].name) if index < len(known) else None
        if value is None:
            raise AgentError("no such register")
        return value

    where = target.get_register(thread, PC)
    assert where is not None
    conditions = context.conditions.get((kind, where))
    if conditions is None:
        return True
    try:
        return any_holds(conditions, register, lambda address, length: target.read_memory(thread, address, length))
    except AgentError as error:
        context.say(f"the condition of this breakpoint cannot be evaluated: {error}\n")
        return True
