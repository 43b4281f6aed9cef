"""Lowers decoded general-purpose instructions to micro-ops. One row a mnemonic; what has no row is #UD.

Order matters where an access may fault: nothing architectural changes before the last access of an instruction.
"""

from collections.abc import Callable

from iced_x86 import ConditionCode, Instruction, Mnemonic, OpKind, Register

from trapgate.isa.flags import CONDITIONS
from trapgate.isa.state import LAYOUT
from trapgate.soft.decode.template import Builder, operand_width
from trapgate.soft.state.registers import GENERAL, SEGMENT_NAME

Lower = Callable[[Builder, Instruction], None]
ROWS: dict[int, Lower] = {}
RAX, RDX, RSI, RDI = (LAYOUT[name].offset for name in ("rax", "rdx", "rsi", "rdi"))
CONDITION_NAME = {
    ConditionCode.O: "o", ConditionCode.NO: "no", ConditionCode.B: "b", ConditionCode.AE: "ae", ConditionCode.E: "e",
    ConditionCode.NE: "ne", ConditionCode.BE: "be", ConditionCode.A: "a", ConditionCode.S: "s", ConditionCode.NS: "ns",
    ConditionCode.P: "p", ConditionCode.NP: "np", ConditionCode.L: "l", ConditionCode.GE: "ge", ConditionCode.LE: "le",
    ConditionCode.G: "g",
}  # fmt: skip
assert set(CONDITION_NAME.values()) == set(CONDITIONS)

CONTROL_REGISTERS = {Register.CR0: "cr0", Register.CR2: "cr2", Register.CR3: "cr3", Register.CR4: "cr4"}


def row(*mnemonics: int) -> Callable[[Lower], Lower]:
    """Register the lowering of some mnemonics."""

    def register(lower: Lower) -> Lower:
        for mnemonic in mnemonics:
            assert mnemonic not in ROWS
            ROWS[mnemonic] = lower
        return lower

    return register


def immediate(i: Instruction, n: int, width: int) -> dict[str, int]:
    """The hole of an immediate operand of a form `width` bits wide."""
    value = i.immediate(n)
    if width == 64:
        return {"Simm": value - (1 << 64) if value >> 63 else value}
    return {"Bimm" if width == 8 else "Uimm": value & ((1 << width) - 1)}


def is_memory(i: Instruction, n: int) -> bool:
    """Whether operand n lies in memory."""
    return i.op_kind(n) == OpKind.MEMORY


def is_register(i: Instruction, n: int) -> bool:
    """Whether operand n is a register."""
    return i.op_kind(n) == OpKind.REGISTER


def modify(b: Builder, i: Instruction, width: int, locked: bool) -> None:
    """T0 = the memory operand, proven writable; `finish_modify` stores it back."""
    b.memory(i, width // 8, write=True)
    b.op(f"{'lock' if locked else 'modify'}.{width}")


def finish_modify(b: Builder, width: int, locked: bool) -> None:
    """Store T0 back; behind a locked instruction a debug exception may be due."""
    b.op(f"commit.{width}")
    if locked:
        b.op("lock_end")


def source(b: Builder, i: Instruction, n: int, width: int, index: int = 1) -> tuple[str, dict[str, int]]:
    """Operand n as a source: (kind letter, holes); a memory operand is loaded into T0."""
    if is_register(i, n):
        return "R", {f"R{index}": b.reg(i.op_register(n))}
    if is_memory(i, n):
        b.load_operand(i, width)
        return "T", {}
    return "I", immediate(i, n, width)


def _binary(name: str, writes: bool = True) -> Lower:
    def lower(b: Builder, i: Instruction) -> None:
        width = operand_width(i, 0)
        if is_register(i, 0):
            kind, holes = source(b, i, 1, width)
            b.op(f"{name}.R{kind}.{width}", R0=b.reg(i.op0_register), **holes)
            return
        holes = {"R1": b.reg(i.op1_register)} if is_register(i, 1) else immediate(i, 1, width)
        kind = "R" if is_register(i, 1) else "I"
        if not writes:
            b.load_operand(i, width)
            b.op(f"{name}.T{kind}.{width}", **holes)
            return
        modify(b, i, width, i.has_lock_prefix)
        b.op(f"{name}.T{kind}.{width}", **holes)
        finish_modify(b, width, i.has_lock_prefix)

    return lower


for _name in ("add", "adc", "sub", "sbb", "and", "or", "xor"):
    ROWS[getattr(Mnemonic, _name.upper())] = _binary(_name)
ROWS[Mnemonic.CMP] = _binary("cmp", writes=False)
ROWS[Mnemonic.TEST] = _binary("test", writes=False)


def _unary(name: str) -> Lower:
    def lower(b: Builder, i: Instruction) -> None:
        width = operand_width(i, 0)
        if is_register(i, 0):
            b.op(f"{name}.R.{width}", R0=b.reg(i.op0_register))
            return
        modify(b, i, width, i.has_lock_prefix)
        b.op(f"{name}.T.{width}")
        finish_modify(b, width, i.has_lock_prefix)

    return lower


for _name in ("inc", "dec", "neg", "not"):
    ROWS[getattr(Mnemonic, _name.upper())] = _unary(_name)


def _shift(name: str) -> Lower:
    def lower(b: Builder, i: Instruction) -> None:
        width = operand_width(i, 0)
        by_register = is_register(i, 1)
        count = 0 if by_register else i.immediate(1) & (63 if width == 64 else 31)
        kind = "C" if by_register else "I"
        holes: dict[str, int] = {} if by_register else {"Uimm": count}
        if is_register(i, 0):
            if by_register or count:
                b.op(f"{name}.R{kind}.{width}", R0=b.reg(i.op0_register), **holes)
            elif width == 32:
                b.op("mov.RR.32", R0=b.reg(i.op0_register), R1=b.reg(i.op0_register))
            return
        modify(b, i, width, False)
        if by_register or count:
            b.op(f"{name}.T{kind}.{width}", **holes)
        finish_modify(b, width, False)

    return lower


for _name in ("shl", "shr", "sar", "rol", "ror", "rcl", "rcr"):
    ROWS[getattr(Mnemonic, _name.upper())] = _shift(_name)
ROWS[Mnemonic.SAL] = ROWS[Mnemonic.SHL]


def _double_shift(name: str) -> Lower:
    def lower(b: Builder, i: Instruction) -> None:
        width = operand_width(i, 0)
        by_register = is_register(i, 2)
        holes = {"R1": b.reg(i.op1_register)} | ({} if by_register else {"Uimm": i.immediate(2) & 0xFF})
        kind = "C" if by_register else "I"
        if is_register(i, 0):
            b.op(f"{name}.R{kind}.{width}", R0=b.reg(i.op0_register), **holes)
            return
        modify(b, i, width, False)
        b.op(f"{name}.T{kind}.{width}", **holes)
        finish_modify(b, width, False)

    return lower


ROWS[Mnemonic.SHLD], ROWS[Mnemonic.SHRD] = _double_shift("shld"), _double_shift("shrd")


@row(Mnemonic.MOV)
def _mov(b: Builder, i: Instruction) -> None:
    if is_register(i, 0) and i.op0_register in GENERAL:
        width, offset = GENERAL[i.op0_register][1], b.reg(i.op0_register)
        if is_register(i, 1):
            if i.op1_register in GENERAL:
                b.op(f"mov.RR.{width}", R0=offset, R1=b.reg(i.op1_register))
            elif i.op1_register in SEGMENT_NAME:
                selector = LAYOUT[f"{SEGMENT_NAME[i.op1_register]}_selector"].offset
                b.op("mov.RR.16" if width == 16 else f"movzx.R.16.{width}", R0=offset, R1=selector)
            elif i.op1_register in CONTROL_REGISTERS and b.cpl == 0:
                b.op(f"mov.RR.{width}", R0=offset, R1=LAYOUT[CONTROL_REGISTERS[i.op1_register]].offset)
            elif i.op1_register == Register.DR6 and b.long and b.cpl == 0:
                b.op("dr6.read", R0=offset, Uop="python")
            else:
                b.python(i)
        elif is_memory(i, 1):
            b.load_operand(i, width)
            b.op(f"mov.RT.{width}", R0=offset)
        elif i.op1_kind == OpKind.IMMEDIATE64:
            b.op("mov.RQ", R0=offset, Qimm=i.immediate64)
        else:
            b.op(f"mov.RI.{width}", R0=offset, **immediate(i, 1, width))
    elif is_memory(i, 0):
        width = operand_width(i, 0)
        if is_register(i, 1) and i.op1_register in SEGMENT_NAME:
            b.op("mov.TR.16", R1=LAYOUT[f"{SEGMENT_NAME[i.op1_register]}_selector"].offset)
            width = 16
        elif is_register(i, 1):
            b.op(f"mov.TR.{width}", R1=b.reg(i.op1_register))
        else:
            b.op(f"mov.TI.{width}", **immediate(i, 1, width))
        b.memory(i, width // 8, write=True)
        b.store(width)
    elif is_register(i, 0) and i.op0_register == Register.CR3 and b.long and b.cpl == 0 and not b.step:
        b.op("mov.TR.64", R1=b.reg(i.op1_register))
        b.native("write_cr3")
    elif is_register(i, 0) and i.op0_register == Register.DR6 and b.long and b.cpl == 0:
        b.op("dr6.write", R1=b.reg(i.op1_register), Uop="python")
    else:
        b.python(i)


def _extend(name: str) -> Lower:
    def lower(b: Builder, i: Instruction) -> None:
        wide, narrow = operand_width(i, 0), operand_width(i, 1)
        if b.amd and i.mnemonic == Mnemonic.MOVSXD and narrow == wide and is_memory(i, 1):
            # 16-bit operands: AMD's read 32 bits all the same (measured)
            b.load_operand(i, 32)
            b.op(f"mov.RT.{wide}", R0=b.reg(i.op0_register))
            return
        kind, holes = source(b, i, 1, narrow)
        form = f"mov.R{kind}.{wide}" if narrow == wide else f"{name}.{kind}.{narrow}.{wide}"
        b.op(form, R0=b.reg(i.op0_register), **holes)

    return lower


ROWS[Mnemonic.MOVZX] = _extend("movzx")
ROWS[Mnemonic.MOVSX] = ROWS[Mnemonic.MOVSXD] = _extend("movsx")


@row(Mnemonic.LEA)
def _lea(b: Builder, i: Instruction) -> None:
    b.address(i)
    b.op(f"lea.{operand_width(i, 0)}", R0=b.reg(i.op0_register))


@row(Mnemonic.XCHG)
def _xchg(b: Builder, i: Instruction) -> None:
    width = operand_width(i, 0)
    if is_register(i, 0) and is_register(i, 1):
        b.op(f"xchg.RR.{width}", R0=b.reg(i.op0_register), R1=b.reg(i.op1_register))
        return
    register = b.reg(i.op1_register if is_memory(i, 0) else i.op0_register)
    modify(b, i, width, True)
    b.op(f"xchg.T.{width}", R1=register)
    b.op(f"commit.{width}")
    b.op(f"from_t1.{width}", R0=register)
    b.op("lock_end")


@row(Mnemonic.XADD)
def _xadd(b: Builder, i: Instruction) -> None:
    width, register = operand_width(i, 0), b.reg(i.op1_register)
    if is_register(i, 0):
        b.op(f"xadd.R.{width}", R0=b.reg(i.op0_register), R1=register)
        return
    modify(b, i, width, i.has_lock_prefix)
    b.op(f"xadd.T.{width}", R1=register)
    b.op(f"commit.{width}")
    b.op(f"from_t1.{width}", R0=register)
    if i.has_lock_prefix:
        b.op("lock_end")


@row(Mnemonic.CMPXCHG)
def _cmpxchg(b: Builder, i: Instruction) -> None:
    width, register = operand_width(i, 0), b.reg(i.op1_register)
    if is_register(i, 0):
        b.op(f"cmpxchg.R.{width}", R0=b.reg(i.op0_register), R1=register)
        return
    modify(b, i, width, i.has_lock_prefix)
    b.op(f"cmpxchg.T.{width}", R1=register)
    finish_modify(b, width, i.has_lock_prefix)


@row(Mnemonic.CMPXCHG8B)
def _cmpxchg8b(b: Builder, i: Instruction) -> None:
    modify(b, i, 64, i.has_lock_prefix)
    b.op("cmpxchg8b")
    finish_modify(b, 64, i.has_lock_prefix)


@row(Mnemonic.CMPXCHG16B)
def _cmpxchg16b(b: Builder, i: Instruction) -> None:
    b.memory(i, 16, write=True)
    b.aligned(16)
    b.ref(16, "lock" if i.has_lock_prefix else "rw")
    b.op("cmpxchg16b")
    b.commit_ref()
    if i.has_lock_prefix:
        b.op("lock_end")


def _one_source(name: str, index: int = 1) -> Lower:
    def lower(b: Builder, i: Instruction) -> None:
        width = operand_width(i, 0)
        kind, holes = source(b, i, 0, width, index)
        b.op(f"{name}.{kind}.{width}", **holes)

    return lower


ROWS[Mnemonic.MUL], ROWS[Mnemonic.DIV], ROWS[Mnemonic.IDIV] = _one_source("mul1"), _one_source("div"), _one_source("idiv")


@row(Mnemonic.IMUL)
def _imul(b: Builder, i: Instruction) -> None:
    if i.op_count == 1:
        _one_source("imul1")(b, i)
        return
    width = operand_width(i, 0)
    kind, holes = source(b, i, 1, width)
    if i.op_count == 2:
        b.op(f"imul2.R{kind}.{width}", R0=b.reg(i.op0_register), **holes)
    else:
        b.op(f"imul3.{kind}.{width}", R0=b.reg(i.op0_register), **holes, **immediate(i, 2, width))


def _two_operand(name: str) -> Lower:
    """destination register, register or memory source, forms by source kind and width."""

    def lower(b: Builder, i: Instruction) -> None:
        width = operand_width(i, 0)
        kind, holes = source(b, i, 1, width)
        b.op(f"{name}.{kind}.{width}", R0=b.reg(i.op0_register), **holes)

    return lower


for _name in ("bsf", "bsr", "tzcnt", "lzcnt", "popcnt", "adcx", "adox", "blsi", "blsmsk", "blsr"):
    ROWS[getattr(Mnemonic, _name.upper())] = _two_operand(_name)


@row(Mnemonic.CRC32)
def _crc32(b: Builder, i: Instruction) -> None:
    width = operand_width(i, 1)
    kind, holes = source(b, i, 1, width)
    b.op(f"crc32.{kind}.{width}", R0=b.reg(i.op0_register), **holes)


def _three_operand(name: str, memory_operand: int) -> Lower:
    """BMI: three registers, one of them possibly memory; the hole of each is its operand number."""

    def lower(b: Builder, i: Instruction) -> None:
        width = operand_width(i, 0)
        holes: dict[str, int] = {}
        for n in range(min(i.op_count, 3)):
            if is_register(i, n):
                holes[f"R{n}"] = b.reg(i.op_register(n))
            elif i.op_kind(n) == OpKind.IMMEDIATE8:
                holes["Uimm"] = i.immediate8
        if is_memory(i, memory_operand):
            b.load_operand(i, width)
        b.op(f"{name}.{'T' if is_memory(i, memory_operand) else 'R'}.{width}", **holes)

    return lower


for _name in ("andn", "pdep", "pext", "mulx"):
    ROWS[getattr(Mnemonic, _name.upper())] = _three_operand(_name, 2)
for _name in ("bextr", "bzhi", "shlx", "shrx", "sarx", "rorx"):
    ROWS[getattr(Mnemonic, _name.upper())] = _three_operand(_name, 1)


def _bit_test(name: str) -> Lower:
    def lower(b: Builder, i: Instruction) -> None:
        width = operand_width(i, 0)
        kind = "R" if is_register(i, 1) else "I"
        holes = {"R1": b.reg(i.op1_register)} if kind == "R" else {"Uimm": i.immediate8}
        if is_register(i, 0):
            b.op(f"{name}.R{kind}.{width}", R0=b.reg(i.op0_register), **holes)
            return
        write = name != "bt"
        if kind == "R":  # the offset moves before the segment is checked
            b.address(i)
            ends, segment = f"{width}.{_address_width(i)}", SEGMENT_NAME[i.memory_segment]
            if b.long and segment in ("fs", "gs"):
                b.op(f"bit_address.seg.{ends}", Rseg=LAYOUT[f"{segment}_base"].offset, **holes)
            else:
                b.op(f"bit_address.{ends}", **holes)
                b.segment(segment, width // 8, write)
        else:
            b.memory(i, width // 8, write=write)
        if not write:
            b.load(width)
            b.op(f"bt.T{kind}.{width}", **holes)
            return
        b.op(f"{'lock' if i.has_lock_prefix else 'modify'}.{width}")
        b.op(f"{name}.T{kind}.{width}", **holes)
        finish_modify(b, width, i.has_lock_prefix)

    return lower


def _address_width(i: Instruction) -> int:
    """Bits of the address size of a memory operand."""
    for register in (i.memory_base, i.memory_index):
        if register in GENERAL:
            return GENERAL[register][1]
    return {Register.RIP: 64, Register.EIP: 32}.get(i.memory_base, 8 * i.memory_displ_size)


for _name in ("bt", "bts", "btr", "btc"):
    ROWS[getattr(Mnemonic, _name.upper())] = _bit_test(_name)


@row(Mnemonic.BSWAP)
def _bswap(b: Builder, i: Instruction) -> None:
    b.op(f"bswap.{operand_width(i, 0)}", R0=b.reg(i.op0_register))


@row(Mnemonic.MOVBE)
def _movbe(b: Builder, i: Instruction) -> None:
    width = operand_width(i, 0)
    if is_register(i, 0):
        b.load_operand(i, width)
        b.op(f"movbe.load.{width}", R0=b.reg(i.op0_register))
    else:
        b.op(f"movbe.store.{width}", R0=b.reg(i.op1_register))
        b.memory(i, width // 8, write=True)
        b.store(width)


@row(Mnemonic.MOVNTI)
def _movnti(b: Builder, i: Instruction) -> None:
    _mov(b, i)


for _mnemonic, _width in ((Mnemonic.CBW, 16), (Mnemonic.CWDE, 32), (Mnemonic.CDQE, 64)):
    ROWS[_mnemonic] = lambda b, i, w=_width: b.op(f"widen.{w}", R0=RAX)  # type: ignore[misc]
for _mnemonic, _width in ((Mnemonic.CWD, 16), (Mnemonic.CDQ, 32), (Mnemonic.CQO, 64)):
    ROWS[_mnemonic] = lambda b, i, w=_width: b.op(f"sign_to_rdx.{w}", R0=RDX)  # type: ignore[misc]


def _cmov(b: Builder, i: Instruction) -> None:
    width = operand_width(i, 0)
    kind, holes = source(b, i, 1, width)
    b.op(f"cmov{CONDITION_NAME[i.condition_code]}.{kind}.{width}", R0=b.reg(i.op0_register), **holes)


def _setcc(b: Builder, i: Instruction) -> None:
    name = f"set{CONDITION_NAME[i.condition_code]}"
    if is_register(i, 0):
        b.op(f"{name}.R", R0=b.reg(i.op0_register))
        return
    b.op(f"{name}.T")
    b.memory(i, 1, write=True)
    b.store(8)


for _name in dir(Mnemonic):
    if _name.startswith("CMOV"):
        ROWS[getattr(Mnemonic, _name)] = _cmov
for _name in CONDITIONS:
    ROWS[getattr(Mnemonic, f"SET{_name.upper()}")] = _setcc


@row(Mnemonic.XLATB)
def _xlat(b: Builder, i: Instruction) -> None:
    width, segment = GENERAL[i.memory_base][1], SEGMENT_NAME[i.memory_segment]
    if b.long and segment in ("fs", "gs"):
        b.op(f"xlat_ea.seg.{width}", Rseg=LAYOUT[f"{segment}_base"].offset)
    else:
        b.op(f"xlat_ea.{width}")
        b.segment(segment, 1, False)
    b.load(8)
    b.op("mov.RT.8", R0=RAX)


def _segment_base(name: str, write: bool) -> Lower:
    def lower(b: Builder, i: Instruction) -> None:
        base = LAYOUT[f"{name}_base"].offset
        b.op(f"base.{'write' if write else 'read'}.{operand_width(i, 0)}", R0=b.reg(i.op0_register), Rseg=base)

    return lower


for _name in ("fs", "gs"):
    ROWS[getattr(Mnemonic, f"RD{_name.upper()}BASE")] = _segment_base(_name, False)
    ROWS[getattr(Mnemonic, f"WR{_name.upper()}BASE")] = _segment_base(_name, True)


@row(Mnemonic.NOP, Mnemonic.PAUSE, Mnemonic.ENDBR64, Mnemonic.ENDBR32, Mnemonic.LFENCE, Mnemonic.SFENCE, Mnemonic.MFENCE,
     Mnemonic.PREFETCHT0, Mnemonic.PREFETCHT1, Mnemonic.PREFETCHT2, Mnemonic.PREFETCHNTA, Mnemonic.PREFETCHW, Mnemonic.PREFETCH,
     Mnemonic.RESERVEDNOP, Mnemonic.PREFETCHWT1)  # fmt: skip
def _nothing(b: Builder, i: Instruction) -> None:
    """No effect that the guest can see."""


@row(Mnemonic.CLFLUSH, Mnemonic.CLFLUSHOPT, Mnemonic.CLWB)
def _cache_line(b: Builder, i: Instruction) -> None:
    """A load as far as faults go; the line itself is nobody's business."""
    b.load_operand(i, 8)
