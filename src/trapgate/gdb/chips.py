"""Shows the interrupt controllers: `monitor info lapic`, `ioapic`, `irq`; and what makes memory cacheable: `info mtrr`."""

from collections.abc import Iterator

from trapgate.arch import msrs
from trapgate.devices.apic_bus import Delivery
from trapgate.devices.ioapic import LEVEL, LOGICAL, REMOTE_IRR
from trapgate.devices.ioapic import MASKED as PIN_MASKED
from trapgate.devices.lapic_registers import ENABLE, LVT_WRITABLE, MASKED, SOFTWARE_ENABLE, X2
from trapgate.devices.pic import PicState
from trapgate.gdb.target import Target, TargetError

_LVT = ("timer", "thermal", "performance", "LINT0", "LINT1", "error")
_TYPES = {0: "uncached", 1: "write-combining", 4: "write-through", 5: "write-protected", 6: "write-back"}
_VALID, _ENABLED, _FIXED = 1 << 11, 1 << 11, 1 << 10
_ADDRESS = 0x000F_FFFF_FFFF_F000


def _vectors(bits: int) -> str:
    """The numbers of the bits that are set."""
    return " ".join(f"{n:x}" for n in range(256) if bits >> n & 1) or "none"


def _delivery(word: int) -> str:
    return Delivery(word >> 8 & 7).name.lower() if word >> 8 & 7 in [*Delivery] else "reserved"


def lapic(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    """The local APIC of the chosen vCPU."""
    one = target.interrupts().lapics[thread - 1]
    mode = "off" if not one.base & ENABLE else "x2APIC" if one.base & X2 else "xAPIC"
    on = "on" if one.svr & SOFTWARE_ENABLE else "off"
    yield f"local APIC {thread - 1}: {mode}, at {one.base & _ADDRESS:#x}, {on} by SVR {one.svr:x}"
    yield f"  TPR {one.tpr:02x}  LDR {one.ldr:08x}  ICR {one.icr:016x}  ESR {one.esr:02x}"
    yield f"  in service: {_vectors(one.isr)}; waiting: {_vectors(one.irr)}; level-triggered: {_vectors(one.tmr)}"
    for name, entry, _ in zip(_LVT, one.lvt, LVT_WRITABLE, strict=True):
        yield f"  {name:<12} vector {entry & 0xFF:02x}, {_delivery(entry)}" + (", masked" if entry & MASKED else "")
    timer = one.timer
    kind = ("one-shot", "periodic", "TSC deadline", "reserved")[timer.mode]
    yield f"  timer: {kind}, initial count {timer.initial:x}, divide {timer.divide:x}, deadline {timer.deadline:x}"


def ioapic(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    """The redirection entries that are not as at reset, and the levels of the pins."""
    one = target.interrupts().ioapic
    yield f"I/O APIC {one.identifier}: {len(one.entries)} pins, asserted: {_vectors(one.lines)}"
    for pin, entry in enumerate(one.entries):
        if entry == PIN_MASKED:
            continue
        words = [f"vector {entry & 0xFF:02x}", _delivery(entry), "level" if entry & LEVEL else "edge"]
        words.append(f"to {'logical ' if entry & LOGICAL else ''}{entry >> 56:x}")
        words += ["masked"] * bool(entry & PIN_MASKED) + ["waits for EOI"] * bool(entry & REMOTE_IRR)
        yield f"  pin {pin:<2} {', '.join(words)}"


def irq(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    """The 8259s, and what waits at each local APIC."""
    chips = target.interrupts()
    for name, one in (("master 8259", chips.pic.master), ("slave 8259", chips.pic.slave)):
        yield f"{name}: {_pic(one)}"
    for number, each in enumerate(chips.lapics):
        yield f"local APIC {number}: in service: {_vectors(each.isr)}; waiting: {_vectors(each.irr)}"


def _pic(one: PicState) -> str:
    return (
        f"vectors from {one.base:02x}, requests {one.irr:02x}, in service {one.isr:02x}, masked {one.imr:02x}, "
        f"level-triggered {one.elcr:02x}"
    )


def mtrr(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    """The MTRRs that are on, and PAT."""
    try:
        control = target.read_msr(thread, msrs.MTRR_DEF_TYPE)
    except TargetError:
        yield "this CPU has no MTRRs"
        return
    on = "on" if control & _ENABLED else "off: all memory is uncached"
    yield f"MTRRs are {on}; elsewhere memory is {_kind(control)}; fixed ranges are {'on' if control & _FIXED else 'off'}"
    for pair in range(msrs.MTRR_PAIRS):
        base, mask = (target.read_msr(thread, msrs.MTRR_PHYSBASE0 + 2 * pair + n) for n in (0, 1))
        if mask & _VALID:
            yield f"  {base & _ADDRESS:012x} mask {mask & _ADDRESS:012x}  {_kind(base)}"
    pat = target.read_msr(thread, msrs.PAT)
    yield "PAT: " + ", ".join(_kind(kind) if kind != 7 else "uncached-" for kind in pat.to_bytes(8, "little"))


def _kind(value: int) -> str:
    return _TYPES.get(value & 0xFF, f"type {value & 0xFF}")
