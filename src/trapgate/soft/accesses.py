"""Performs accesses that translated code could not settle: two pages, devices, hit data breakpoints, stores into code, bus locks.

`perform` makes data of what is to be done (`underway.Access`); devices are asked part by part, and RAM is stored into when the last
of them has answered; then translated code can go on behind it. Faults unwind as GuestFault, before anything has changed.
"""

from trapgate.arch import vectors
from trapgate.arch.debugregs import DR6_BLD
from trapgate.exits import BusLock
from trapgate.isa import state as s
from trapgate.isa.state import LAYOUT
from trapgate.soft.exact.mmx import faulted_store
from trapgate.soft.exact.stack_fault import refuse_wrap
from trapgate.soft.running import RunningCpu
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.underway import Access, Part

LINE = 64
BOUNCE = LAYOUT["bounce"].offset
REPORT = 1 << 31  # in `pending_debug`: a bus lock for the machine to hear of, no cause of a #DB
Pieces = list[tuple[int, int]]  # (guest-physical address, length)


class NeedsStep(Exception):
    """The instruction must start again in a block of its own: it hit a watched range, a device, or the code it belongs to."""


def perform(cpu: RunningCpu) -> Access:
    """What EXIT_ACCESS left to us, with all that is not a device's to say."""
    st = cpu.state
    kind, address, size, mmx = st.access_kind, st.saved_EA, st.access_size, False
    wanted = cpu.rights()
    if kind == s.KIND_COMMIT:
        data = bytes(st.bounce)[: st.bounce_size]
        pieces = cpu.pieces(st.bounce_address, len(data), wanted | s.ACCESS_WRITE) if data else []
        return _store(cpu, kind, st.bounce_address, pieces, data)
    if kind == s.KIND_REFERENCE:
        request = st.saved_X
        size, writes, reads, locked = request & 0xFFFF, bool(request >> 16 & 1), bool(request >> 17 & 1), bool(request >> 18 & 1)
        mmx = bool(request >> 19 & 1)
    else:
        writes, reads, locked = kind != s.KIND_LOAD, kind != s.KIND_STORE, kind == s.KIND_LOCK
    refuse_wrap(cpu, address, size)
    try:
        pieces = cpu.pieces(address, size, wanted | (s.ACCESS_WRITE if writes else 0))
    except GuestFault:
        if mmx:
            faulted_store(cpu)
        raise
    if cpu.single is None:
        watched = (reads and cpu.watched(address, size, False)) or (writes and cpu.watched(address, size, True))
        device = any(not cpu.ram.contains(at, n) for at, n in pieces)  # a debugger may stop the guest while it waits for one
        if device or watched or (writes and any(cpu.is_code(at, n) for at, n in pieces)):
            cpu.device_site = st.saved_RESUME if device and len(pieces) == 1 else 0
            raise NeedsStep
    if locked and locks_bus(cpu, address, size):
        note_lock(cpu, address, size)
    if reads:
        cpu.note_access(address, size, False)
    if writes:
        cpu.note_access(address, size, True)
    if kind == s.KIND_STORE:
        return _store(cpu, kind, address, pieces, (st.saved_T0 & (1 << 8 * size) - 1).to_bytes(size, "little"))
    return _load(cpu, kind, address, pieces if reads else [], size if writes else 0)


def finish(cpu: RunningCpu, access: Access) -> None:
    """Every device has answered: store what lies in RAM, and leave the transients ready for `resume`."""
    st, data = cpu.state, access.data
    if access.stores:
        for part in access.ram:
            cpu.ram.write(part.physical, data[part.at : part.at + part.size])
    elif access.kind == s.KIND_LOAD:
        st.saved_T0 = int.from_bytes(data, "little")
    else:
        cpu.put_bounce(data)
        st.bounce_address, st.bounce_size = access.address, access.modified
        st.saved_HOST = cpu.address + BOUNCE
        st.saved_T0 = int.from_bytes(data[:8], "little")


def _load(cpu: RunningCpu, kind: int, address: int, pieces: Pieces, modified: int) -> Access:
    ram, devices = _parts(cpu, pieces)
    data = bytearray(sum(length for _, length in pieces))
    for part in ram:
        data[part.at : part.at + part.size] = cpu.ram.read(part.physical, part.size)
    return Access(kind, address, False, bytes(data), modified, devices, ())


def _store(cpu: RunningCpu, kind: int, address: int, pieces: Pieces, data: bytes) -> Access:
    ram, devices = _parts(cpu, pieces)
    return Access(kind, address, True, data, 0, devices, ram)


def _parts(cpu: RunningCpu, pieces: Pieces) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """The parts of an operand in RAM, and those on devices, of 1, 2, 4 or 8 bytes each."""
    ram, devices, at = list[Part](), list[Part](), 0
    for physical, length in pieces:
        if cpu.ram.contains(physical, length):
            ram.append(Part(at, physical, length))
        else:
            devices += [Part(at + start - physical, start, size) for start, size in _chunks(physical, length)]
        at += length
    return tuple(ram), tuple(devices)


def locks_bus(cpu: RunningCpu, address: int, size: int) -> bool:
    """Whether a locked access locks the bus. GuestFault: its page fault, or #AC(0) where split locks are forbidden.

    One byte that is not write-back is enough: the cache serves the whole operand or none of it.
    """
    crosses = address % LINE + size > LINE
    write_back = cpu.write_back(address, size, cpu.rights() | s.ACCESS_WRITE)  # an instruction that faults locks nothing
    if crosses and write_back and cpu.state.split_lock_ac:
        raise GuestFault(vectors.AC, 0)
    return crosses or not write_back


def note_lock(cpu: RunningCpu, address: int, size: int) -> None:
    """The bus was locked: a trap is due where the guest armed it, a report where the machine asked for one."""
    st = cpu.state
    if st.bus_lock_trap:
        st.pending_debug |= DR6_BLD
    if st.bus_lock_report:
        st.pending_debug |= REPORT
        cpu.bus_lock = BusLock(st.rip, address, size, st.cpl)


def _chunks(address: int, length: int) -> list[tuple[int, int]]:
    """A device access as naturally sized pieces; one piece where the size is 1, 2, 4 or 8."""
    if length in (1, 2, 4, 8):
        return [(address, length)]
    return [(address + at, min(8, length - at) if length - at in (1, 2, 4) or length - at >= 8 else 1) for at in _starts(length)]


def _starts(length: int) -> list[int]:
    starts, at = [], 0
    while at < length:
        starts.append(at)
        left = length - at
        at += 8 if left >= 8 else left if left in (1, 2, 4) else 1
    return starts
