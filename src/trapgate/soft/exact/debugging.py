"""Holds the software CPU's breakpoints: what is armed, what an access or an address hits, how a #DB is delivered.

Breakpoints of guest and debugger never share a slot: the guest's live in DR0-DR7, the debugger's in a list of any length; `armed`
shows both, and `DebugException.hits` counts by it. Native code finds in two lists what is watched, blocks stop at breakpoints.
"""

from collections.abc import Sequence

from iced_x86 import Decoder, FlowControl, Instruction, Mnemonic, Register

from trapgate.arch import debugregs, dr6, vectors
from trapgate.arch.control import CR4_DE
from trapgate.arch.flags import RF
from trapgate.exits import DebugException, Exit
from trapgate.soft.exact.interrupts import deliver as deliver_event
from trapgate.soft.exact.operands import gp, read_register, require_cpl0, ud, write_register
from trapgate.soft.state.armed import Armed, Watch
from trapgate.soft.state.guest_cpu import GuestCpu
from trapgate.vcpu import Breakpoint, GuestDebug, Kind, Owner

# Whose single-step trap goes by TF behind the instruction. Interrupts clear it on their way into the handler (SDM 18.3.1.4);
# SYSCALL masked by SFMASK traps only once SYSRET has brought TF back, and that at once.
TF_AFTER = (Mnemonic.SYSCALL, Mnemonic.SYSRET, Mnemonic.SYSRETQ, Mnemonic.INT, Mnemonic.INT3, Mnemonic.INTO)
_DR = {getattr(Register, f"DR{n}"): n for n in range(16)}


# --- arming


def arm(cpu: GuestCpu, breakpoints: Sequence[Breakpoint], software: Sequence[int]) -> None:
    """The debugger's breakpoints from now on."""
    before = armed(cpu)
    cpu.debugger = Armed(tuple(breakpoints), frozenset(software))
    refresh(cpu, before)


def armed(cpu: GuestCpu) -> Sequence[Breakpoint]:
    """The guest's enabled breakpoints, then the debugger's."""
    return (*cpu.guest_armed, *cpu.debugger.hardware)


def guest_breakpoints(cpu: GuestCpu) -> tuple[Breakpoint, ...]:
    """What DR0-DR7 arm (SDM vol. 3, 18.2.4). R/W = 2 matches I/O while CR4.DE is set (`note_io`), else nothing."""
    st, found = cpu.state, []
    for n in range(debugregs.SLOTS):
        slot = debugregs.slot(st.dr7, n)
        if not slot.enabled:
            continue
        found.append(Breakpoint(Owner.GUEST, n, Kind(slot.rw), getattr(st, f"dr{n}"), slot.length))
    return tuple(found)


def refresh(cpu: GuestCpu, before: Sequence[Breakpoint]) -> None:
    """Work out what is watched and block ends again: DR0-DR7 or the debugger's breakpoints changed. `before`: what was `armed`."""
    guest = guest_breakpoints(cpu)
    watches = []
    stops = set(cpu.debugger.software)
    for index, one in enumerate((*guest, *cpu.debugger.hardware)):
        if one.kind is Kind.EXEC:
            stops.add(one.address)
            continue
        first, last = one.address, one.address + one.length - 1
        if one.owner is Owner.GUEST:
            first, last = debugregs.covered(one.address, one.length)
        watches.append(Watch(first, last, one.kind, index))
    cpu.guest_armed, cpu.watches = guest, tuple(watches)
    if cpu.pending_hits:  # held by MOV SS: `hits` counts by the list as it is when the exception arises
        now = armed(cpu)
        held = [one for n, one in enumerate(before) if cpu.pending_hits >> n & 1]
        cpu.pending_hits = sum(1 << n for n, one in enumerate(now) if one in held)
    st = cpu.state
    st.watched_reads, st.watched_reads_end = cpu.watched_reads.put(one for one in watches if one.matches(write=False))
    st.watched_writes, st.watched_writes_end = cpu.watched_writes.put(one for one in watches if one.matches(write=True))
    cpu.stop_at(frozenset(stops))
    cpu.flush_all()


# --- hits


def watched(cpu: GuestCpu, address: int, size: int, write: bool) -> int:
    """The breakpoints (bits by `armed`) that a data access hits."""
    hits, last = 0, address + size - 1
    if (cpu.watched_writes if write else cpu.watched_reads).touched(address, last):
        for watch in cpu.watches:
            if watch.first <= last and address <= watch.last and watch.matches(write):
                hits |= 1 << watch.index
    return hits


def note_access(cpu: GuestCpu, linear: int, size: int, write: bool) -> None:
    """A data access was made: what it hits is reported behind the instruction."""
    if cpu.watches:
        cpu.pending_hits |= watched(cpu, linear, size, write)


def note_io(cpu: GuestCpu, port: int, size: int) -> None:
    """A port was accessed: I/O breakpoints."""
    if not cpu.state.cr4 & CR4_DE:
        return
    for watch in cpu.watches:
        if watch.kind is Kind.IO and watch.first < port + size and port <= watch.last:
            cpu.pending_hits |= 1 << watch.index


def exec_hits(cpu: GuestCpu, linear: int, guest: bool, debugger: bool) -> int:
    """The execution breakpoints (bits by `armed`) at a linear address."""
    hits = 0
    for index, one in enumerate(armed(cpu)):
        wanted = guest if one.owner is Owner.GUEST else debugger
        if wanted and one.kind is Kind.EXEC and one.address == linear:
            hits |= 1 << index
    return hits


# --- steps


def repeats(code: bytes) -> bool:
    """Whether an instruction is a repeated string instruction, on which RIP stays until it is through."""
    prefixes = set(code[:-1])
    return bool(prefixes & {0xF2, 0xF3}) and code[-1] in _STRING_OPCODES and not prefixes - _PREFIXES


_PREFIXES = {0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3, *range(0x40, 0x50)}
_STRING_OPCODES = frozenset((*range(0x6C, 0x70), *range(0xA4, 0xA8), *range(0xAA, 0xB0)))


def within_repeat(cpu: GuestCpu) -> None:
    """An iteration but the last is through: events push RF = 1, breakpoints on the instruction wait (SDM vol. 3, 18.3.1.1).

    What STI or MOV SS held back until behind the instruction may come as well.
    """
    cpu.state.rflags |= RF
    cpu.state.shadow = 0
    if cpu.linear(cpu.state.rip) in cpu.breakpoints:
        cpu.resume_over()


def branched(code: bytes, rip: int, following: int) -> bool:
    """Whether BTF lets a single step trap: a branch was taken (a conditional one to the next instruction counts as not taken)."""
    if repeats(code):
        return False
    return rip != following or Decoder(64, code).decode().flow_control in _ALWAYS


_ALWAYS = (
    FlowControl.UNCONDITIONAL_BRANCH, FlowControl.INDIRECT_BRANCH, FlowControl.RETURN, FlowControl.CALL, FlowControl.INDIRECT_CALL,
)  # fmt: skip


# --- #DB


def take_pending(cpu: GuestCpu, besides: int) -> Exit | None:
    """What the completed instruction has caused, and `besides`, as one DebugException; None when that is nothing."""
    st = cpu.state
    guest, hits = st.pending_debug, cpu.pending_hits
    st.pending_debug = cpu.pending_hits = 0
    if not guest and not hits and not besides:
        return None
    cpu.last_debug = GuestDebug(bool(guest & debugregs.DR6_BS), False, False, bool(guest & debugregs.DR6_BLD))
    return DebugException(guest | besides, hits, False, fault=False)


def raise_icebp(cpu: GuestCpu) -> Exit:
    """INT1: a #DB with no cause bit, a trap: RIP goes behind it. What MOV SS held back comes with it."""
    st = cpu.state
    guest, hits = st.pending_debug, cpu.pending_hits
    st.pending_debug = cpu.pending_hits = 0
    cpu.last_debug = GuestDebug(bool(guest & debugregs.DR6_BS), False, False, bool(guest & debugregs.DR6_BLD))
    return DebugException(guest, hits, True, fault=False)


def deliver_debug(cpu: GuestCpu, causes: int, hits: int, icebp: bool) -> None:
    """Deliver #DB to the guest: DR6, DR7.GD, DEBUGCTL (SDM vol. 3, 18.2.3, 18.4.1; APM vol. 2, 13.1), then through the IDT.

    RF is pushed as it stands: 0 behind a completed instruction, 1 between iterations, what IRET has loaded behind an IRET. A #DB
    for GD is a fault and leaves it alone all the same.
    """
    st = cpu.state
    st.dr6 = dr6.deliver(st.dr6, causes, hits, icebp=icebp, amd=cpu.model.amd)
    st.dr7 &= ~debugregs.DR7_GD
    st.debugctl &= ~(debugregs.DEBUGCTL_BTF | (debugregs.DEBUGCTL_LBR if cpu.model.amd else 0))
    deliver_event(cpu, vectors.DB, resume=bool(st.rflags & RF))


def _number(cpu: GuestCpu, register: int) -> int:
    """Which debug register a MOV means: DR4 and DR5 are DR6 and DR7 without CR4.DE, #UD with it; DR8-DR15 are #UD."""
    number = _DR[register]
    if number > 7 or (number in (4, 5) and cpu.state.cr4 & CR4_DE):
        raise ud()
    return number + 2 if number in (4, 5) else number


def _general_detect(cpu: GuestCpu) -> Exit | None:
    """DR7.GD: a fault before any access to a debug register."""
    st = cpu.state
    if not st.dr7 & debugregs.DR7_GD:
        return None
    st.next_rip = st.rip
    cpu.last_debug = GuestDebug(False, True, False, False)
    return DebugException(debugregs.DR6_BD, 0, False, fault=True)


def move_to_debug(cpu: GuestCpu, i: Instruction) -> Exit | None:
    """MOV DRn, r (SDM vol. 3, 18.2)."""
    number = _number(cpu, i.op0_register)  # #UD comes before #GP
    require_cpl0(cpu)
    if (detected := _general_detect(cpu)) is not None:
        return detected
    write_debug_register(cpu, number, read_register(cpu, i.op1_register))
    return None


def move_from_debug(cpu: GuestCpu, i: Instruction) -> Exit | None:
    """MOV r, DRn."""
    number = _number(cpu, i.op1_register)
    require_cpl0(cpu)
    if (detected := _general_detect(cpu)) is not None:
        return detected
    write_register(cpu, i.op0_register, read_debug_register(cpu, number))
    return None


def write_debug_register(cpu: GuestCpu, number: int, value: int) -> None:
    """Store to DR0-DR3, DR6, DR7 as MOV does; GuestFault (#GP) for a value that the register refuses."""
    st = cpu.state
    try:
        if number == 6:
            st.dr6 = debugregs.store_dr6(value, amd=cpu.model.amd, bus_lock=cpu.model.has("bus-lock-detect"), debugctl=st.debugctl)
        elif number == 7:
            st.dr7 = debugregs.store_dr7(value)
        else:
            setattr(st, f"dr{number}", value)
    except ValueError as error:
        raise gp() from error
    if number != 6 and guest_breakpoints(cpu) != cpu.guest_armed:
        refresh(cpu, armed(cpu))


def read_debug_register(cpu: GuestCpu, number: int) -> int:
    """What MOV reads from DR0-DR3, DR6, DR7."""
    st = cpu.state
    if number == 6:
        return debugregs.read_dr6(st.dr6, amd=cpu.model.amd, bus_lock=cpu.model.has("bus-lock-detect"), debugctl=st.debugctl)
    return int(getattr(st, f"dr{number}"))
