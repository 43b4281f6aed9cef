"""Tries what this host's KVM can do besides debug exceptions: bus locks, interrupt controllers, clocks; each with a small guest."""

from collections.abc import Iterator

from trapgate.arch.debugregs import DEBUGCTL_BUS_LOCK, DR7_FIXED_1
from trapgate.arch.flags import IF
from trapgate.arch.msrs import DEBUGCTL
from trapgate.kvm import abi
from trapgate.kvm.core import Setup
from trapgate.kvm.probe_guest import DATA, NOP, Ability, Probe
from trapgate.kvm.resting import SYSTEM_TIME

LOCK_INC = bytes.fromhex("f0 ff 47 3d")  # LOCK INC DWORD PTR [RDI + 61]: across a line
MUL, FLAGS, STOPPED = 24, 29, 2  # in that page
PIC_AND_PIT = bytes.fromhex(
    "b011 e620 b020 e621 b004 e621 b001 e621 b0fe e621"  # the master 8259: vectors 20h-27h, input 0 alone
    "b034 e643 b000 e640 b010 e640 fb f4"  # channel 0: mode 2, count 1000h; STI; HLT
)
DEADLINE = bytes.fromhex(
    "b91b000000 0f32 0d00040000 0f30"  # IA32_APIC_BASE: x2APIC
    "b90f080000 b8ff010000 31d2 0f30 b932080000 b820000400 0f30"  # SVR: on; LVT timer: TSC deadline, vector 20h
    "0f31 0500000100 83d200 b9e0060000 0f30 fb f4"  # RDTSC, 65536 later; IA32_TSC_DEADLINE; STI; HLT
)
TELL = bytes.fromhex("e7e9 f4")  # OUT E9h, EAX; HLT


def bus_lock_trap() -> Ability:
    """A lock across a line at CPL 3 with DEBUGCTL[2] = 1. Intel hosts lose bit 11 of DR6 on the way."""
    name = "bus-lock #DB"
    probe = Probe(LOCK_INC + NOP, abi.DEBUG_HARDWARE, dr7=DR7_FIXED_1, user=True)
    if not probe.core.model.has("bus-lock-detect"):
        return Ability(name, False, "this CPU or KVM does not offer it to guests")
    if not probe.core.fd.set_msr(DEBUGCTL, DEBUGCTL_BUS_LOCK):
        return Ability(name, False, "announced, but DEBUGCTL[2] cannot be set")
    outcome = probe.run()
    if probe.debug is None:
        return Ability(name, False, f"not seen, {outcome} instead")
    value, expected = probe.debug.dr6 & 0xFFFF_FFFF, 0xFFFF07F0 if probe.core.amd_host else 0xFFFF0FF0
    return Ability(name, value == expected, f"DR6 {value:08X}" + ("" if value == expected else f", not {expected:08X}"))


def _bus_lock_exit() -> Ability:
    """The same lock at CPL 0."""
    name = "bus-lock exits"
    probe = Probe(LOCK_INC + NOP, setup=Setup(bus_locks=True))
    if not probe.core.bus_lock_exits:
        return Ability(name, False, "none: --bus-locks needs --engine soft here")
    outcome = probe.run()
    shared = probe.core.shared
    if shared.exit_reason != abi.EXIT_BUS_LOCK and not shared.flags & abi.RUN_BUS_LOCK:
        return Ability(name, False, f"announced, but not seen, {outcome} instead")
    return Ability(name, True, {0: "RIP on it", len(LOCK_INC): "RIP behind it"}.get(probe.rip, "RIP elsewhere"))


def _interrupt_controllers() -> Iterator[Ability]:
    """The kernel's: the PIT ends a HLT; and an interrupt that waits stays out of a step."""
    probe = Probe(PIC_AND_PIT, setup=Setup(chips=True), others=TELL)
    if probe.core.chips is None:
        yield Ability("interrupts, PIT", False, "the host lacks the chips, or KVM_GUESTDBG_BLOCKIRQ; ours serve in user space")
        return
    outcome = probe.run()
    woken = probe.told is not None
    yield Ability("interrupts, PIT", woken, "the kernel's: a tick ends HLT" if woken else f"{outcome}, and no tick")
    probe = Probe(DEADLINE, setup=Setup(chips=True), others=TELL, cpu="SapphireRapids")
    outcome = probe.run()
    woken = probe.told is not None
    yield Ability("x2APIC, deadline", woken, "a TSC deadline ends HLT" if woken else f"{outcome}, and no interrupt")
    control = abi.DEBUG_STEP | abi.DEBUG_BLOCK_IRQ
    probe = Probe(NOP * 2, control, setup=Setup(chips=True), rflags=2 | IF)
    assert probe.core.chips is not None
    probe.core.chips.request(0x30, probe.core.fd)
    outcome = probe.run()
    holds = probe.debug is not None and probe.rip == 1
    yield Ability("quiet steps", holds, "a waiting interrupt stays out" if holds else f"{outcome}, RIP {probe.rip:+d}")


def _clock() -> Ability:
    """The guest switches kvmclock on, and is told of a stop."""
    code = b"\xb9" + SYSTEM_TIME.to_bytes(4, "little") + b"\xb8" + (DATA | 1).to_bytes(4, "little") + b"\x31\xd2\x0f\x30" + NOP
    probe = Probe(code + b"\xf4" + NOP)  # WRMSR; HLT; NOP
    outcome = probe.run()
    at = probe.core.ram.read_int
    if outcome != "HLT" or not at(DATA + MUL, 4):
        return Ability("kvmclock", False, f"{outcome}, and no clock")
    told = probe.core.fd.clock_paused()
    probe.run()
    seen = "runs" + (", a stop is told" if told and at(DATA + FLAGS, 1) & STOPPED else ", a stop is not told (KVM_KVMCLOCK_CTRL)")
    return Ability("kvmclock", told, seen)


def _announced(leaf: abi.CpuidEntry) -> tuple[int, ...]:
    """A leaf without what the running guest changes of it: sizes of its XSAVE area, OSXSAVE, OSPKE, the local APIC's switch."""
    ecx = {1: ~(1 << 27), 7: ~(1 << 4)}.get(leaf.function, -1)
    return leaf.eax, leaf.ecx & ecx, leaf.edx & ~(1 << 9 if leaf.function == 1 else 0)


def cpuid() -> Ability:
    """Whether the guest's CPUID is what it was set to: a host that lets the CPU answer shows it features that it was not given."""
    core = Probe(NOP).core
    told = {(one.function, one.index): _announced(one) for one in core.cpuid}
    changed = sorted({one.function for one in core.fd.cpuid() if told[one.function, one.index] != _announced(one)})
    leaves = ", ".join(f"{number:X}h" for number in changed)
    return Ability("CPUID", not changed, f"not as told: KVM changes leaf {leaves}" if changed else "as told")


def abilities() -> Iterator[Ability]:
    """Try everything."""
    yield cpuid()
    yield bus_lock_trap()
    yield _bus_lock_exit()
    yield from _interrupt_controllers()
    yield _clock()
