"""Tries what this host's KVM can do for a debugger: a guest for each ability, and the exact DR6 values seen.

Nothing here goes through the engine's own debugging: what is shown is what KVM said.
"""

from collections.abc import Callable, Iterator
from itertools import chain

from trapgate.arch import dr6
from trapgate.arch.debugregs import DR6_BD, DR6_INIT, DR7_FIXED_1, DR7_GD, dr7_fields
from trapgate.arch.flags import TF
from trapgate.kvm import abi, convert, probe_machine
from trapgate.kvm.probe_guest import (
    CODE,
    DATA,
    NOP,
    OTHERS,
    STACK,
    USER_CODE,
    USER_DATA,
    USER_STACK,
    Ability,
    Probe,
)  # fmt: skip

STEP = 0xFFFF4FF0
PAYLOADS = {0x800: 0xFFFF07F0, 0x4000: 0xFFFF4FF0, 0x4801: 0xFFFF47F1}
UD2 = b"\x0f\x0b"
UNTOLD = "what the guest arms beside hardware breakpoints lies idle until the next exit"


def _debug(name: str, expected: int, probe: Probe) -> Ability:
    """An exit with #DB is wanted, and just this DR6."""
    outcome = probe.run()
    found = probe.debug
    if found is None:
        return Ability(name, False, f"not seen, {outcome} instead")
    value = int(found.dr6) & 0xFFFF_FFFF
    return Ability(name, value == expected, f"DR6 {value:08X}" + ("" if value == expected else f", not {expected:08X}"))


def _runs() -> Ability:
    probe = Probe(NOP)
    outcome = probe.run()
    return Ability("64-bit guests", outcome == "HLT", "run" if outcome == "HLT" else outcome)


# --- steps


def _step() -> Ability:
    return _debug("single step", STEP, Probe(NOP, abi.DEBUG_STEP))


def _own_tf() -> Ability:
    """The guest's own TF, while we hold the debug registers: it comes to us, or some hosts give it to the guest at once."""
    found = _debug("guest's own TF", STEP, probe := Probe(NOP, abi.DEBUG_HARDWARE, dr7=DR7_FIXED_1, rflags=2 | TF))
    return found if probe.told is None else Ability(found.name, probe.told == STEP, f"the guest has it, DR6 {probe.told:08X}")


def _step_over_out() -> Ability:
    """I/O leaves the guest amid the step: does its trap come behind?"""
    probe = Probe(b"\xe6\x80" + NOP, abi.DEBUG_STEP)  # OUT 80h, AL
    probe.run()
    if probe.core.shared.exit_reason == abi.EXIT_IO:
        probe.complete()
    seen = f"DR6 {probe.debug.dr6 & 0xFFFF_FFFF:08X} follows" if probe.debug is not None else "no trap follows, we finish it"
    return Ability("step over OUT", probe.rip == 2, seen if probe.rip == 2 else f"RIP is {probe.rip:+d}, not +2")


def _step_over_pushf() -> Ability:
    """The host's single step is the real TF: what PUSHF shows of it must be corrected."""
    found = _debug("step over PUSHF", STEP, probe := Probe(b"\x9c" + NOP, abi.DEBUG_STEP))
    image = probe.core.ram.read_int(STACK - 8, 8)
    return Ability(
        found.name, found.holds, f"{found.seen}, pushes {image:X}h" + (": TF shows, we take it out" if image & TF else "")
    )


def _step_into_fault() -> Ability:
    """No trap follows a fault: a breakpoint on its handler catches the step."""
    dr7 = DR7_FIXED_1 | dr7_fields(0, 0, 1)
    probe = Probe(UD2, abi.DEBUG_STEP | abi.DEBUG_HARDWARE, (OTHERS, 0, 0, 0), dr7)
    found = _debug("step into fault", DR6_INIT | 1, probe)
    image = probe.core.ram.read_int(STACK - 24, 8)
    return Ability(
        found.name, found.holds and probe.core.registers.rip == OTHERS, f"{found.seen} on its handler, pushes {image:X}h"
    )


# --- breakpoints


def _execution() -> Ability:
    dr7 = DR7_FIXED_1 | dr7_fields(0, 0, 1)
    return _debug("breakpoint", DR6_INIT | 1, Probe(NOP * 2, abi.DEBUG_HARDWARE, (CODE + 1, 0, 0, 0), dr7))


def _two_owners() -> Ability:
    """Two registers on one instruction, as when guest and debugger both have a breakpoint there."""
    dr7 = DR7_FIXED_1 | dr7_fields(0, 0, 1) | dr7_fields(3, 0, 1)
    return _debug("two on one place", DR6_INIT | 9, Probe(NOP * 2, abi.DEBUG_HARDWARE, (CODE + 1, 0, 0, CODE + 1), dr7))


def watchpoint() -> Ability:
    """A store to a watched address."""
    dr7 = DR7_FIXED_1 | dr7_fields(0, 1, 4)
    return _debug("watchpoint", DR6_INIT | 1, Probe(b"\x89\x07" + NOP, abi.DEBUG_HARDWARE, (DATA, 0, 0, 0), dr7))  # MOV [RDI], EAX


def detect() -> Ability:
    """DR7.GD in the real register: without it a guest's change of its own breakpoints is seen at the next exit only."""
    found = _debug("DR accesses", DR6_INIT | DR6_BD, _reads_dr7())
    return found if found.holds else Ability(found.name, False, f"{found.seen}: {UNTOLD}")


def leaves_debug_registers() -> bool:
    """Whether the engine had better leave the debug registers to the guest while it can: what the guest changes of them is not
    told, and INT3 is. The VMs are given back."""
    reads, breaks = _reads_dr7(), _breaks()
    try:
        if _debug("DR accesses", DR6_INIT | DR6_BD, reads).holds:
            return False
        breaks.run()
        return _stands_on_int3(breaks)
    finally:
        reads.core.close()
        breaks.core.close()


def _reads_dr7() -> Probe:
    return Probe(b"\x0f\x21\xf8", abi.DEBUG_HARDWARE, dr7=DR7_FIXED_1 | DR7_GD)  # MOV RAX, DR7


def int1() -> Ability:
    """ICEBP: no cause bit; where RIP is left differs."""
    probe = Probe(b"\xf1" + NOP, abi.DEBUG_HARDWARE, dr7=DR7_FIXED_1)
    found = _debug("INT1", DR6_INIT, probe)
    if probe.debug is None:
        return _given_up("INT1", probe) or found
    where = {0: "RIP on it", 1: "RIP behind it"}.get(probe.rip, "RIP elsewhere")
    return Ability(found.name, found.holds, f"{found.seen}, {where}")


def int3() -> Ability:
    """What software breakpoints are made of."""
    probe = _breaks()
    outcome = probe.run()
    holds = _stands_on_int3(probe)
    plain = Ability("INT3", holds, "comes to us, RIP on it" if holds else f"{outcome} instead")
    return _given_up("INT3", probe) or plain


def _breaks() -> Probe:
    return Probe(b"\xcc", abi.DEBUG_SOFTWARE)


def _stands_on_int3(probe: Probe) -> bool:
    found = probe.debug
    return found is not None and found.exception == convert.BP and probe.rip == 0


def _given_up(name: str, probe: Probe) -> Ability | None:
    """Where KVM gives up on an instruction that only raises an exception, we raise it."""
    gave_up = probe.core.shared.exit_reason == abi.EXIT_INTERNAL_ERROR and probe.rip == 0
    return Ability(name, True, "KVM gives up on it, RIP on it: we take it for its exception") if gave_up else None


# --- what the guest gets


def _inject(value: int, *, payload: bool) -> str:
    """What the guest's handler reads when a #DB with this payload is injected, in hexadecimal."""
    probe = Probe(NOP)
    fd = probe.core.fd
    events = fd.events()
    causes, hits = dr6.from_payload(value)
    convert.inject_debug(events, causes, hits, payload=payload)
    if not payload:
        debug = fd.debug_registers()
        debug.dr6 = dr6.deliver(debug.dr6, causes, hits)
        fd.set_debug_registers(debug)
    fd.set_events(events)
    outcome = probe.run()
    return f"{probe.told:08X}" if probe.told is not None else outcome


def _injection() -> Iterator[Ability]:
    """The guest's own handler must read exactly what was injected: by payload, and as on hosts that have none."""
    for name, payload in (("injected #DB", True), ("without payload", False)):
        if payload and not Probe(NOP).core.payload:
            yield Ability(name, False, "the host lacks KVM_CAP_EXCEPTION_PAYLOAD; DR6 is set by hand")
            continue
        seen = {value: _inject(value, payload=payload) for value in PAYLOADS}
        holds = all(seen[value] == f"{expected:08X}" for value, expected in PAYLOADS.items())
        yield Ability(name, holds, ", ".join(f"{value:X} reads {text}" for value, text in seen.items()))


def interrupt() -> Ability:
    """INT n, by which guests call their kernels."""
    probe = Probe(b"\xcd\x30")
    outcome = probe.run()
    holds = outcome == "HLT" and probe.core.registers.rip == OTHERS + 1
    return Ability("INT n", holds, "runs" if holds else f"{outcome} instead")


def iret() -> Ability:
    """To CPL 3, where it shows by an OUT that its flags (IOPL 3) are there, too."""
    frame = (USER_DATA, USER_STACK, 0x3002, USER_CODE, CODE + 0x40)
    pushes = b"".join(b"\x68" + value.to_bytes(4, "little") for value in frame)
    probe = Probe((pushes + b"\x48\xcf").ljust(0x40, NOP) + b"\xe7\xe9")  # IRETQ ... OUT E9h, EAX
    outcome = probe.run()
    if probe.told is None:
        return Ability("IRET", False, f"{outcome} instead; use --engine soft for guests that handle exceptions")
    wanted = {"ss": USER_DATA, "rsp": USER_STACK, "rflags": frame[2], "cs": USER_CODE}
    wrong = [f"{name.upper()} {got:X}h" for name, value in wanted.items() if (got := probe.core.registers.get(name)) != value]
    return Ability("IRET", not wrong, f"leaves {', '.join(wrong)}; use --engine soft" if wrong else "runs, to CPL 3")


PROBES: tuple[Callable[[], Ability], ...] = (
    _runs, _step, _own_tf, _step_over_out, _step_over_pushf, _step_into_fault, _execution, _two_owners, watchpoint, detect,
    int1, int3, interrupt, iret,
)  # fmt: skip


def abilities() -> Iterator[Ability]:
    """Try everything; KvmError when /dev/kvm cannot be used at all."""
    for probe in PROBES:
        yield probe()
    yield from chain(_injection(), probe_machine.abilities())
