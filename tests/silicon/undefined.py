"""What an instruction leaves undefined: flags and register bits that a comparison must not look at, as a function of the operands.

Sources: Intel SDM vol. 2 ("Flags Affected" and "Operation" of the instruction named) and AMD APM vol. 3. What only one of them
defines is held to that one, unless the host disagrees. Undefined is what differs between real processors, so the mask also serves
other hosts.
"""

from collections.abc import Sequence

from iced_x86 import OpKind, Register, Register_, RegisterExt

from .forms import Form, access_bytes
from .state import AF, CF, OF, PF, RCX, RDI, RSI, SF, STATUS_FLAGS, ZF, State

NO_REGISTER = 0  # iced-x86's Register.NONE, as a plain number

# mnemonic -> flags undefined whatever the operands
_FLAGS = {
    **dict.fromkeys(("and", "or", "xor", "test"), AF),  # SDM vol. 2, AND: "The state of the AF flag is undefined"
    **dict.fromkeys(("mul", "imul"), SF | ZF | AF | PF),  # MUL: "The SF, ZF, AF, and PF flags are undefined"
    **dict.fromkeys(("div", "idiv"), STATUS_FLAGS),  # DIV: "The CF, OF, SF, ZF, AF, and PF flags are undefined"
    **dict.fromkeys(("bt", "bts", "btr", "btc"), OF | SF | AF | PF),  # BT: "OF, SF, AF, and PF flags are undefined"
    **dict.fromkeys(("bsf", "bsr"), CF | OF | SF | AF | PF),  # BSF: "CF, OF, SF, AF, and PF flags are undefined"
    **dict.fromkeys(("tzcnt", "lzcnt"), OF | SF | AF | PF),  # TZCNT: "OF, SF, PF, and AF flags are undefined"
    "andn": AF | PF,  # ANDN: "AF and PF flags are undefined"
    "bextr": AF | SF | PF,  # BEXTR: "AF, SF, and PF are undefined"
    **dict.fromkeys(("blsi", "blsr", "blsmsk", "bzhi"), AF | PF),  # BLSI: "AF and PF flags are undefined"
}


# what a string instruction reads -> register that points there, its bits that count
_STRING_OPERANDS = {
    OpKind.MEMORY_SEG_SI: (RSI, 0xFFFF), OpKind.MEMORY_SEG_ESI: (RSI, 0xFFFFFFFF), OpKind.MEMORY_SEG_RSI: (RSI, (1 << 64) - 1),
    OpKind.MEMORY_ESDI: (RDI, 0xFFFF), OpKind.MEMORY_ESEDI: (RDI, 0xFFFFFFFF), OpKind.MEMORY_ESRDI: (RDI, (1 << 64) - 1),
}  # fmt: skip

_MASKED_MOVE = {OpKind.MEMORY_SEG_DI: 0xFFFF, OpKind.MEMORY_SEG_EDI: 0xFFFFFFFF, OpKind.MEMORY_SEG_RDI: (1 << 64) - 1}


def read_in_any_order(form: Form, gpr: Sequence[int]) -> tuple[range, ...]:
    """The linear addresses of the operands of CMPS, of the halves of MASKMOVDQU's: SDM and APM leave open which is reached first,
    and so which fault comes.

    AMD's Zen 4 reads [DI] first, but for REPE CMPSB; Intel's CPUs reach the upper half first. `gpr` as of the fault; segment bases
    are 0.
    """
    i = form.instruction
    if form.mnemonic == "maskmovdqu":
        start = gpr[RDI] & _MASKED_MOVE[i.op0_kind]
        return range(start, start + 8), range(start + 8, start + 16)
    if not form.mnemonic.startswith("cmps") or not i.is_string_instruction:
        return ()
    pointers = (_STRING_OPERANDS[i.op_kind(n)] for n in range(2))
    return tuple(range(gpr[register] & mask, (gpr[register] & mask) + access_bytes(i)) for register, mask in pointers)


def operand_width(form: Form, n: int = 0) -> int:
    """Bits of an explicit operand (a register or memory)."""
    instruction = form.instruction
    if instruction.op_kind(n) == OpKind.REGISTER:
        return 8 * int(RegisterExt.info(instruction.op_register(n)).size)
    return 8 * access_bytes(instruction)


def shift_count(form: Form, state: State) -> int:
    """The masked count of a shift or rotate (SDM vol. 2, SAL/SAR/SHL/SHR: masked to 5 bits, 6 with 64-bit operands)."""
    instruction = form.instruction
    last = instruction.op_count - 1
    by_cl = instruction.op_kind(last) == OpKind.REGISTER
    count = state.gpr[RCX] & 0xFF if by_cl else instruction.immediate8
    return count & (0x3F if operand_width(form) == 64 else 0x1F)


def _shift(form: Form, state: State) -> int:
    count, width = shift_count(form, state), operand_width(form)
    if count == 0:
        return 0
    undefined = OF if count > 1 else 0  # SHL, ROL, SHLD: "OF is affected only on 1-bit shifts"
    if form.mnemonic in ("rol", "ror", "rcl", "rcr"):
        return undefined
    undefined |= AF  # SHL: "For a non-zero count, the AF flag is undefined"
    if form.mnemonic in ("shld", "shrd"):  # SHLD: "If the count is greater than the operand size, the flags are undefined"
        return STATUS_FLAGS if count > width else undefined
    if (
        form.mnemonic != "sar" and count >= width
    ):  # SHL: "CF is undefined for SHL and SHR ... count greater than or equal to the size"
        undefined |= CF
    return undefined


_SHIFTS = frozenset(("rol", "ror", "rcl", "rcr", "shl", "sal", "shr", "sar", "shld", "shrd"))


def undefined_flags(form: Form, state: State) -> int:
    """Bits of RFLAGS that the instruction leaves undefined with these operands."""
    return _shift(form, state) if form.mnemonic in _SHIFTS else _FLAGS.get(form.mnemonic, 0)


def undefined_result(form: Form, state: State) -> int:
    """Bits of operand 0, counted in its full register or memory, that are undefined with these operands."""
    if form.mnemonic in ("shld", "shrd") and operand_width(form) == 16 and shift_count(form, state) > 16:
        return 0xFFFF  # SHLD: "If a count is greater than the operand size, the result is undefined"
    if form.mnemonic == "bswap" and operand_width(form) == 16:
        return (1 << 64) - 1  # BSWAP: "When the BSWAP instruction references a 16-bit register, the result is undefined"
    return 0


def undefined_destination_if_zero(form: Form) -> int:
    """BSF and BSR with a zero source: APM vol. 3 leaves the destination unchanged, SDM vol. 2 calls it undefined but adds that
    processors may keep or clear bits 63:32 of a 32-bit one. Guests rely on "unchanged", so only those bits are let off."""
    return 0xFFFF_FFFF_0000_0000 if form.mnemonic in ("bsf", "bsr") and operand_width(form) == 32 else 0


def full_register(register: Register_) -> int | None:
    """The number (encoding order) of the general register that an iced-x86 `Register` is part of."""
    full = RegisterExt.full_register(register)
    return full - Register.RAX if Register.RAX <= full <= Register.R15 else None


def undefined_fsw(form: Form) -> int:
    """Bits of the x87 status word (C0 8, C1 9, C2 10, C3 14) that the instruction leaves undefined (SDM vol. 2, "FPU Flags
    Affected")."""
    if not form.mnemonic.startswith("f") or form.mnemonic in _CONDITION_CODES_DEFINED:
        return 0
    return _C0 | _C2 | _C3


_C0, _C2, _C3 = 1 << 8, 1 << 10, 1 << 14
# Instructions that set, or leave alone, every condition code. All other x87 instructions set C1 only: "C0, C2, C3: undefined".
_CONDITION_CODES_DEFINED = frozenset(
    (
        "fcom",
        "fcomp",
        "fcompp",
        "fucom",
        "fucomp",
        "fucompp",
        "fxam",
        "ftst",
        "fcomi",
        "fcomip",
        "fucomi",
        "fucomip",
        "fprem",
        "fprem1",
        "finit",
        "fninit",
        "fldenv",
        "frstor",
        "fxrstor",
        "fxrstor64",
        "fnstsw",
        "fstsw",
        "ficom",
        "ficomp",
    )
)
