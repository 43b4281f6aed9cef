"""Lowers flags, interrupts and system instructions: what is native, and what Python executes because it is rare."""

from iced_x86 import Code, Instruction, Mnemonic, OpKind

from trapgate.arch import vectors
from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.isa.rules.events import INT_N
from trapgate.isa.state import LAYOUT
from trapgate.soft.decode.rows import ROWS, Lower, is_register, row
from trapgate.soft.decode.template import Builder, operand_width

RAX_HIGH = LAYOUT["rax"].offset + 1


def _plain(name: str, **holes: int) -> Lower:
    return lambda b, i: b.op(name, **holes)


for _name in ("clc", "stc", "cmc", "cld", "std"):
    ROWS[getattr(Mnemonic, _name.upper())] = _plain(_name)
ROWS[Mnemonic.LAHF], ROWS[Mnemonic.SAHF] = _plain("lahf", R0=RAX_HIGH), _plain("sahf", R0=RAX_HIGH)


def _virtual8086(b: Builder) -> bool:
    return bool(b.mode & modes.REAL) and b.cpl == 3


def _refused(b: Builder, extension: str) -> None:
    """#GP(0), unless this bit of CR4 gives the flag another meaning, which Python knows."""
    b.op(f"refuse.{extension}", Uop="python")
    b.raises("raise_gp0")


def _refused_interrupt_flag(b: Builder) -> bool:
    """CLI and STI where CPL > IOPL."""
    if b.mode & modes.IOPL:
        return False
    if b.cpl == 3:
        _refused(b, "vme" if _virtual8086(b) else "pvi")
    else:
        b.raises("raise_gp0")
    return True


@row(Mnemonic.CLI)
def _cli(b: Builder, i: Instruction) -> None:
    if not _refused_interrupt_flag(b):
        b.op("cli")


@row(Mnemonic.STI)
def _sti(b: Builder, i: Instruction) -> None:
    if _refused_interrupt_flag(b):
        return
    b.op("sti")
    b.jump(b.length)


@row(Mnemonic.RDTSC, Mnemonic.RDTSCP)
def _time_stamp(b: Builder, i: Instruction) -> None:
    b.numbered("rdtsc" if i.mnemonic == Mnemonic.RDTSC else "rdtscp")
    b.end_if_counted()


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
    if _virtual8086(b) and not b.mode & modes.IOPL:
        _refused(b, "vme")
        return
    b.op("pushf")
    b.push(-i.stack_pointer_increment)


@row(Mnemonic.POPF, Mnemonic.POPFD, Mnemonic.POPFQ)
def _popf(b: Builder, i: Instruction) -> None:
    if _virtual8086(b) and not b.mode & modes.IOPL:
        _refused(b, "vme")
        return
    size = i.stack_pointer_increment
    b.pop(size)
    b.move_stack(size)
    kind = "kernel" if b.cpl == 0 else "iopl" if b.mode & modes.IOPL else "user"
    b.op(f"popf.{kind}.{16 if size == 2 else 32}")
    b.native("flags_changed")


@row(Mnemonic.PUSHA, Mnemonic.PUSHAD, Mnemonic.POPA, Mnemonic.POPAD)
def _all_registers(b: Builder, i: Instruction) -> None:
    pushes = i.mnemonic in (Mnemonic.PUSHA, Mnemonic.PUSHAD)
    b.numbered(f"{'pusha' if pushes else 'popa'}{abs(i.stack_pointer_increment)}")  # 8 registers of 2 or 4 bytes: as many bits
    b.end_if_counted()


def _native64(function: str, cpl0: bool = False) -> Lower:
    """Native in 64-bit mode, at CPL 0 where asked; otherwise Python."""
    return lambda b, i: b.native(function) if b.long and (not cpl0 or b.cpl == 0) else b.python(i)


ROWS[Mnemonic.STAC], ROWS[Mnemonic.CLAC] = _native64("stac", cpl0=True), _native64("clac", cpl0=True)


@row(Mnemonic.SYSCALL)
def _system_call(b: Builder, i: Instruction) -> None:
    _system(b, "syscall", b.long or b.amd)


@row(Mnemonic.SYSRET, Mnemonic.SYSRETQ)
def _system_return(b: Builder, i: Instruction) -> None:
    _system(b, f"sysret{64 if i.mnemonic == Mnemonic.SYSRETQ else 32}{'_amd' * b.amd}", b.long or b.amd)


@row(Mnemonic.SYSENTER)
def _fast_call(b: Builder, i: Instruction) -> None:
    _fast(b, i, "sysenter")


@row(Mnemonic.SYSEXIT, Mnemonic.SYSEXITQ)
def _fast_return(b: Builder, i: Instruction) -> None:
    _fast(b, i, f"sysexit{64 if i.mnemonic == Mnemonic.SYSEXITQ else 32}")


def _system(b: Builder, function: str, there: bool) -> None:
    """SYSCALL and SYSRET, which are #UD in real mode, and where the vendor has them in 64-bit code alone."""
    if not there or b.mode & modes.REAL:
        b.raises("raise_ud")
        return
    b.numbered(function)
    b.ends = True


def _fast(b: Builder, i: Instruction, function: str) -> None:
    """SYSENTER and SYSEXIT, which AMD's CPUs do not have in long mode."""
    if b.amd and b.long:
        b.raises("raise_ud")
        return
    b.numbered(function + "_amd" * b.amd)
    b.ends = True


@row(Mnemonic.RDPID)
def _rdpid(b: Builder, i: Instruction) -> None:
    b.op("mov.RR.32", R0=b.reg(i.op0_register), R1=LAYOUT["tsc_aux"].offset)


@row(Mnemonic.SWAPGS)
def _swapgs(b: Builder, i: Instruction) -> None:
    b.op("swapgs") if b.long and b.cpl == 0 else b.python(i)


@row(Mnemonic.INVLPG)
def _invlpg(b: Builder, i: Instruction) -> None:
    if b.cpl:
        b.raises("raise_gp0")
        return
    b.linear(i)
    b.native("invlpg")


@row(Mnemonic.CLTS)
def _clts(b: Builder, i: Instruction) -> None:
    if b.cpl:
        b.raises("raise_gp0")
        return
    b.op("clts")
    b.numbered("write_cr0")
    b.ends = True


@row(Mnemonic.LMSW)
def _lmsw(b: Builder, i: Instruction) -> None:
    if b.cpl:
        b.raises("raise_gp0")
        return
    b.selector(i, 0)
    b.op("lmsw")
    b.numbered("write_cr0")
    b.ends = True


@row(Mnemonic.INVD, Mnemonic.WBINVD, Mnemonic.WBNOINVD)
def _caches(b: Builder, i: Instruction) -> None:
    """There are no caches that the guest could tell from memory."""
    if b.cpl:
        b.raises("raise_gp0")


@row(Mnemonic.XGETBV)
def _xgetbv(b: Builder, i: Instruction) -> None:
    b.op("xgetbv", Uop="python")
    b.end_if_counted()


def _store(field: str, protected: bool) -> Lower:
    """SLDT, STR, SMSW: 16 bits to memory, all of it or zero-extended into a register."""

    def lower(b: Builder, i: Instruction) -> None:
        if protected and b.mode & modes.REAL:
            b.raises("raise_ud")
            return
        if b.cpl:
            b.op("refuse.umip", Uop="python")
        source = LAYOUT[field].offset
        if is_register(i, 0):
            b.op(f"mov.RR.{operand_width(i, 0)}", R0=b.reg(i.op0_register), R1=source)
        else:
            b.op("mov.TR.16", R1=source)
            b.memory(i, 2, write=True)
            b.store(16)
        if b.cpl:
            b.end_if_counted()

    return lower


ROWS[Mnemonic.SLDT], ROWS[Mnemonic.STR] = _store("ldtr_selector", True), _store("tr_selector", True)
ROWS[Mnemonic.SMSW] = _store("cr0", False)
_SHORT_BASE = (Code.LGDT_M1632_16, Code.LIDT_M1632_16)


def _table(table: str, write: bool) -> Lower:
    """LGDT, LIDT, SGDT, SIDT: six bytes, in 64-bit mode ten."""

    def lower(b: Builder, i: Instruction) -> None:
        bits = 64 if b.long else 32
        size = 2 + bits // 8
        if b.cpl and not write:
            b.raises("raise_gp0")
            return
        if b.cpl:
            b.op("refuse.umip", Uop="python")
        b.memory(i, size, write=write)
        b.ref(size, "w" if write else "r")
        if write:
            b.op(f"store.{table}.{bits}")
            b.commit_ref()
        else:
            b.op(f"load.{table}.{24 if i.code in _SHORT_BASE else bits}")
        if b.cpl:
            b.end_if_counted()

    return lower


for _name in ("gdt", "idt"):
    ROWS[getattr(Mnemonic, f"L{_name.upper()}")] = _table(_name, False)
    ROWS[getattr(Mnemonic, f"S{_name.upper()}")] = _table(_name, True)


def _load_far(name: str) -> Lower:
    """LDS and its kin: an offset, then a selector behind it; the register is written last."""

    def lower(b: Builder, i: Instruction) -> None:
        if is_register(i, 1):
            b.raises("raise_ud")
            return
        width = operand_width(i, 0)
        b.load_operand(i, width)
        b.op("T2=T0")
        b.memory(i, 2, add=width // 8)
        b.load(16)
        b.load_segment(name)
        b.op("T0=T2")
        b.op(f"mov.RT.{width}", R0=b.reg(i.op0_register))
        b.segment_loaded(name)

    return lower


for _name in ("ds", "es", "fs", "gs", "ss"):
    ROWS[getattr(Mnemonic, f"L{_name.upper()}")] = _load_far(_name)


def _load_table(name: str) -> Lower:
    """LLDT, LTR."""

    def lower(b: Builder, i: Instruction) -> None:
        if b.mode & modes.REAL or b.cpl:
            b.raises("raise_ud" if b.mode & modes.REAL else "raise_gp0")
            return
        b.selector(i, 0)
        b.numbered(name)
        b.end_if_counted()

    return lower


ROWS[Mnemonic.LLDT], ROWS[Mnemonic.LTR] = _load_table("lldt"), _load_table("ltr")


def _look(name: str, result: bool) -> Lower:
    """LAR, LSL, VERR, VERW; the first two have a result where ZF says so."""

    def lower(b: Builder, i: Instruction) -> None:
        if b.mode & modes.REAL:
            b.raises("raise_ud")
            return
        b.selector(i, int(result))
        b.numbered(name)
        if result:
            b.op("jne", TAKEN="out")
            b.op(f"mov.RT.{operand_width(i, 0)}", R0=b.reg(i.op0_register))
            b.label("out")
        b.end_if_counted()

    return lower


for _name in ("lar", "lsl", "verr", "verw"):
    ROWS[getattr(Mnemonic, _name.upper())] = _look(_name, _name in ("lar", "lsl"))


def _at_cpl0(function: str) -> Lower:
    """At CPL 0 by a native function, or all of it by Python."""

    def lower(b: Builder, i: Instruction) -> None:
        if b.cpl:
            b.raises("raise_gp0")
            return
        b.numbered(function)
        b.end_if_counted()

    return lower


ROWS[Mnemonic.RDMSR], ROWS[Mnemonic.WRMSR] = _at_cpl0("read_msr"), _at_cpl0("write_msr")


@row(Mnemonic.CPUID)
def _cpuid(b: Builder, i: Instruction) -> None:
    b.numbered("cpuid")
    b.end_if_counted()


@row(Mnemonic.INT)
def _interrupt(b: Builder, i: Instruction) -> None:
    b.op("int", Uop="python", Uvector=i.immediate8, Ukind=INT_N)
    b.ends = True


@row(Mnemonic.INT3)
def _breakpoint(b: Builder, i: Instruction) -> None:
    b.op("int", Uop="python", Uvector=vectors.BP, Ukind=0)
    b.ends = True


@row(Mnemonic.INTO)
def _overflow(b: Builder, i: Instruction) -> None:
    b.op("into", Uop="python", Uvector=vectors.OF, Ukind=0)
    b.end_if_counted()


@row(Mnemonic.IRET, Mnemonic.IRETD, Mnemonic.IRETQ)
def _interrupt_return(b: Builder, i: Instruction) -> None:
    b.numbered({Mnemonic.IRET: "iret16", Mnemonic.IRETD: "iret32", Mnemonic.IRETQ: "iret64"}[i.mnemonic])
    b.ends = True
