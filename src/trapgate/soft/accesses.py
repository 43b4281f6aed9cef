"""Performs accesses that translated code could not settle: two pages, devices, hit data breakpoints, stores into code, bus locks.

Each is a generator: it yields the exits that the machine must answer (MMIO), and ends when the access is done and translated code
can go on behind it. Faults unwind as GuestFault, before anything has changed.
"""

from collections.abc import Generator

from trapgate.arch import vectors
from trapgate.arch.debugregs import DR6_BLD
from trapgate.exits import BusLock, Exit, MmioRead, MmioWrite
from trapgate.isa import state as s
from trapgate.isa.state import LAYOUT
from trapgate.soft.exact.mmx import faulted_store
from trapgate.soft.exact.stack_fault import refuse_wrap
from trapgate.soft.running import RunningCpu
from trapgate.soft.state.fault import GuestFault

Activity = Generator[Exit, int, None]
LINE = 64
BOUNCE = LAYOUT["bounce"].offset
REPORT = 1 << 31  # in `pending_debug`: a bus lock for the machine to hear of, no cause of a #DB


class NeedsStep(Exception):
    """The instruction must start again in a block of its own: it hit a watched range, a device, or the code it belongs to."""


def perform(cpu: RunningCpu) -> Activity:
    """Do what EXIT_ACCESS left to us, then leave the transients ready for `resume`."""
    st = cpu.state
    kind, address, size, mmx = st.access_kind, st.saved_EA, st.access_size, False
    wanted = cpu.rights()
    if kind == s.KIND_COMMIT:
        yield from _write(cpu, st.bounce_address, bytes(st.bounce)[: st.bounce_size], wanted)
        return
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
    if not cpu.in_step:
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
    data = b""
    if reads:
        data = yield from _read(cpu, pieces)
    if kind == s.KIND_LOAD:
        st.saved_T0 = int.from_bytes(data, "little")
    elif kind == s.KIND_STORE:
        value = (st.saved_T0 & (1 << 8 * size) - 1).to_bytes(size, "little")
        yield from _store(cpu, pieces, value)
    else:
        cpu.put_bounce(data)
        st.bounce_address, st.bounce_size = address, size if writes else 0
        st.saved_HOST = cpu.address + BOUNCE
        st.saved_T0 = int.from_bytes(data[:8], "little")


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


def _read(cpu: RunningCpu, pieces: list[tuple[int, int]]) -> Generator[Exit, int, bytes]:
    data = b""
    for physical, length in pieces:
        if cpu.ram.contains(physical, length):
            data += cpu.ram.read(physical, length)
            continue
        for at, size in _chunks(physical, length):
            value = yield MmioRead(at, size)
            data += (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    return data


def _store(cpu: RunningCpu, pieces: list[tuple[int, int]], data: bytes) -> Activity:
    done = 0
    for physical, length in pieces:
        part = data[done : done + length]
        done += length
        if cpu.ram.contains(physical, length):
            cpu.ram.write(physical, part)
            continue
        for at, size in _chunks(physical, length):
            yield MmioWrite(at, size, int.from_bytes(part[at - physical : at - physical + size], "little"))


def _write(cpu: RunningCpu, address: int, data: bytes, wanted: int) -> Activity:
    if data:
        yield from _store(cpu, cpu.pieces(address, len(data), wanted | s.ACCESS_WRITE), data)


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
