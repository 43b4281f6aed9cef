"""Moves the flags as a whole, sets the interrupt flag, and opens the doors to slower code: native functions, and Python."""

from collections.abc import Iterator
from functools import partial

from trapgate.arch import control, debugregs
from trapgate.arch.flags import AC, DF, ID, IF, IOPL, NT, OF, RF, TF, VM
from trapgate.isa import flags
from trapgate.isa.forms import Form
from trapgate.isa.request import leave_soon
from trapgate.isa.vocabulary import Trace, Value

MOV_SS_SHADOW = 2
SIZES = (2, 4, 8)
DR6_FREE = debugregs.DR6_B | debugregs.DR6_BLD | debugregs.DR6_BD | debugregs.DR6_BS | debugregs.DR6_BT  # bits that hold a value


def flag_image(m: Trace) -> Value:
    """RFLAGS as PUSHF sees it: RF and VM read as 0."""
    return (m.get("rflags", 64) & ~m.const(RF | VM, 64)) | flags.read(m) | 2


def read_flags(m: Trace) -> None:
    """T0 = RFLAGS (PUSHF)."""
    m["T0"] = flag_image(m)
    m.jump("NEXT")


def write_flags(m: Trace, mask: int) -> None:
    """RFLAGS = T0 under a mask (POPF). Whatever depends on TF, IF or AC is looked at by the dispatcher behind it."""
    new = m["T0"]
    flags.write(m, new)
    m.put("rflags", (m.get("rflags", 64) & ~m.const(mask | RF, 64)) | (new & mask))
    m.jump("NEXT")


def status_to_ah(m: Trace) -> None:
    """LAHF."""
    m.put("R0", (flags.read(m) | 2).trunc(8))
    m.jump("NEXT")


def status_from_ah(m: Trace) -> None:
    """SAHF: OF stays."""
    keep = flags.read(m) & OF
    flags.write(m, (m.get("R0", 8).zext(64) & 0xD5) | keep)
    m.jump("NEXT")


def carry(m: Trace, name: str) -> None:
    """CLC, STC, CMC."""
    new = {"clc": lambda: m.const(0, 1), "stc": lambda: m.const(1, 1), "cmc": lambda: flags.carry(m) ^ 1}[name]()
    flags.set_carry(m, new)
    m.jump("NEXT")


def direction(m: Trace, up: bool) -> None:
    """CLD, STD."""
    old = m.get("rflags", 64)
    m.put("rflags", (old & ~m.const(DF, 64)) if up else (old | DF))
    m.jump("NEXT")


def clear_if(m: Trace) -> None:
    """CLI where CPL <= IOPL is known."""
    m.put("rflags", m.get("rflags", 64) & ~m.const(IF, 64))
    m.jump("NEXT")


def set_if(m: Trace) -> None:
    """STI where CPL <= IOPL is known: interrupts are seen after the next instruction, which therefore ends its own block."""
    old = m.get("rflags", 64)
    m.put("rflags", old | IF)
    m.put("shadow", ((old & IF) == 0).zext(32))
    m.put("shadow_rip", m.hole("Qnext"))
    leave_soon(m, m.get("irq_waiting", 32))
    m.jump("NEXT")


def pause(m: Trace) -> None:
    """PAUSE: whoever spins leaves where another CPU waits for its turn."""
    sharing = m.get("sharing", 32)
    with m.when(sharing != 0, likely=False):
        m.put("paused", m.const(1, 32))
    leave_soon(m, sharing)
    m.jump("NEXT")


def python(m: Trace) -> None:
    """An instruction that Python executes: leaves translated code with its number."""
    m.put("exit_detail", m.hole("Uop", 32))
    m.put("next_rip", m.hole("Qnext"))
    m.cold("leave_instruction")


def numbered(m: Trace, function: str) -> None:
    """An instruction that a native function executes, and goes on behind this stencil; what is not plain Python executes."""
    m.put("exit_detail", m.hole("Uop", 32))
    m.put("next_rip", m.hole("Qnext"))
    m.cold(function)


def load_segment(m: Trace) -> None:
    """The segment register so many bytes behind ES = T0; it ends like `numbered`."""
    m["X"] = m.hole("Usegment", 64)
    numbered(m, "load_segment")


def return_far(m: Trace, size: int) -> None:
    """RETF of this operand size, which releases a constant number of bytes besides."""
    m["X"] = m.hole("Uextra", 64)
    numbered(m, f"retf{8 * size}")


def software_interrupt(m: Trace) -> None:
    """INT n and INT3; `Ukind` says which."""
    m.put("fault_vector", m.hole("Uvector", 32))
    m.put("fault_error", m.hole("Ukind", 32))
    m.put("fault_has_error", m.const(0, 32))
    numbered(m, "software_interrupt")


def interrupt_on_overflow(m: Trace) -> None:
    """INTO."""
    with m.when(flags.condition(m, 0), likely=False):
        software_interrupt(m)
    m.jump("NEXT")


def shadow_of_ss(m: Trace) -> None:
    """MOV and POP to SS hold interrupts and trap-class #DBs until after the next instruction (SDM vol. 3, 6.8.3)."""
    m.put("shadow", m.const(MOV_SS_SHADOW, 32))
    m.put("shadow_rip", m.hole("Qnext"))
    m.jump("NEXT")


def _give_up(m: Trace) -> None:
    numbered(m, "leave_instruction")


def refuse(m: Trace, field: str, mask: int) -> None:
    """Python executes the instruction where the guest has set one of these bits."""
    with m.when((m.get(field, 64) & mask) != 0, likely=False):
        _give_up(m)
    m.jump("NEXT")


def port(m: Trace, fixed: bool) -> None:
    """IN and OUT that need no I/O bitmap: complete but for the value, which goes between the device and the accumulator."""
    detail = m.hole("Uport", 32)  # size and direction, and the port where it is an immediate
    m.put("exit_detail", detail if fixed else detail | m.get("rdx", 16).zext(32))
    m.put("rip", m.hole("Qnext"))
    m.jump("leave_port")


def read_dr6(m: Trace) -> None:
    """T0 = DR6 as MOV reads it, see `arch.debugregs`."""
    m["T0"] = m.get("dr6", 64) | _fixed_bld(m)
    m.jump("NEXT")


def write_dr6(m: Trace) -> None:
    """DR6 = T0, as `arch.debugregs` has it: what a handler of #DB does each time. A value that is #GP is Python's."""
    with m.when((m["T0"] >> 32) != 0, likely=False):
        _give_up(m)
    m.put("dr6", (m["T0"] | _fixed_bld(m)) & DR6_FREE | (debugregs.DR6_INIT & ~DR6_FREE))
    m.jump("NEXT")


def _fixed_bld(m: Trace) -> Value:
    """BLD where it cannot be written and reads as 1, else 0."""
    changeable = (m.get("bld_free", 32) != 0) | ((m.get("debugctl", 64) & debugregs.DEBUGCTL_BUS_LOCK) != 0)
    return changeable.select(m.const(0, 64), m.const(debugregs.DR6_BLD, 64))


def clear_ts(m: Trace) -> None:
    """T0 = CR0 as CLTS leaves it."""
    m["T0"] = m.get("cr0", 64) & ~m.const(control.CR0_TS, 64)
    m.jump("NEXT")


def machine_status(m: Trace) -> None:
    """T0 = CR0 as LMSW of T0 leaves it: bits 3:0 change, PE is never cleared."""
    m["T0"] = (m.get("cr0", 64) & ~m.const(0xE, 64)) | (m["T0"] & 0xF)
    m.jump("NEXT")


def read_xcr0(m: Trace) -> None:
    """XGETBV of XCR0; anything else is Python's."""
    odd = ((m.get("cr4", 64) & control.CR4_OSXSAVE) == 0) | (m.get("rcx", 32) != 0)
    with m.when(odd, likely=False):
        _give_up(m)
    value = m.get("xcr0", 64)
    m.put("rax", value & 0xFFFFFFFF)
    m.put("rdx", value >> 32)
    m.jump("NEXT")


def load_table(m: Trace, table: str, bits: int) -> None:
    """LGDT and LIDT of what lies at HOST: a limit and a base of so many bits."""
    base = m.load(m["HOST"] + 2, max(bits, 32)).zext(64)
    if bits == 64:
        with m.when((base << 16).sar(16) != base, likely=False):
            m.cold("raise_gp0")
    m.put(f"{table}_base", base & 0xFFFFFF if bits == 24 else base)
    m.put(f"{table}_limit", m.load(m["HOST"], 16).zext(64))
    m.jump("NEXT")


def store_table(m: Trace, table: str, bits: int) -> None:
    """SGDT and SIDT to HOST."""
    m.store(m["HOST"], m.get(f"{table}_limit", 16))
    m.store(m["HOST"] + 2, m.get(f"{table}_base", bits))
    m.jump("NEXT")


def swap_gs(m: Trace) -> None:
    """SWAPGS at CPL 0."""
    old = m.get("gs_base", 64)
    m.put("gs_base", m.get("kernel_gs_base", 64))
    m.put("kernel_gs_base", old)
    m.jump("NEXT")


def enter_native(m: Trace, function: str) -> None:
    """An instruction that a native function executes to its end."""
    m.put("next_rip", m.hole("Qnext"))
    m.cold(function)


def raise_(m: Trace, function: str) -> None:
    """An instruction that always faults here."""
    m.cold(function)


NATIVE = (
    "stac",
    "clac",
    "invlpg",
    "flags_changed",
    "segment_changed",
)
NUMBERED = (
    "rdtsc", "rdtscp", "write_cr0", "write_cr3", "write_cr4", *(f"write_dr{n}" for n in range(debugregs.SLOTS)), "write_dr7",
    "lar", "lsl", "verr", "verw", "read_msr", "write_msr", "cpuid",
    "iret16", "iret32", "iret64", "callf16", "callf32", "callf64", "jmpf", "lldt", "ltr",
    "syscall", "sysret32", "sysret64", "sysret32_amd", "sysret64_amd",
    "sysenter", "sysenter_amd", "sysexit32", "sysexit32_amd", "sysexit64",
    "pusha16", "pusha32", "popa16", "popa32",
)  # fmt: skip
REFUSALS = {
    "general_detect": ("dr7", debugregs.DR7_GD),
    "umip": ("cr4", control.CR4_UMIP),
    "vme": ("cr4", control.CR4_VME),
    "pvi": ("cr4", control.CR4_PVI),
}
RAISES = ("raise_ud", "raise_gp0", "raise_nm", "leave_breakpoint")


def forms() -> Iterator[Form]:
    """Every stencil of this family."""
    yield Form("pushf", read_flags)
    for name, mask in (("user", 0), ("iopl", IF), ("kernel", IF | IOPL)):
        yield Form(f"popf.{name}.16", partial(write_flags, mask=mask | TF | DF | NT))
        yield Form(f"popf.{name}.32", partial(write_flags, mask=mask | TF | DF | NT | AC | ID))
    yield Form("lahf", status_to_ah)
    yield Form("sahf", status_from_ah)
    for name in ("clc", "stc", "cmc"):
        yield Form(name, partial(carry, name=name))
    yield Form("cld", partial(direction, up=True))
    yield Form("std", partial(direction, up=False))
    yield Form("cli", clear_if)
    yield Form("sti", set_if)
    yield Form("pause", pause)
    yield Form("python", python)
    for function in NUMBERED:
        yield Form(f"system.{function}", partial(numbered, function=function))
    for name, (field, mask) in REFUSALS.items():
        yield Form(f"refuse.{name}", partial(refuse, field=field, mask=mask))
    yield Form("port.imm", partial(port, fixed=True))
    yield Form("port.dx", partial(port, fixed=False))
    yield Form("dr6.read", read_dr6)
    yield Form("dr6.write", write_dr6)
    yield Form("load_segment", load_segment)
    for size in SIZES:
        yield Form(f"retf.{8 * size}", partial(return_far, size=size))
    yield Form("int", software_interrupt)
    yield Form("into", interrupt_on_overflow)
    yield Form("shadow.ss", shadow_of_ss)
    yield Form("clts", clear_ts)
    yield Form("lmsw", machine_status)
    yield Form("xgetbv", read_xcr0)
    for table in ("gdt", "idt"):
        for bits in (24, 32, 64):
            yield Form(f"load.{table}.{bits}", partial(load_table, table=table, bits=bits))
            if bits > 24:
                yield Form(f"store.{table}.{bits}", partial(store_table, table=table, bits=bits))
    yield Form("swapgs", swap_gs)
    for function in NATIVE:
        yield Form(f"native.{function}", partial(enter_native, function=function))
    for function in RAISES:
        yield Form(function, partial(raise_, function=function))
