"""Lowers decoded branches and stack instructions to micro-ops."""

from iced_x86 import Instruction, Mnemonic, OpKind

from trapgate.isa.flags import CONDITIONS
from trapgate.isa.state import LAYOUT
from trapgate.soft.decode.integer import CONDITION_NAME
from trapgate.soft.decode.rows import ROWS, Lower, immediate, is_memory, is_register, row
from trapgate.soft.decode.template import Builder, Rip, operand_width
from trapgate.soft.state.registers import RSP_FAMILY, SEGMENT_NAME


def cuts_rip(b: Builder, i: Instruction) -> bool:
    """Whether a direct branch in 32-bit code, or as AMD has it in 64-bit code, has a 16-bit operand size: RIP keeps 16 bits.

    SDM vol. 2, JMP; `soft.decode.decoder`.
    """
    return b.code_size != 16 and bool(i.op0_kind == OpKind.NEAR_BRANCH16)


def _steps(b: Builder) -> bool:
    """Whether a branch that cuts RIP has to run as a step, and will: its target is no distance from RIP that a block could know."""
    if b.flat or b.step:
        return False
    b.raises("leave_breakpoint")
    return True


def _go_cut(b: Builder, i: Instruction) -> None:
    b.op("mov.TQ", Qimm=Rip(branch_target(b, i)))
    b.go("T0", 16)


def _branch_cut(b: Builder, i: Instruction, condition: str) -> None:
    """The conditional branch of such an operand size."""
    if _steps(b):
        return
    b.op(condition, TAKEN="taken")
    b.op("skip", TAKEN="out")
    b.label("taken")
    _go_cut(b, i)
    b.label("out")
    b.jump(b.length)


def _jcc(b: Builder, i: Instruction) -> None:
    if cuts_rip(b, i):
        _branch_cut(b, i, f"j{CONDITION_NAME[i.condition_code]}")
        return
    b.op(f"j{CONDITION_NAME[i.condition_code]}", TAKEN=Rip(branch_target(b, i)))
    b.jump(b.length)


_BRANCH_BITS = {OpKind.NEAR_BRANCH16: 16, OpKind.NEAR_BRANCH32: 32, OpKind.NEAR_BRANCH64: 64}

for _name in CONDITIONS:
    ROWS[getattr(Mnemonic, f"J{_name.upper()}")] = _jcc


def branch_target(b: Builder, i: Instruction) -> int:
    """Where a near branch goes, as a distance from RIP (instructions are decoded at 0), ahead or back."""
    target, bits = i.near_branch_target, _BRANCH_BITS[i.op0_kind]
    return target - (1 << bits) if target >> bits - 1 else target


def _counted(name: str) -> Lower:
    def lower(b: Builder, i: Instruction) -> None:
        width = counted_width(i)
        if cuts_rip(b, i):
            _branch_cut(b, i, f"{name}.{width}")
            return
        b.op(f"{name}.{width}", TAKEN=Rip(branch_target(b, i)))
        b.jump(b.length)

    return lower


def counted_width(i: Instruction) -> int:
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
    if cuts_rip(b, i) and _steps(b):
        pass
    elif cuts_rip(b, i):
        _go_cut(b, i)
    elif i.is_jmp_short_or_near:
        b.jump(branch_target(b, i))
    elif i.is_jmp_near_indirect:
        width = _target_to_t0(b, i)
        b.jump_indirect("T0", width)
    else:
        far_target(b, i)
        b.numbered("jmpf")
        b.ends = True


@row(Mnemonic.CALL)
def _call(b: Builder, i: Instruction) -> None:
    if i.is_call_near and cuts_rip(b, i) and _steps(b):
        pass
    elif i.is_call_near:
        size = -i.stack_pointer_increment
        b.op("mov.TQ", Qimm=Rip(b.length))
        b.push(size)
        if cuts_rip(b, i):
            _go_cut(b, i)
        else:
            b.jump(branch_target(b, i))
    elif i.is_call_near_indirect:
        width = _target_to_t0(b, i)
        size = -i.stack_pointer_increment
        b.op("T2=T0")
        if b.amd:
            b.op(f"canonical.call.{size}" if b.long else "limit.T2")
        b.op("mov.TQ", Qimm=Rip(b.length))
        b.store_pushed(size)
        if not b.amd:  # as measured: Intel's have stored the return address when #GP comes (docs/vendors.md)
            b.op("canonical.T2" if b.long else "limit.T2")
        b.move_stack(-size)
        b.go("T2", width)
    else:
        b.numbered(f"callf{8 * far_target(b, i)}")
        b.ends = True


def far_target(b: Builder, i: Instruction) -> int:
    """T0 = the selector, T2 = the offset of a far pointer; the size of the offset in bytes."""
    if i.op0_kind == OpKind.FAR_BRANCH16 or i.op0_kind == OpKind.FAR_BRANCH32:
        wide = i.op0_kind == OpKind.FAR_BRANCH32
        b.op("mov.TQ", Qimm=i.far_branch32 if wide else i.far_branch16)
        b.op("T2=T0")
        b.op("mov.TQ", Qimm=i.far_branch_selector)
        return 4 if wide else 2
    size = operand_width(i, 0) // 8 - 2
    b.memory(i, size)
    b.load(8 * size)
    b.op("T2=T0")
    b.memory(i, 2, add=size)
    b.load(16)
    return size


@row(Mnemonic.RETF)
def _retf(b: Builder, i: Instruction) -> None:
    extra = i.immediate16 if i.op_count else 0
    b.op(f"retf.{4 * (i.stack_pointer_increment - extra)}", Uop="python", Uextra=extra)
    b.ends = True


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
        name = SEGMENT_NAME.get(i.op0_register)
        b.op(f"mov.TR.{8 * size}", R1=LAYOUT[f"{name}_selector"].offset if name else b.reg(i.op0_register))
    elif is_memory(i, 0):
        b.load_operand(i, 8 * size)
    else:
        b.op(f"mov.TI.{8 * size}", **immediate(i, 0, 8 * size))
    b.push(size)


@row(Mnemonic.POP)
def _pop(b: Builder, i: Instruction) -> None:
    size = i.stack_pointer_increment
    if is_register(i, 0):
        if i.op0_register in SEGMENT_NAME:
            _pop_segment(b, SEGMENT_NAME[i.op0_register], size)
            return
        b.pop(size)
        b.move_stack(size)
        b.op(f"mov.RT.{8 * size}", R0=b.reg(i.op0_register))
        return
    b.pop(size)
    b.memory(i, size, write=True, add=size if i.memory_base in RSP_FAMILY else 0)
    b.store(8 * size)
    b.move_stack(size)


def _pop_segment(b: Builder, name: str, size: int) -> None:
    """POP Sreg reads 16 bits, and moves the pointer by the operand size, in the width that it had."""
    b.op(f"pop_ea.{b.stack_width}")
    b.segment("ss", 2, False)
    b.load(16)
    b.load_segment(name)
    b.move_stack(size)
    b.segment_loaded(name, shadow=True)


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
    b.op(f"push_ea.{size}.{b.stack_width}")
    b.segment("ss", size, True)
    b.store(8 * size)
    b.op(f"enter_ea.{size}.{b.stack_width}", Sby=i.immediate16)  # the new top must be writable, or nothing moves
    b.segment("ss", size, True)
    b.op(f"modify.{8 * size}")
    b.op(f"enter.{size}.{b.stack_width}", Sby=i.immediate16)
