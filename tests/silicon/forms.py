"""From an opcode to encodings: every register class, addressing form and immediate that an instruction takes, as bytes.

The opcode table is iced-x86's `OpCodeInfo`; for each operand kind there is a list of choices, and variant n of a form takes the
n-th of each, so that every choice occurs without the product of all.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from iced_x86 import (
    Code,
    Code_,
    Decoder,
    Encoder,
    EncodingKind,
    Formatter,
    FormatterSyntax,
    Instruction,
    MemorySize,
    MemorySizeExt,
    Mnemonic,
    OpCodeInfo,
    OpCodeOperandKind,
    OpCodeOperandKind_,
    OpKind,
    Register,
    Register_,
)

from .state import CODE, SCRATCH

K, R = OpCodeOperandKind, Register


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """One encoded instruction: its bytes, the iced-x86 decoding of them, mnemonic and text (Intel syntax)."""

    code: bytes
    instruction: Instruction
    mnemonic: str
    text: str

    def __str__(self) -> str:
        return f"{self.text} [{self.code.hex()}]"


@dataclass(frozen=True, slots=True)
class Address:
    """An addressing form; displacement size in bytes as the encoder counts it (0, 1, 8 for 64-bit addressing)."""

    base: Register_ = R.NONE
    index: Register_ = R.NONE
    scale: int = 1
    displacement: int = 0
    size: int = 0


ADDRESSES = (
    Address(R.RDI),
    Address(R.R14, size=1, displacement=0x40),
    Address(R.RBP, size=1, displacement=0),
    Address(R.R13, R.R15, 4, 0x1234, 8),
    Address(R.RIP, displacement=SCRATCH + 0xFF8, size=8),
    Address(R.RIP, displacement=SCRATCH + 0x1020, size=8),
    Address(displacement=SCRATCH + 0x1010, size=8),
    Address(R.R12),
    Address(R.RSP, size=1, displacement=-16),
    Address(R.RSI, R.RBP, 8, -8 & (1 << 64) - 1, 1),
    Address(R.NONE, R.R11, 2, 0x0800_0000, 8),
    Address(R.EDI, displacement=8, size=1),
    Address(R.R8, R.R9),
    Address(R.R10D, R.R11D, 2, 0x100, 4),
    Address(R.RBX, R.RSI, 1),
    Address(R.RDX, R.R9, 2, 8, 1),
    Address(R.NONE, R.RCX, 4, 0x0800_0000, 8),
    Address(R.NONE, R.RAX, 8, 0x0C00_0000, 8),
)

VECTOR_ADDRESSES = (  # of gathers; `index` has the number of the vector register
    Address(R.RDI, R.XMM4, 1),
    Address(R.R14, R.XMM13, 2, 0x40, 1),
    Address(R.NONE, R.XMM6, 4, SCRATCH + 0x1000, 8),
    Address(R.R13, R.XMM11, 8, -0x100, 8),
    Address(R.EDI, R.XMM7, 1, 8, 1),
    Address(R.RSP, R.XMM2, 2, 0x20, 1),
)

# Choices of a register operand, by its place: different places start elsewhere, so that operands mostly differ and sometimes do
# not.
_R8 = ((R.BL, R.AH, R.DIL, R.R9L, R.AL, R.CH, R.R15L, R.DL, R.SPL), (R.CL, R.DH, R.R10L, R.BL, R.SIL, R.BH, R.AL, R.BPL, R.DL))
_N64 = (
    (R.RBX, R.RAX, R.R10, R.RDX, R.RSI, R.R9, R.RCX, R.R12, R.RSP),
    (R.RCX, R.RDX, R.RBX, R.R11, R.RSI, R.R8, R.RAX, R.RBP, R.R15),
    (R.R8, R.RCX, R.RDX, R.RBX, R.RAX, R.RSI, R.R14, R.RDX, R.RDI),
)
_XMM = ((0, 1, 9, 3, 15), (2, 8, 9, 0, 7), (5, 6, 10, 0, 12), (4, 11, 9, 1, 14))
IMM8 = (0x01, 0x7F, 0x80, 0xFF, 0x00, 0x05, 0x1F, 0x20, 0x21, 0x3F, 0x41, 0x08, 0x10, 0x0F, 0x11, 0x55, 0x09, 0x99, 0xC6, 0x07)
IMM16 = (0x0001, 0x7FFF, 0x8000, 0xFFFF, 0x0000, 0x0080, 0x1234)
IMM32 = (0x0000_0001, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0, 0x0001_0000, 0xFFFF_FF7F, 0x1234_5678)
IMM64 = (0x0123_4567_89AB_CDEF, 0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 0x8000_0000)
BRANCHES = (0x10, 0x7F, -0x40, 0x20)  # relative to CODE

_FIXED = {K.AL: R.AL, K.AX: R.AX, K.EAX: R.EAX, K.RAX: R.RAX, K.CL: R.CL, K.DX: R.DX, K.ST0: R.ST0}
_GENERAL = {
    f"R{bits}_{use}": bits
    for bits in (8, 16, 32, 64)
    for use in ("OR_MEM", "REG", "RM", "OPCODE", "VVVV")
    if hasattr(K, f"R{bits}_{use}")
}
_GPR = {getattr(K, name): bits for name, bits in _GENERAL.items()}
_NARROW = (["AX", "CX", "DX", "BX", "SP", "BP", "SI", "DI"], [f"R{n}" for n in range(8, 16)])
_BASE = {
    16: [getattr(R, name) for name in (*_NARROW[0], *(name + "W" for name in _NARROW[1]))],
    32: [getattr(R, name) for name in (*("E" + name for name in _NARROW[0]), *(name + "D" for name in _NARROW[1]))],
}
_MEMORY = {K.MEM, K.R8_OR_MEM, K.R16_OR_MEM, K.R32_OR_MEM, K.R64_OR_MEM, K.XMM_OR_MEM, K.YMM_OR_MEM, K.MM_OR_MEM}
_IMMEDIATE = {
    K.IMM8: (OpKind.IMMEDIATE8, IMM8),
    K.IMM16: (OpKind.IMMEDIATE16, IMM16),
    K.IMM32: (OpKind.IMMEDIATE32, IMM32),
    K.IMM64: (OpKind.IMMEDIATE64, IMM64),
    K.IMM8SEX16: (OpKind.IMMEDIATE8TO16, IMM8),
    K.IMM8SEX32: (OpKind.IMMEDIATE8TO32, IMM8),
    K.IMM8SEX64: (OpKind.IMMEDIATE8TO64, IMM8),
    K.IMM32SEX64: (OpKind.IMMEDIATE32TO64, IMM32),
    K.IMM8_CONST_1: (OpKind.IMMEDIATE8, (1,)),
}
_STRING = {K.SEG_RSI: "SEG_RSI", K.ES_RDI: "ESRDI", K.SEG_RDI: "SEG_RDI"}


_XMM_REGISTERS: list[Register_] = [getattr(R, f"XMM{n}") for n in range(16)]
_YMM_REGISTERS: list[Register_] = [getattr(R, f"YMM{n}") for n in range(16)]
_VECTORS = {
    **dict.fromkeys((K.XMM_REG, K.XMM_OR_MEM, K.XMM_RM, K.XMM_VVVV, K.XMM_IS4), _XMM_REGISTERS),
    **dict.fromkeys((K.YMM_REG, K.YMM_OR_MEM, K.YMM_RM, K.YMM_VVVV, K.YMM_IS4), _YMM_REGISTERS),
}
_INDICES = {
    **dict.fromkeys((K.MEM_VSIB32X, K.MEM_VSIB64X), _XMM_REGISTERS),
    **dict.fromkeys((K.MEM_VSIB32Y, K.MEM_VSIB64Y), _YMM_REGISTERS),
}
_MM_REGISTERS: list[Register_] = [getattr(R, f"MM{n}") for n in range(8)]
_ST_REGISTERS: list[Register_] = [getattr(R, f"ST{n}") for n in range(8)]


def _register(kind: OpCodeOperandKind_, place: int, variant: int) -> Register_ | None:
    """The register of a variant, or None when the kind is no register."""
    if kind in _FIXED:
        return _FIXED[kind]
    if kind in _GPR:
        bits = _GPR[kind]
        if bits == 8:
            row8 = _R8[place % 2]
            return row8[variant % len(row8)]
        row = _N64[place % 3]
        register = row[variant % len(row)]
        return register if bits == 64 else _BASE[bits][register - R.RAX]
    if kind in _VECTORS:
        return _VECTORS[kind][_XMM[place % len(_XMM)][variant % 5]]
    if kind in (K.MM_REG, K.MM_OR_MEM, K.MM_RM):
        return _MM_REGISTERS[(place * 3 + variant) % 8]
    if kind == K.STI_OPCODE:
        return _ST_REGISTERS[(1 + place * 2 + variant) % 8]
    return None


def _sign_extend(value: int, bits: int) -> int:
    return (value & (1 << bits) - 1) - (1 << bits) if value >> bits - 1 & 1 else value


def _place(instruction: Instruction, n: int, kind: OpCodeOperandKind_, variant: int, memory: bool) -> bool:
    """Fill operand n; False when there is no way to."""
    if memory and kind in _MEMORY:
        address = ADDRESSES[variant % len(ADDRESSES)]
        instruction.set_op_kind(n, OpKind.MEMORY)
        instruction.memory_base, instruction.memory_index = address.base, address.index
        instruction.memory_index_scale, instruction.memory_displacement = address.scale, address.displacement & (1 << 64) - 1
        instruction.memory_displ_size = address.size
        return True
    if kind in _INDICES:
        address = VECTOR_ADDRESSES[variant % len(VECTOR_ADDRESSES)]
        instruction.set_op_kind(n, OpKind.MEMORY)
        instruction.memory_base, instruction.memory_index_scale = address.base, address.scale
        instruction.memory_index = _INDICES[kind][address.index - R.XMM0]
        instruction.memory_displacement, instruction.memory_displ_size = address.displacement & (1 << 64) - 1, address.size
        return True
    if kind == K.MEM_OFFS:
        instruction.set_op_kind(n, OpKind.MEMORY)
        instruction.memory_displacement, instruction.memory_displ_size = SCRATCH + 0x1004, 8
        return True
    if (register := _register(kind, n, variant)) is not None:
        instruction.set_op_kind(n, OpKind.REGISTER)
        instruction.set_op_register(n, register)
        return True
    if kind in _IMMEDIATE:
        op_kind, values = _IMMEDIATE[kind]
        if n and instruction.op_kind(n - 1) in (OpKind.IMMEDIATE8, OpKind.IMMEDIATE16):  # ENTER, EXTRQ: the second immediate
            op_kind = OpKind.IMMEDIATE8_2ND
        value = values[variant % len(values)]
        instruction.set_op_kind(n, op_kind)
        if op_kind in (OpKind.IMMEDIATE8TO16, OpKind.IMMEDIATE8TO32, OpKind.IMMEDIATE8TO64):
            instruction.set_immediate_i64(n, _sign_extend(value, 8))
        elif op_kind == OpKind.IMMEDIATE32TO64:
            instruction.set_immediate_i64(n, _sign_extend(value, 32))
        else:
            instruction.set_immediate_u64(n, value)
        return True
    if kind in (K.BR64_1, K.BR64_4):
        instruction.set_op_kind(n, OpKind.NEAR_BRANCH64)
        instruction.near_branch64 = CODE + BRANCHES[variant % len(BRANCHES)]
        return True
    return False


def _string(instruction: Instruction, info: OpCodeInfo, narrow: bool) -> None:
    """Fill in the implied operands of string instructions and XLAT, with 64-bit or (narrow) 32-bit address registers."""
    for n in range(info.op_count):
        kind = info.op_kind(n)
        if kind in _STRING:
            name = {
                "SEG_RSI": ("MEMORY_SEG_RSI", "MEMORY_SEG_ESI"),
                "ESRDI": ("MEMORY_ESRDI", "MEMORY_ESEDI"),
                "SEG_RDI": ("MEMORY_SEG_RDI", "MEMORY_SEG_EDI"),
            }[_STRING[kind]][narrow]
            instruction.set_op_kind(n, getattr(OpKind, name))
        elif kind == K.SEG_RBX_AL:
            instruction.set_op_kind(n, OpKind.MEMORY)
            instruction.memory_base, instruction.memory_index = (R.EBX if narrow else R.RBX), R.AL
        else:
            assert _place(instruction, n, kind, 0, False)


@cache
def names(kind: type) -> dict[int, str]:
    """Names by value of one of iced-x86's enumerations."""
    return {value: name for name, value in vars(kind).items() if isinstance(value, int)}


_formatter = Formatter(FormatterSyntax.INTEL)


def _encode(instruction: Instruction) -> Form | None:
    """The form, or None when the encoder has no bytes for it (AH beside a REX prefix, RSP as an index)."""
    encoder = Encoder(64)
    try:
        encoder.encode(instruction, CODE)
    except ValueError:
        return None
    code = encoder.take_buffer()
    decoded = Decoder(64, code, ip=CODE).decode()
    if decoded.code != instruction.code or decoded.len != len(code):  # a 16-bit near branch, which 64-bit mode reads as 64-bit
        return None
    return Form(code, decoded, names(Mnemonic)[decoded.mnemonic].lower(), _formatter.format(decoded))


def _string_encodings(code: Code_, info: OpCodeInfo) -> Iterator[Form]:
    """String instructions and XLAT; REPNE only where it compares (SDM vol. 2, REP: undefined with the others)."""
    prefixes = [""]
    if info.can_use_rep_prefix and K.SEG_RBX_AL not in info.op_kinds():
        prefixes += ["rep", "repne"] if mnemonic_of(code)[:4] in ("scas", "cmps") else ["rep"]
    for prefix in prefixes:
        for narrow in (False, True):
            instruction = Instruction()
            instruction.code = code
            _string(instruction, info, narrow)
            instruction.has_rep_prefix, instruction.has_repne_prefix = prefix == "rep", prefix == "repne"
            if (form := _encode(instruction)) is not None:
                yield form


def encodings(code: Code_, variants: int = 20) -> Iterator[Form]:
    """Every form of an iced-x86 `Code`: register variants, memory variants, LOCK and REP prefixes. None for what has no builder
    here (segment, control, debug registers, far pointers)."""
    info = OpCodeInfo(code)
    kinds = [info.op_kind(n) for n in range(info.op_count)]
    seen: set[bytes] = set()
    if any(kind in _STRING or kind == K.SEG_RBX_AL for kind in kinds):
        yield from _string_encodings(code, info)
        return
    for memory in (False, True):
        if memory and not any(kind in _MEMORY for kind in kinds):
            continue
        for variant in range(variants):
            for lock in (False, True) if memory and info.can_use_lock_prefix else (False,):
                instruction = Instruction()
                instruction.code = code
                if not all(_place(instruction, n, kind, variant, memory) for n, kind in enumerate(kinds)):
                    break
                instruction.has_lock_prefix = lock
                form = _encode(instruction)
                if form is not None and form.code not in seen:
                    seen.add(form.code)
                    yield form


def by_opcode(forms: Iterable[Form]) -> dict[str, tuple[Form, ...]]:
    """Forms by the name of their iced-x86 `Code`: an operation with its operand kinds and widths settled."""
    found: dict[str, list[Form]] = {}
    for form in forms:
        found.setdefault(names(Code)[form.instruction.code], []).append(form)
    return {name: tuple(group) for name, group in found.items()}


def legal_codes() -> Iterator[Code_]:
    """Every iced-x86 `Code` that 64-bit user mode has: real instructions, no privilege needed."""
    for name in names(Code).values():
        code: Code_ = getattr(Code, name)
        info = OpCodeInfo(code)
        if info.is_instruction and info.mode64 and info.cpl3 and not info.is_privileged and name != "INVALID":
            yield code


def features(code: Code_) -> set[int]:
    """The CPUID features (iced-x86 `CpuidFeature`) that a `Code` needs."""
    instruction = Instruction()
    instruction.code = code
    return set(instruction.cpuid_features())


def mnemonic_of(code: Code_) -> str:
    """The lower-case mnemonic of a `Code`."""
    return names(Mnemonic)[OpCodeInfo(code).mnemonic].lower()


def is_legacy(code: Code_) -> bool:
    """Whether the encoding is neither VEX, EVEX, XOP nor 3DNow!."""
    return OpCodeInfo(code).encoding == EncodingKind.LEGACY


def access_bytes(instruction: Instruction) -> int:
    """Bytes of the memory operand; 0 when iced-x86 has no size for it."""
    return 0 if instruction.memory_size == MemorySize.UNKNOWN else int(MemorySizeExt.size(instruction.memory_size))
