"""Flags, interrupts and system instructions: what is native, and what Python executes because it is rare."""

from iced_x86 import Instruction, Mnemonic, OpKind

from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.isa.state import LAYOUT
from trapgate.soft.decode.integer import ROWS, Lower, row
from trapgate.soft.decode.template import Builder, operand_width

RAX_HIGH = LAYOUT["rax"].offset + 1


def _plain(name: str, **holes: int) -> Lower:
    return lambda b, i: b.op(name, **holes)


for _name in ("clc", "stc", "cmc", "cld", "std"):
    ROWS[getattr(Mnemonic, _name.upper())] = _plain(_name)
ROWS[Mnemonic.LAHF], ROWS[Mnemonic.SAHF] = _plain("lahf", R0=RAX_HIGH), _plain("sahf", R0=RAX_HIGH)


def _virtual8086(b: Builder) -> bool:
    return bool(b.mode & modes.REAL) and b.cpl == 3


@row(Mnemonic.CLI)
def _cli(b: Builder, i: Instruction) -> None:
    b.op("cli") if b.mode & modes.IOPL else b.python(i)


@row(Mnemonic.STI)
def _sti(b: Builder, i: Instruction) -> None:
    if not b.mode & modes.IOPL:
        b.python(i)
        return
    b.op("sti")
    b.jump(b.length)


@row(Mnemonic.RDTSC, Mnemonic.RDTSCP)
def _time_stamp(b: Builder, i: Instruction) -> None:
    b.op("rdtsc" if i.mnemonic == Mnemonic.RDTSC else "rdtscp", Uop="python")
    if b.counting:  # the block must end, or what is behind has been counted already
        b.jump(b.length)


@row(Mnemonic.IN, Mnemonic.OUT)
def _port(b: Builder, i: Instruction) -> None:
    if not b.mode & modes.IOPL or _virtual8086(b):  # the I/O bitmap decides
        b.python(i)
        return
    out = int(i.mnemonic == Mnemonic.OUT)
    what = operand_width(i, out) // 8 << 16 | out * s.PORT_OUT
    fixed = i.op_kind(1 - out) == OpKind.IMMEDIATE8
    b.op("port.imm", Uport=what | i.immediate8) if fixed else b.op("port.dx", Uport=what)
    b.ends = True


@row(Mnemonic.PUSHF, Mnemonic.PUSHFD, Mnemonic.PUSHFQ)
def _pushf(b: Builder, i: Instruction) -> None:
    if _virtual8086(b):
        b.python(i)
        return
    b.op("pushf")
    b.push(-i.stack_pointer_increment)


@row(Mnemonic.POPF, Mnemonic.POPFD, Mnemonic.POPFQ)
def _popf(b: Builder, i: Instruction) -> None:
    if _virtual8086(b):
        b.python(i)
        return
    size = i.stack_pointer_increment
    b.pop(size)
    b.move_stack(size)
    kind = "kernel" if b.cpl == 0 else "iopl" if b.mode & modes.IOPL else "user"
    b.op(f"popf.{kind}.{16 if size == 2 else 32}")
    b.native("flags_changed")


def _native64(function: str, cpl0: bool = False) -> Lower:
    """Native in 64-bit mode, at CPL 0 where asked; otherwise Python."""
    return lambda b, i: b.native(function) if b.long and (not cpl0 or b.cpl == 0) else b.python(i)


ROWS[Mnemonic.SYSCALL] = _native64("syscall")
ROWS[Mnemonic.IRETQ] = _native64("iret64", cpl0=True)
ROWS[Mnemonic.INT3] = _native64("int3")
ROWS[Mnemonic.STAC], ROWS[Mnemonic.CLAC] = _native64("stac", cpl0=True), _native64("clac", cpl0=True)


@row(Mnemonic.SYSRETQ)
def _sysret(b: Builder, i: Instruction) -> None:
    b.native("sysret_amd" if b.amd else "sysret") if b.long and b.cpl == 0 else b.python(i)


@row(Mnemonic.SWAPGS)
def _swapgs(b: Builder, i: Instruction) -> None:
    b.op("swapgs") if b.long and b.cpl == 0 else b.python(i)


@row(Mnemonic.INVLPG)
def _invlpg(b: Builder, i: Instruction) -> None:
    if not b.long or b.cpl:
        b.python(i)
        return
    b.memory(i, 1)
    b.native("invlpg")
