"""Executes guest instructions by the host's own instruction: packed, floating and x87 ones.

Host and guest are both x86-64, so nothing describes `addps` better than ADDPS: rounding, NaNs, denormals and sticky flags are the
silicon's. A form is the guest's encoding with its operands renamed: XMM registers are loaded from the CPU state into host scratch
registers and stored back, a memory operand is at [RSI] (where HOST is handed over), a general register is RAX. MMX and x87
registers are *live*: the guest's are the host's (see `x87`), and their numbers are in a hole that takes the whole ModRM byte.

What an instruction reads and writes is taken from the opcode table of iced-x86; only what that table does not say is listed here.
"""

import re
from collections.abc import Callable, Iterator
from functools import cache, partial

from iced_x86 import (
    Code,
    Code_,
    CpuidFeature,
    Encoder,
    EncodingKind,
    EncodingKind_,
    Instruction,
    InstructionInfoFactory,
    MemorySize,
    MemorySizeExt,
    Mnemonic,
    OpAccess,
    OpCodeInfo,
    OpCodeOperandKind,
    OpCodeOperandKind_,
    OpKind,
    Register,
    RegisterExt,
    RflagsBits,
)

from trapgate.isa import flags
from trapgate.isa.families import mxcsr
from trapgate.isa.forms import Form
from trapgate.isa.state import LAYOUT
from trapgate.isa.vocabulary import Trace, Value
from trapgate.values import dataclass

K = OpCodeOperandKind
_XMM = {K.XMM_REG, K.XMM_RM, K.XMM_OR_MEM, K.XMM_VVVV, K.XMM_IS4}
_YMM = {K.YMM_REG, K.YMM_RM, K.YMM_OR_MEM, K.YMM_VVVV, K.YMM_IS4}
VECTORS = _XMM | _YMM
_MM = {K.MM_REG, K.MM_RM, K.MM_OR_MEM}
_GENERAL = {K.R32_REG: 4, K.R64_REG: 8, K.R32_OR_MEM: 4, K.R64_OR_MEM: 8, K.AX: 2}
_MEMORY = {K.MEM, K.XMM_OR_MEM, K.YMM_OR_MEM, K.MM_OR_MEM, K.R32_OR_MEM, K.R64_OR_MEM}
_GONE = _MM | _MEMORY
_STACK = {K.ST0, K.STI_OPCODE}
_WRITES = {OpAccess.WRITE, OpAccess.READ_WRITE, OpAccess.COND_WRITE, OpAccess.READ_COND_WRITE}

# 16-byte memory operands that need no alignment (SDM vol. 2, 2.4.4, table 2-19 and the instructions' own pages)
_UNALIGNED = {
    Mnemonic.MOVUPS, Mnemonic.MOVUPD, Mnemonic.MOVDQU, Mnemonic.LDDQU,
    Mnemonic.PCMPESTRI, Mnemonic.PCMPESTRM, Mnemonic.PCMPISTRI, Mnemonic.PCMPISTRM, Mnemonic.PCMPESTRI64, Mnemonic.PCMPESTRM64,
}  # fmt: skip
# AMD's take unaligned operands of these (as measured on Zen 4); Intel's do not (SDM vol. 2, exceptions type 4).
_UNALIGNED_ON_AMD = {
    Mnemonic.SHA1MSG1, Mnemonic.SHA1MSG2, Mnemonic.SHA1NEXTE, Mnemonic.SHA1RNDS4,
    Mnemonic.SHA256MSG1, Mnemonic.SHA256MSG2, Mnemonic.SHA256RNDS2,
}  # fmt: skip
# VEX-encoded instructions take their operands anywhere, but for these (SDM vol. 2, 2.7, table 2-20: type 1).
_ALIGNED_VEX = {
    Mnemonic.VMOVAPS, Mnemonic.VMOVAPD, Mnemonic.VMOVDQA, Mnemonic.VMOVNTPS, Mnemonic.VMOVNTPD, Mnemonic.VMOVNTDQ,
    Mnemonic.VMOVNTDQA,
}  # fmt: skip
_IMPLICIT_XMM0 = {Mnemonic.PBLENDVB, Mnemonic.BLENDVPS, Mnemonic.BLENDVPD, Mnemonic.SHA256RNDS2}
_RESULT_XMM0 = {
    Mnemonic.PCMPESTRM, Mnemonic.PCMPESTRM64, Mnemonic.PCMPISTRM, Mnemonic.VPCMPESTRM, Mnemonic.VPCMPESTRM64, Mnemonic.VPCMPISTRM,
}  # fmt: skip
_RESULT_ECX = {
    Mnemonic.PCMPESTRI, Mnemonic.PCMPESTRI64, Mnemonic.PCMPISTRI, Mnemonic.VPCMPESTRI, Mnemonic.VPCMPESTRI64, Mnemonic.VPCMPISTRI,
}  # fmt: skip
_LENGTHS = (_RESULT_XMM0 | _RESULT_ECX) - {  # in (R|E)AX and (R|E)DX
    Mnemonic.PCMPISTRI, Mnemonic.PCMPISTRM, Mnemonic.VPCMPISTRI, Mnemonic.VPCMPISTRM,
}  # fmt: skip
# A store past the caches is a plain store here: the fences that order it need no instruction of ours then.
_PLAIN = {
    Code.MOVNTPS_M128_XMM: Code.MOVAPS_XMMM128_XMM,
    Code.MOVNTPD_M128_XMM: Code.MOVAPS_XMMM128_XMM,
    Code.MOVNTDQ_M128_XMM: Code.MOVAPS_XMMM128_XMM,
    Code.MOVNTDQA_XMM_M128: Code.MOVAPS_XMM_XMMM128,
    Code.MOVNTQ_M64_MM: Code.MOVQ_MMM64_MM,
    Code.VEX_VMOVNTPS_M128_XMM: Code.VEX_VMOVAPS_XMMM128_XMM,
    Code.VEX_VMOVNTPD_M128_XMM: Code.VEX_VMOVAPS_XMMM128_XMM,
    Code.VEX_VMOVNTDQ_M128_XMM: Code.VEX_VMOVAPS_XMMM128_XMM,
    Code.VEX_VMOVNTDQA_XMM_M128: Code.VEX_VMOVAPS_XMM_XMMM128,
    Code.VEX_VMOVNTPS_M256_YMM: Code.VEX_VMOVAPS_YMMM256_YMM,
    Code.VEX_VMOVNTPD_M256_YMM: Code.VEX_VMOVAPS_YMMM256_YMM,
    Code.VEX_VMOVNTDQ_M256_YMM: Code.VEX_VMOVAPS_YMMM256_YMM,
    Code.VEX_VMOVNTDQA_YMM_M256: Code.VEX_VMOVAPS_YMM_YMMM256,
}
STATUS_FLAGS = RflagsBits.OF | RflagsBits.SF | RflagsBits.ZF | RflagsBits.AF | RflagsBits.CF | RflagsBits.PF
_ASIDE = LAYOUT["scratch"].offset  # what an instruction that may raise leaves: a vector, and behind it MXCSR
_MXCSR_ASIDE = _ASIDE + 32
_factory = InstructionInfoFactory()


@dataclass(frozen=True, slots=True)
class Plan:
    """What translation must know of an encoding. `kinds`: iced-x86's OpCodeOperandKind values; `size`: bytes of memory operand."""

    code: Code_
    name: str
    kinds: tuple[OpCodeOperandKind_, ...]
    written: tuple[bool, ...]
    read: tuple[bool, ...]
    size: int
    sets_flags: bool

    @property
    def vex(self) -> bool:
        """Whether it is VEX-encoded: its destination is written up to bit 255."""
        return OpCodeInfo(self.code).encoding == EncodingKind.VEX

    @property
    def wide(self) -> bool:
        """Whether it works on YMM registers."""
        return any(kind in _YMM for kind in self.kinds)

    def aligned(self, amd: bool) -> bool:
        """Whether its operand must lie on a boundary of its own size, on AMD's CPUs or on Intel's."""
        mnemonic = OpCodeInfo(self.code).mnemonic
        if self.vex:
            return mnemonic in _ALIGNED_VEX
        return self.size == 16 and mnemonic not in _UNALIGNED and not (amd and mnemonic in _UNALIGNED_ON_AMD)

    def anywhere(self, amd: bool) -> bool:
        """Whether its operand in memory is no matter of #AC either (SDM vol. 2, 2.7: exceptions of type 11); on AMD's it is one."""
        return not amd and OpCodeInfo(self.code).mnemonic in (Mnemonic.VCVTPH2PS, Mnemonic.VCVTPS2PH)

    @property
    def loaded(self) -> bool:
        """Whether an operand in memory is loaded by an instruction of its own: a guest may have it where the host may not."""
        return self.aligned(amd=False) and not self.aligned(amd=True)

    @property
    def memory(self) -> int | None:
        """The number of the operand that may lie in memory."""
        return next((n for n, kind in enumerate(self.kinds) if kind in _MEMORY), None)

    @property
    def live(self) -> bool:
        """Whether it works on the host's x87 or MMX registers."""
        return any(kind in _MM or kind in _STACK for kind in self.kinds)

    @property
    def variants(self) -> tuple[bool, ...]:
        """Whether its operand may lie in memory: (no,), (yes,) or both."""
        if self.memory is None:
            return (False,)
        return (True,) if self.kinds[self.memory] == K.MEM else (False, True)

    @property
    def aside(self) -> bool:
        """Whether its result can be left aside: those to MMX registers, and VCVTPS2PH's to memory, are gone at once."""
        return not any(written and kind in _GONE for written, kind in zip(self.written, self.kinds, strict=True))

    def form(self, memory: bool, careful: bool = False) -> str:
        """The name of the form."""
        return f"{self.name}.{'m' if memory else 'r'}{'.careful' * careful}"


@cache
def plan(code: Code_) -> Plan:
    """The plan of an encoding, from the opcode table."""
    info = OpCodeInfo(code)
    kinds = tuple(info.op_kinds())
    access = [_access(code, False), _access(code, True)]
    written = tuple(any(a[n] in _WRITES for a in access if a) for n in range(len(kinds)))
    read = tuple(any(a[n] != OpAccess.WRITE for a in access if a) for n in range(len(kinds)))
    blank = Instruction()
    blank.code = code
    size = 0 if blank.memory_size == MemorySize.UNKNOWN else MemorySizeExt.size(blank.memory_size)
    return Plan(code, _names()[code].lower(), kinds, written, read, size, bool(blank.rflags_modified & STATUS_FLAGS))


@cache
def _names() -> dict[int, str]:
    return {value: name for name, value in vars(Code).items() if isinstance(value, int)}


def codes_of(encoding: EncodingKind_, *features: str) -> Iterator[Code_]:
    """Encodings of a kind that need nothing but these CPUID features (iced-x86's names)."""
    wanted = {getattr(CpuidFeature, name) for name in features}
    for name in _names().values():
        code: Code_ = getattr(Code, name)
        info = OpCodeInfo(code)
        if info.is_instruction and info.encoding == encoding:
            blank = Instruction()
            blank.code = code
            needed = set(blank.cpuid_features())
            if needed and needed <= wanted:
                yield code


def _renamed(code: Code_, memory: bool) -> Instruction | None:
    """The instruction with host operands; None when it has no such variant."""
    info = OpCodeInfo(code)
    shift = int(info.mnemonic in _IMPLICIT_XMM0 | _RESULT_XMM0)
    i = Instruction()
    i.code = code
    found = False
    for n, kind in enumerate(info.op_kinds()):
        if kind == K.IMM8:
            i.set_op_kind(n, OpKind.IMMEDIATE8)
            i.set_immediate_u64(n, 0)
            continue
        if kind in _MEMORY and (memory or kind == K.MEM):
            if not memory:
                return None
            found = True
            i.set_op_kind(n, OpKind.MEMORY)
            i.memory_base = Register.RSI
            continue
        i.set_op_kind(n, OpKind.REGISTER)
        if kind in _XMM:
            i.set_op_register(n, Register.XMM0 + shift + n)  # type: ignore[arg-type]
        elif kind in _YMM:
            i.set_op_register(n, Register.YMM0 + shift + n)  # type: ignore[arg-type]
        elif kind in _MM:
            i.set_op_register(n, Register.MM0)
        elif kind in _STACK:
            i.set_op_register(n, Register.ST0)
        elif kind in _GENERAL:
            i.set_op_register(n, {2: Register.AX, 4: Register.EAX, 8: Register.RAX}[_GENERAL[kind]])
        else:
            return None
    return i if found == memory else None


def _access(code: Code_, memory: bool) -> list[int] | None:
    i = _renamed(code, memory)
    return None if i is None else [_factory.info(i).op_access(n) for n in range(i.op_count)]


def encode(code: Code_, memory: bool) -> bytes:
    """The host's instruction with renamed operands, holes zero."""
    i = _renamed(_PLAIN.get(code, code), memory)
    assert i is not None
    encoder = Encoder(64)
    encoder.encode(i, 0)
    return bytes(encoder.take_buffer())


def assembler(code: Code_, memory: bool) -> str:
    """The instruction as `.byte` directive. Bytes that are holes: `Bmodrm` (MMX and x87 register numbers), the immediate `Bimm`.

    What is added to `Bmodrm` only shows `tidy` a readable instruction: the value of the hole is the whole byte, from `modrm`.
    """
    data = encode(code, memory)
    kinds = plan(code).kinds
    items = [str(byte) for byte in data]
    has_immediate = K.IMM8 in kinds
    if has_immediate:
        items[-1] = "Bimm"
    at = len(items) - 1 - has_immediate
    if numbered(code, memory):
        items[at] = f"Bmodrm+{data[at]}"
    return ".byte " + ",".join(items)


@cache
def numbered(code: Code_, memory: bool) -> bool:
    """Whether the form names live registers by number."""
    kinds = plan(code).kinds
    return K.STI_OPCODE in kinds or any(kind in _MM and not (memory and kind in _MEMORY) for kind in kinds)


def modrm(i: Instruction, memory: bool) -> int:
    """The value of `Bmodrm` for a guest instruction: the form's own byte with the guest's register numbers in it."""
    p, data = plan(i.code), encode(i.code, memory)
    value = data[-2] if K.IMM8 in p.kinds else data[-1]
    for n, kind in enumerate(p.kinds):
        if kind == K.STI_OPCODE:
            value += i.op_register(n) - Register.ST0
        elif kind in _MM and not (memory and kind in _MEMORY):
            value += (i.op_register(n) - Register.MM0) << (3 if kind == K.MM_REG else 0)
    return value


def holes(i: Instruction, memory: bool) -> dict[str, int]:
    """The holes of a guest instruction's form: XMM and general registers by operand number, immediate, live registers."""
    p, values = plan(i.code), dict[str, int]()
    for n, kind in enumerate(p.kinds):
        if memory and n == p.memory:
            continue
        if kind in VECTORS:
            values[f"R{n}"] = LAYOUT[f"xmm{number(i.op_register(n))}"].offset
        elif kind in _GENERAL:
            values[f"R{n}"] = LAYOUT["rax"].offset + 8 * (RegisterExt.full_register(i.op_register(n)) - Register.RAX)
        elif kind == K.IMM8:
            values["Bimm"] = i.immediate8
    if numbered(i.code, memory):
        values["Bmodrm"] = modrm(i, memory)
    return values


def host(m: Trace, code: Code_, memory: bool, careful: bool = False) -> None:
    """The body of a form: operands to their places, the instruction, results back unless it is `careful` and raised something."""
    p, info = plan(code), OpCodeInfo(code)
    mnemonic = info.mnemonic
    shift = int(mnemonic in _IMPLICIT_XMM0 | _RESULT_XMM0)
    before, after, results, clobbers = list[str](), list[str](), list[str](), ["~{memory}", "~{flags}"]
    move, whole = ("vmovaps", "y") if p.vex else ("movaps", "x")  # what is above bit 127 of a VEX destination has become 0
    general_in: Value | None = None
    general_out: tuple[str, int] | None = None
    for n, kind in enumerate(p.kinds):
        if memory and n == p.memory:
            if p.loaded:
                before.append(f"movups (%rsi), %xmm{n + shift}")
                clobbers.append(f"~{{xmm{n + shift}}}")
            continue
        if kind in VECTORS:
            clobbers.append(f"~{{xmm{n + shift}}}")
            if p.read[n]:
                before.append(f"{move} R{n}(CPU), %{'y' if kind in _YMM else 'x'}mm{n + shift}")
            if p.written[n] and careful:
                assert not results, "one place for a result"
                after.append(f"{move} %{whole}mm{n + shift}, {_ASIDE}(CPU)")
                results += [f"{move} {_ASIDE}(CPU), %{whole}mm{n + shift}", f"{move} %{whole}mm{n + shift}, R{n}(CPU)"]
            elif p.written[n]:
                after.append(f"{move} %{whole}mm{n + shift}, R{n}(CPU)")
        elif kind in _GENERAL:
            if p.written[n]:
                general_out = f"R{n}", _GENERAL[kind]
            else:
                general_in = m.get(f"R{n}", 64)
    xmm0 = f"{LAYOUT['xmm0'].offset}(CPU)"
    if mnemonic in _IMPLICIT_XMM0:
        before.append(f"movaps {xmm0}, %xmm0")
    if mnemonic in _RESULT_XMM0:
        after.append(f"{move} %{whole}mm0, {xmm0}")
    if shift:
        clobbers.append("~{xmm0}")
    if mnemonic in _RESULT_ECX:
        clobbers.append("~{rcx}")
    if p.wide:  # or each SSE instruction that follows waits for the registers' upper halves
        after.append("vzeroupper")
    if p.sets_flags:
        after += ["lahf", "seto %al"]
        if mnemonic in _RESULT_ECX:
            after += ["movzwl %ax, %eax", "shlq $$32, %rcx", "orq %rcx, %rax"]
    if careful:
        after.append(f"stmxcsr {_MXCSR_ASIDE}(CPU)")
    result = p.sets_flags or general_out is not None
    constraints, values = (["=&{rax}"] if result else []), list[Value]()
    text = "; ".join([*before, assembler(code, memory and not p.loaded), *after])
    text = text.replace("CPU", f"${len(constraints)}")
    constraints.append("r")
    values.append(m.address_of("rip"))
    if memory:
        constraints.append("{rsi}")
        values.append(m["HOST"])
    if mnemonic in _LENGTHS:
        general_in = m.get("rax", 64)
        constraints.append("{rdx}")
        values.append(m.get("rdx", 64))
    if general_in is not None:
        constraints.append("0" if result else "{rax}")
        values.append(general_in)
    found = m.asm(text, ",".join(constraints + clobbers), 64 if result else 0, *values)
    if careful:
        mxcsr.settle(m, m.get_at("scratch", m.const(_MXCSR_ASIDE - _ASIDE, 64), 32))
        if results:
            text = "; ".join([*results, *["vzeroupper"] * p.vex]).replace("CPU", "$0")
            m.asm(text, ",".join(["r", *clobbers]), 0, m.address_of("rip"))
    if general_out is not None:
        field, size = general_out
        m.put(field, found.trunc(16) if size == 2 else found)
    if p.sets_flags:
        string = mnemonic in _RESULT_ECX | _RESULT_XMM0
        write_flags(m, found, string)
        if mnemonic in _RESULT_ECX:
            m.put("rcx", found >> 32)
    m.jump("NEXT")


def write_flags(m: Trace, found: Value, all_six: bool) -> None:
    """Guest flags from LAHF and SETO AL; comparisons clear OF, SF and AF (SDM vol. 2, COMISS, PTEST, FCOMI)."""
    bits = (found >> 8) & (0xD5 if all_six else 0x45)
    flags.write(m, bits | ((found & 1) << 11) if all_six else bits)


def number(register: int) -> int:
    """The number of an XMM or YMM register (iced_x86.Register)."""
    return register - (Register.YMM0 if register >= Register.YMM0 else Register.XMM0)


def vector_bytes(i: Instruction) -> int:
    """Bytes of the longest vector register that an instruction names."""
    named = [i.memory_index, *(i.op_register(n) for n in range(i.op_count) if i.op_kind(n) == OpKind.REGISTER)]
    return 32 if any(RegisterExt.is_ymm(one) for one in named) else 16


def general_size(code: Code_, n: int) -> int:
    """Bytes of operand n where it is a general register."""
    return _GENERAL[plan(code).kinds[n]]


def host_forms(codes: Iterator[Code_], body: Callable[..., None] = host) -> Iterator[Form]:
    """The forms of some encodings."""
    for code in codes:
        p = plan(code)
        for memory in p.variants:
            yield Form(p.form(memory), partial(body, code=code, memory=memory))
            if raises(p) and p.aside:
                yield Form(p.form(memory, careful=True), partial(host, code=code, memory=memory, careful=True))


def raises(p: Plan) -> bool:
    """Whether the instruction may raise a SIMD floating-point exception (SDM vol. 1, appendix E; vol. 2, types 2 and 3, and 11)."""
    return OpCodeInfo(p.code).mnemonic in _raising()


@cache
def _raising() -> frozenset[int]:
    return frozenset(getattr(Mnemonic, name.upper()) for name in (*_raising_sse(), *raising_avx()))


@cache
def raising_avx() -> tuple[str, ...]:
    """The VEX-encoded instructions that may, by name."""
    every = [name.lower() for name, value in vars(Mnemonic).items() if isinstance(value, int)]
    fused = [name for name in every if re.fullmatch("vfn?m(add|sub|addsub|subadd)(132|213|231)[ps][sd]", name)]
    same = [f"v{name}" for name in _raising_sse() if f"v{name}" in every]  # those with MMX operands have no such encoding
    return (*same, *fused, "vcvtph2ps", "vcvtps2ph")


def _raising_sse() -> list[str]:
    return [
        *(f"{op}{kind}" for op in ("add", "sub", "mul", "div", "min", "max", "sqrt", "cmp") for kind in ("ps", "pd", "ss", "sd")),
        *(f"{op}{kind}" for op in ("haddp", "hsubp", "addsubp", "dpp") for kind in "sd"),
        *(f"round{kind}" for kind in ("ps", "pd", "ss", "sd")),
        *("comiss", "comisd", "ucomiss", "ucomisd", "cvtdq2ps", "cvtpi2ps", "cvtps2pd", "cvtpd2ps", "cvtss2sd", "cvtsd2ss"),
        *(f"cvt{t}{source}2{target}" for t in ("", "t") for source in ("ps", "pd") for target in ("pi", "dq")),
        *(f"cvt{t}{source}2si" for t in ("", "t") for source in ("ss", "sd")),
        *("cvtsi2ss", "cvtsi2sd"),
    ]
