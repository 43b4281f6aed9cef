"""Flags as a whole, the interrupt flag, and the doors to slower code: native functions and instructions written in Python."""

from collections.abc import Iterator
from functools import partial

from trapgate.arch import debugregs
from trapgate.arch.flags import AC, DF, ID, IF, IOPL, NT, OF, RF, TF, VM
from trapgate.isa import flags
from trapgate.isa.forms import Form
from trapgate.isa.request import leave_soon
from trapgate.isa.vocabulary import Trace, Value

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


def python(m: Trace) -> None:
    """An instruction that Python executes: leaves translated code with its number."""
    m.put("exit_detail", m.hole("Uop", 32))
    m.put("next_rip", m.hole("Qnext"))
    m.cold("leave_instruction")


def time_stamp(m: Trace, function: str) -> None:
    """RDTSC and RDTSCP on the host's clock; what is not plain Python executes."""
    m.put("exit_detail", m.hole("Uop", 32))
    m.put("next_rip", m.hole("Qnext"))
    m.cold(function)


def port(m: Trace, fixed: bool) -> None:
    """IN and OUT that need no I/O bitmap: complete but for the value, which goes between the device and the accumulator."""
    detail = m.hole("Uport", 32)  # size and direction, and the port where it is an immediate
    m.put("exit_detail", detail if fixed else detail | m.get("rdx", 16).zext(32))
    m.put("rip", m.hole("Qnext"))
    m.jump("leave_port")


def dr6_access(m: Trace, write: bool) -> None:
    """MOV from and to DR6 in 64-bit mode at CPL 0, as `arch.debugregs` has it: what a handler of #DB does each time.

    Python's: general detect, and a value that is #GP.
    """
    odd = (m.get("dr7", 64) & debugregs.DR7_GD) != 0
    value = m.get("R1", 64) if write else m.get("dr6", 64)
    if write:
        odd = odd | ((value >> 32) != 0)
    with m.when(odd, likely=False):
        m.put("exit_detail", m.hole("Uop", 32))
        m.put("next_rip", m.hole("Qnext"))
        m.cold("leave_instruction")
    changeable = (m.get("bld_free", 32) != 0) | ((m.get("debugctl", 64) & debugregs.DEBUGCTL_BUS_LOCK) != 0)
    value = value | changeable.select(m.const(0, 64), m.const(debugregs.DR6_BLD, 64))
    if write:
        m.put("dr6", value & DR6_FREE | (debugregs.DR6_INIT & ~DR6_FREE))
    else:
        m.put("R0", value)
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


NATIVE = ("syscall", "sysret", "sysret_amd", "iret64", "stac", "clac", "int3", "invlpg", "write_cr3", "flags_changed")
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
    yield Form("python", python)
    for function in ("rdtsc", "rdtscp"):
        yield Form(function, partial(time_stamp, function=function))
    yield Form("port.imm", partial(port, fixed=True))
    yield Form("port.dx", partial(port, fixed=False))
    yield Form("dr6.read", partial(dr6_access, write=False))
    yield Form("dr6.write", partial(dr6_access, write=True))
    yield Form("swapgs", swap_gs)
    for function in NATIVE:
        yield Form(f"native.{function}", partial(enter_native, function=function))
    for function in RAISES:
        yield Form(function, partial(raise_, function=function))
