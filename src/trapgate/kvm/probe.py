"""What this host's KVM can do for a debugger: a 64-bit guest of a few instructions for each ability, and the exact DR6 values seen.

Nothing here goes through the engine's own debugging: what is shown is what KVM said.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from trapgate.arch import dr6
from trapgate.arch.debugregs import DR6_BD, DR6_INIT, DR7_FIXED_1, DR7_GD, dr7_fields
from trapgate.arch.models import DEFAULT_MODEL, CpuModel
from trapgate.kvm import abi, convert
from trapgate.kvm.core import Core
from trapgate.memory import Ram

PML4, PDPT, PD, GDT, IDT, HANDLER, OTHERS, CODE, DATA, STACK = (0x1000 * n for n in range(1, 11))
SECONDS = 2.0  # for one probe
READS_DR6 = bytes.fromhex("0f21f0 e7e9 f4")  # MOV RAX, DR6; OUT E9h, EAX; HLT
HALT = b"\xf4"
NOP = b"\x90"
PAYLOADS = {0x800: 0xFFFF07F0, 0x4000: 0xFFFF4FF0, 0x4801: 0xFFFF47F1}
EXITS = {abi.EXIT_HLT: "HLT", abi.EXIT_SHUTDOWN: "a triple fault", abi.EXIT_INTERNAL_ERROR: "no emulation of an instruction"}


@dataclass(frozen=True, slots=True)
class Ability:
    """One thing that a debugger needs, whether it holds here, and what was seen."""

    name: str
    holds: bool
    seen: str


class Probe:
    """A fresh guest in 64-bit mode at CPL 0, with its code at `CODE`; #DB reads DR6 and sends it to port E9h, all else halts."""

    def __init__(self, code: bytes, control: int = 0, address: int = 0, dr7: int = 0) -> None:
        ram = Ram(64 << 10)
        self.core = Core(ram, CpuModel.parse(DEFAULT_MODEL), None)
        for table, entry in (
            (PML4, PDPT | 7),
            (PDPT, PD | 7),
            (PD, 0x87),
            (GDT + 8, 0xAF9B000000FFFF),
            (GDT + 16, 0xCF93000000FFFF),
        ):
            ram.write_int(table, 8, entry)
        for vector in range(32):
            at = HANDLER if vector == convert.DB else OTHERS
            ram.write(IDT + 16 * vector, (at | 8 << 16 | 0x8E00 << 32).to_bytes(16, "little"))
        for at, data in ((HANDLER, READS_DR6), (OTHERS, HALT), (CODE, code + HALT)):
            ram.write(at, data)
        registers = self.core.registers
        with registers.together():
            for name, value in (("cr3", PML4), ("cr4", 0x620), ("efer", 0xD00), ("cr0", 0x80000011)):
                registers.set(name, value)
            registers.put_segment("cs", 8, 0, 0xFFFFFFFF, 0xA09B)
            for name in ("ss", "ds", "es"):
                registers.put_segment(name, 16, 0, 0xFFFFFFFF, 0xC093)
            for name, value in (("gdt_base", GDT), ("gdt_limit", 0x17), ("idt_base", IDT), ("idt_limit", 0x1FF)):
                registers.set(name, value)
        general = registers.general
        general.rip, general.rsp, general.rflags, general.rdi = CODE, STACK, 2, DATA
        registers.store_general()
        if control:
            self.core.fd.set_guest_debug(abi.DEBUG_ENABLE | control, (address, 0, 0, 0), dr7)

    def run(self) -> str:
        """Enter the guest once; what came of it."""
        watchdog = threading.Timer(SECONDS, self.core.kick)
        watchdog.start()
        try:
            happened = self.core.enter()
        finally:
            watchdog.cancel()
        if not happened:
            return f"nothing in {SECONDS:.0f} s"
        reason = self.core.shared.exit_reason
        return EXITS.get(reason, f"exit {reason}")

    @property
    def debug(self) -> abi.ExitDebug | None:
        """The last exit, if it was KVM_EXIT_DEBUG."""
        return self.core.shared.exit.debug if self.core.shared.exit_reason == abi.EXIT_DEBUG else None

    @property
    def told(self) -> int | None:
        """What the guest's #DB handler read from DR6, if that was the last exit."""
        io = self.core.shared.exit.io
        if self.core.shared.exit_reason != abi.EXIT_IO or io.port != 0xE9:
            return None
        return int.from_bytes(self.core.fd.io_bytes(io.data_offset, 4), "little")


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


def _step() -> Ability:
    return _debug("single step", 0xFFFF4FF0, Probe(NOP, abi.DEBUG_STEP))


def _execution() -> Ability:
    dr7 = DR7_FIXED_1 | dr7_fields(0, 0, 1)
    return _debug("breakpoint", DR6_INIT | 1, Probe(NOP * 2, abi.DEBUG_HARDWARE, CODE + 1, dr7))


def watchpoint() -> Ability:
    """A store to a watched address."""
    dr7 = DR7_FIXED_1 | dr7_fields(0, 1, 4)
    return _debug("watchpoint", DR6_INIT | 1, Probe(b"\x89\x07" + NOP, abi.DEBUG_HARDWARE, DATA, dr7))  # MOV [RDI], EAX


def _detect() -> Ability:
    """DR7.GD in the real register: without it a guest's change of its own breakpoints is seen at the next exit only."""
    probe = Probe(b"\x0f\x21\xf8", abi.DEBUG_HARDWARE, dr7=DR7_FIXED_1 | DR7_GD)  # MOV RAX, DR7
    return _debug("DR accesses", DR6_INIT | DR6_BD, probe)


def int1() -> Ability:
    """ICEBP: no cause bit; where RIP is left differs."""
    probe = Probe(b"\xf1" + NOP, abi.DEBUG_HARDWARE, dr7=DR7_FIXED_1)
    found = _debug("INT1", DR6_INIT, probe)
    if probe.debug is None:
        return found
    where = {CODE: "RIP on it", CODE + 1: "RIP behind it"}.get(probe.core.registers.rip, "RIP elsewhere")
    return Ability(found.name, found.holds, f"{found.seen}, {where}")


def int3() -> Ability:
    """What software breakpoints are made of."""
    probe = Probe(b"\xcc", abi.DEBUG_SOFTWARE)
    outcome = probe.run()
    found = probe.debug
    holds = found is not None and found.exception == convert.BP and probe.core.registers.rip == CODE
    return Ability("INT3", holds, "comes to us, RIP on it" if holds else f"{outcome} instead")


def _injection() -> Ability:
    """The guest's own handler must read exactly what was injected."""
    seen: dict[int, str] = {}
    payload = False
    for value, expected in PAYLOADS.items():
        probe = Probe(NOP)
        payload, fd = probe.core.payload, probe.core.fd
        events = fd.events()
        causes, hits = dr6.from_payload(value)
        convert.inject_debug(events, causes, hits, payload=payload)
        if not payload:
            debug = fd.debug_registers()
            debug.dr6 = expected
            fd.set_debug_registers(debug)
        fd.set_events(events)
        outcome = probe.run()
        seen[value] = f"{probe.told:08X}" if probe.told is not None else outcome
    holds = all(seen[value] == f"{expected:08X}" for value, expected in PAYLOADS.items())
    how = "by payload" if payload else "by DR6, for the host has no payload"
    return Ability("injected #DB", holds, f"{how}: " + ", ".join(f"{value:X} reads {text}" for value, text in seen.items()))


def iret() -> Ability:
    code = bytes.fromhex("6a10 6800a00000 6a02 6a08 6819700000 48cf f4 90")  # pushes SS, RSP, RFLAGS, CS, RIP; IRETQ; HLT
    target = CODE + len(code)
    code = code.replace(bytes.fromhex("6819700000"), b"\x68" + target.to_bytes(4, "little"))
    probe = Probe(code)
    outcome = probe.run()
    holds = outcome == "HLT" and probe.core.registers.rip == target + 1
    return Ability("IRET", holds, "runs" if holds else f"{outcome} instead; use --engine soft for guests that handle exceptions")


def _bus_locks() -> Iterator[Ability]:
    core = Probe(NOP).core
    detect = core.model.has("bus-lock-detect")
    exits = bool(core.system.capability(abi.CAP_BUS_LOCK_EXIT) & abi.BUS_LOCK_DETECTION_EXIT)
    yield Ability("bus-lock #DB", detect, "guests can have it" if detect else "this CPU or KVM does not offer it to guests")
    yield Ability("bus-lock exits", exits, "for --bus-locks" if exits else "none: --bus-locks needs --engine soft here")


PROBES: tuple[Callable[[], Ability], ...] = (_runs, _step, _execution, watchpoint, _detect, int1, int3, _injection, iret)


def abilities() -> Iterator[Ability]:
    """Try everything; KvmError when /dev/kvm cannot be used at all."""
    for probe in PROBES:
        yield probe()
    yield from _bus_locks()
