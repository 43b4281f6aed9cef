"""From a decoded instruction to micro-ops: the general-purpose instructions. One row a mnemonic; what has no row is #UD.

Order matters where an access may fault: nothing architectural changes before the last access of an instruction.
"""

from collections.abc import Callable

from iced_x86 import ConditionCode, Instruction, Mnemonic, OpKind, Register

from trapgate.isa import state as s
from trapgate.isa.flags import CONDITIONS
from trapgate.isa.state import LAYOUT
from trapgate.soft.registers import GENERAL, RSP_FAMILY, SEGMENT_NAME
from trapgate.soft.template import Builder, Rip, operand_width

Lower = Callable[[Builder, Instruction], None]
ROWS: dict[int, Lower] = {}
RAX, RDX, RSI, RDI = (LAYOUT[name].offset for name in ("rax", "rdx", "rsi", "rdi"))
_CONDITION = {
    ConditionCode.O: "o", ConditionCode.NO: "no", ConditionCode.B: "b", ConditionCode.AE: "ae", ConditionCode.E: "e",
    ConditionCode.NE: "ne", ConditionCode.BE: "be", ConditionCode.A: "a", ConditionCode.S: "s", ConditionCode.NS: "ns",
    ConditionCode.P: "p", ConditionCode.NP: "np", ConditionCode.L: "l", ConditionCode.GE: "ge", ConditionCode.LE: "le",
    ConditionCode.G: "g",
}  # fmt: skip
assert set(_CONDITION.values()) == set(CONDITIONS)


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
    else:
        b.python(i)


def _extend(name: str) -> Lower:
    def lower(b: Builder, i: Instruction) -> None:
        wide, narrow = operand_width(i, 0), operand_width(i, 1)
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
        if kind == "R" and not b.long:  # the offset moves before the segment is checked
            b.address(i)
            b.op(f"bit_address.{width}", **holes)
            if i.memory_base == Register.NONE or GENERAL[i.memory_base][1] <= 32:
                b.op("EA=cut32")
            b.segment(SEGMENT_NAME[i.memory_segment], width // 8, write)
        else:
            b.memory(i, width // 8, write=write)
            if kind == "R":
                b.op(f"bit_address.{width}", **holes)
        if not write:
            b.load(width)
            b.op(f"bt.T{kind}.{width}", **holes)
            return
        b.op(f"{'lock' if i.has_lock_prefix else 'modify'}.{width}")
        b.op(f"{name}.T{kind}.{width}", **holes)
        finish_modify(b, width, i.has_lock_prefix)

    return lower


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
    b.op(f"cmov{_CONDITION[i.condition_code]}.{kind}.{width}", R0=b.reg(i.op0_register), **holes)


def _setcc(b: Builder, i: Instruction) -> None:
    name = f"set{_CONDITION[i.condition_code]}"
    if is_register(i, 0):
        b.op(f"{name}.R", R0=b.reg(i.op0_register))
        return
    b.op(f"{name}.T")
    b.memory(i, 1, write=True)
    b.store(8)


def _jcc(b: Builder, i: Instruction) -> None:
    fused = f"{b.ops[-1][0]}.j{_CONDITION[i.condition_code]}" if b.ops else ""
    target = branch_target(b, i)
    if fused in b.library.stencils:  # the compare right before it
        name, holes = b.ops.pop()
        b.op(fused, **holes, TAKEN=Rip(target))
    else:
        b.op(f"j{_CONDITION[i.condition_code]}", TAKEN=Rip(target))
    b.jump(b.length)


def branch_target(b: Builder, i: Instruction) -> int:
    """Where a near branch goes, as a distance from RIP (instructions are decoded at 0)."""
    target = i.near_branch_target
    return target - (1 << 64) if target >> 63 else target


for _name in dir(Mnemonic):
    _value = getattr(Mnemonic, _name)
    if not isinstance(_value, int):
        continue
    if _name.startswith("CMOV"):
        ROWS[_value] = _cmov
    elif _name.startswith("SET") and _name[3:].lower() in CONDITIONS:
        ROWS[_value] = _setcc
    elif _name.startswith("J") and _name[1:].lower() in CONDITIONS:
        ROWS[_value] = _jcc


def _counted(name: str) -> Lower:
    def lower(b: Builder, i: Instruction) -> None:
        width = counted_width(b, i)
        b.op(f"{name}.{width}", TAKEN=Rip(branch_target(b, i)))
        b.jump(b.length)

    return lower


def counted_width(b: Builder, i: Instruction) -> int:
    """The width of the count register of LOOP and JCXZ: the address size."""
    used = str_code(i)
    return 64 if "RCX" in used else 32 if "ECX" in used else 16


def str_code(i: Instruction) -> str:
    """iced-x86's name of the exact encoding."""
    return _CODE_NAMES[i.code]


def _code_names() -> dict[int, str]:
    from iced_x86 import Code

    return {value: name for name in dir(Code) if isinstance(value := getattr(Code, name), int)}


_CODE_NAMES = _code_names()
for _name in ("loop", "loope", "loopne"):
    ROWS[getattr(Mnemonic, _name.upper())] = _counted(_name)
ROWS[Mnemonic.JCXZ] = ROWS[Mnemonic.JECXZ] = ROWS[Mnemonic.JRCXZ] = _counted("jcxz")


@row(Mnemonic.JMP)
def _jmp(b: Builder, i: Instruction) -> None:
    if i.is_jmp_short_or_near:
        b.jump(branch_target(b, i))
    elif i.is_jmp_near_indirect:
        width = _target_to_t0(b, i)
        b.jump_indirect("T0", width)
    else:
        b.python(i)


@row(Mnemonic.CALL)
def _call(b: Builder, i: Instruction) -> None:
    if i.is_call_near:
        size = -i.stack_pointer_increment
        b.op("mov.TQ", Qimm=Rip(b.length))
        b.push(size)
        b.jump(branch_target(b, i))
    elif i.is_call_near_indirect:
        width = _target_to_t0(b, i)
        b.op("T2=T0")
        b.op(f"{'canonical' if b.long else 'limit'}.T2")
        b.op("mov.TQ", Qimm=Rip(b.length))
        b.push(-i.stack_pointer_increment)
        b.go("T2", width)
    else:
        b.python(i)


def _target_to_t0(b: Builder, i: Instruction) -> int:
    width = operand_width(i, 0)
    if is_register(i, 0):
        b.op(f"mov.TR.{width}", R1=b.reg(i.op0_register))
    else:
        b.load_operand(i, width)
    return width


@row(Mnemonic.RET)
def _ret(b: Builder, i: Instruction) -> None:
    extra = i.immediate16 if i.op_count else 0
    size = i.stack_pointer_increment - extra
    b.pop(size)
    b.op(f"{'canonical' if b.long else 'limit'}.T0")
    b.move_stack(size + extra)
    b.go("T0", 8 * size)


@row(Mnemonic.PUSH)
def _push(b: Builder, i: Instruction) -> None:
    size = -i.stack_pointer_increment
    if is_register(i, 0):
        if i.op0_register not in GENERAL:
            b.python(i)
            return
        b.op(f"mov.TR.{8 * size}", R1=b.reg(i.op0_register))
    elif is_memory(i, 0):
        b.load_operand(i, 8 * size)
    else:
        b.op(f"mov.TI.{8 * size}", **immediate(i, 0, 8 * size))
    b.push(size)


@row(Mnemonic.POP)
def _pop(b: Builder, i: Instruction) -> None:
    size = i.stack_pointer_increment
    if is_register(i, 0):
        if i.op0_register not in GENERAL:
            b.python(i)
            return
        b.pop(size)
        b.move_stack(size)
        b.op(f"mov.RT.{8 * size}", R0=b.reg(i.op0_register))
        return
    b.pop(size)
    b.memory(i, size, write=True, add=size if i.memory_base in RSP_FAMILY else 0)
    b.store(8 * size)
    b.move_stack(size)


@row(Mnemonic.LEAVE)
def _leave(b: Builder, i: Instruction) -> None:
    size = {"LEAVEW": 2, "LEAVED": 4, "LEAVEQ": 8}[str_code(i)]
    b.op(f"frame_ea.{b.stack_width}")
    b.segment("ss", size, False)
    b.load(8 * size)
    b.op(f"rsp_leave.{b.stack_width}", Sby=size)
    b.op(f"mov.RT.{8 * size}", R0=LAYOUT["rbp"].offset)


@row(Mnemonic.ENTER)
def _enter(b: Builder, i: Instruction) -> None:
    if i.immediate8_2nd & 31:
        b.python(i)
        return
    size = {"ENTERW_IMM16_IMM8": 2, "ENTERD_IMM16_IMM8": 4, "ENTERQ_IMM16_IMM8": 8}[str_code(i)]
    b.op(f"mov.TR.{8 * size}", R1=LAYOUT["rbp"].offset)
    b.push(size)
    b.op(f"enter.{size}.{b.stack_width}", Sby=i.immediate16)


@row(Mnemonic.XLATB)
def _xlat(b: Builder, i: Instruction) -> None:
    b.python(i)


@row(Mnemonic.NOP, Mnemonic.PAUSE, Mnemonic.ENDBR64, Mnemonic.ENDBR32, Mnemonic.LFENCE, Mnemonic.SFENCE, Mnemonic.MFENCE,
     Mnemonic.PREFETCHT0, Mnemonic.PREFETCHT1, Mnemonic.PREFETCHT2, Mnemonic.PREFETCHNTA, Mnemonic.PREFETCHW, Mnemonic.PREFETCH,
     Mnemonic.RESERVEDNOP, Mnemonic.PREFETCHWT1)  # fmt: skip
def _nothing(b: Builder, i: Instruction) -> None:
    """No effect that the guest can see."""


@row(Mnemonic.CLFLUSH, Mnemonic.CLFLUSHOPT, Mnemonic.CLWB)
def _cache_line(b: Builder, i: Instruction) -> None:
    """A load as far as faults go; the line itself is nobody's business."""
    b.load_operand(i, 8)
