"""Lowers decoded general-purpose instructions to micro-ops, all but those of `changing`. What has no row is #UD.

Order matters where an access may fault: nothing architectural changes before the last access of an instruction.
"""

from iced_x86 import ConditionCode, Instruction, Mnemonic, OpKind

from trapgate.isa.flags import CONDITIONS
from trapgate.isa.state import LAYOUT
from trapgate.soft.decode.moves import from_system_register, to_system_register
from trapgate.soft.decode.rows import ROWS, Lower, immediate, is_memory, is_register, row, source
from trapgate.soft.decode.template import Builder, operand_width
from trapgate.soft.state.registers import GENERAL, SEGMENT_NAME

RAX, RDX = (LAYOUT[name].offset for name in ("rax", "rdx"))
CONDITION_NAME = {
    ConditionCode.O: "o", ConditionCode.NO: "no", ConditionCode.B: "b", ConditionCode.AE: "ae", ConditionCode.E: "e",
    ConditionCode.NE: "ne", ConditionCode.BE: "be", ConditionCode.A: "a", ConditionCode.S: "s", ConditionCode.NS: "ns",
    ConditionCode.P: "p", ConditionCode.NP: "np", ConditionCode.L: "l", ConditionCode.GE: "ge", ConditionCode.LE: "le",
    ConditionCode.G: "g",
}  # fmt: skip
assert set(CONDITION_NAME.values()) == set(CONDITIONS)


@row(Mnemonic.CMP, Mnemonic.TEST)
def _compare(b: Builder, i: Instruction) -> None:
    width, name = operand_width(i, 0), "cmp" if i.mnemonic == Mnemonic.CMP else "test"
    first, holes = source(b, i, 0, width, 0)
    second, others = source(b, i, 1, width)
    b.op(f"{name}.{first}{second}.{width}", **holes, **others)


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
            else:
                from_system_register(b, i)
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
    else:
        to_system_register(b, i)


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
        b.with_base("xlat_ea", str(width), width, LAYOUT[f"{segment}_base"].offset)
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


@row(Mnemonic.NOP, Mnemonic.ENDBR64, Mnemonic.ENDBR32, Mnemonic.LFENCE, Mnemonic.SFENCE, Mnemonic.MFENCE,
     Mnemonic.PREFETCHT0, Mnemonic.PREFETCHT1, Mnemonic.PREFETCHT2, Mnemonic.PREFETCHNTA, Mnemonic.PREFETCHW, Mnemonic.PREFETCH,
     Mnemonic.RESERVEDNOP, Mnemonic.PREFETCHWT1)  # fmt: skip
def _nothing(b: Builder, i: Instruction) -> None:
    """No effect that the guest can see."""


@row(Mnemonic.PAUSE)
def _pause(b: Builder, i: Instruction) -> None:
    """Another CPU may have its turn."""
    b.op("pause")


@row(Mnemonic.CLFLUSH, Mnemonic.CLFLUSHOPT, Mnemonic.CLWB)
def _cache_line(b: Builder, i: Instruction) -> None:
    """A load as far as faults go; the line itself is nobody's business."""
    b.load_operand(i, 8)
