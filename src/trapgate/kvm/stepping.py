"""Says what a single step on KVM does beyond the instruction, and how to make up for it; pure functions over bytes.

KVM steps with the real RFLAGS.TF. PUSHF, SYSCALL, interrupts and exceptions copy it to where the guest sees it; POPF, IRET and
SYSRET replace it by the guest's own. An instruction that ends in a handler is not followed by a trap at all, so a step carries
*nets*: execution breakpoints on the entries of the handlers that it may end in.
"""

from collections.abc import Callable, Iterable

from iced_x86 import CpuidFeature, Decoder, FlowControl, Instruction, Mnemonic, OpKind, RegisterExt

from trapgate.arch.flags import TF
from trapgate.arch.vectors import BP, BR, DB, DE, GP, MF, NM, NP, OF, PF, SS, UD
from trapgate.values import dataclass

Read = Callable[[int, int], bytes]  # linear address, length; short where unmapped

MAX_INSTRUCTION = 15
EXCEPTIONS = 32  # the vectors that are not interrupts
WITH_ERROR_CODE = frozenset({8, 10, 11, 12, 13, 14, 17, 21})
_PUSHF = {Mnemonic.PUSHF: 2, Mnemonic.PUSHFD: 4, Mnemonic.PUSHFQ: 8}
_POPF = {Mnemonic.POPF: 2, Mnemonic.POPFD: 4, Mnemonic.POPFQ: 8}
_IRET = {Mnemonic.IRET: 2, Mnemonic.IRETD: 4, Mnemonic.IRETQ: 8}
_INT = {Mnemonic.INT3: BP, Mnemonic.INTO: OF, Mnemonic.INT1: DB}
FAULTS = (PF, GP, UD, NM)  # what a plain instruction may raise, the likeliest first
_DIVIDES = frozenset({Mnemonic.DIV, Mnemonic.IDIV, Mnemonic.AAM})
_X87 = frozenset({CpuidFeature.FPU, CpuidFeature.FPU287, CpuidFeature.FPU387, CpuidFeature.MMX})
_ADDRESSES = {  # of string instructions, by width
    16: {OpKind.MEMORY_SEG_SI, OpKind.MEMORY_SEG_DI, OpKind.MEMORY_ESDI},
    32: {OpKind.MEMORY_SEG_ESI, OpKind.MEMORY_SEG_EDI, OpKind.MEMORY_ESEDI},
}
_FAR = frozenset({Mnemonic.LDS, Mnemonic.LES, Mnemonic.LFS, Mnemonic.LGS, Mnemonic.LSS, Mnemonic.LLDT, Mnemonic.LTR, Mnemonic.RETF})


def decode(code: bytes, bits: int, rip: int = 0) -> Instruction | None:
    """The instruction at the start of some bytes, which lie at `rip`; None when they are none."""
    instruction = Decoder(bits, code, ip=rip).decode()
    return instruction if instruction.code else None


@dataclass(frozen=True, slots=True)
class Handler:
    """Where an event's handler begins (linear), and where the saved flags lie: at [RSP + flags_at], or in R11 when None."""

    entry: int
    flags_at: int | None


@dataclass(frozen=True, slots=True)
class Tables:
    """What leads to handlers. `bits` is the width of gates: 64 in long mode, 32 in protected mode, 16 in real mode."""

    idt_base: int
    idt_limit: int
    bits: int
    syscall: int  # LSTAR
    gdt_base: int = 0


_GATE_SIZES = {64: 16, 32: 8, 16: 4}  # bytes, by width


def handler(read: Read, tables: Tables, vector: int) -> Handler | None:
    """Where an interrupt or exception goes; None when its gate cannot be read or is not present."""
    size = _GATE_SIZES[tables.bits]
    if vector * size + size - 1 > tables.idt_limit:
        return None
    raw = read(tables.idt_base + vector * size, size)
    if len(raw) < size:
        return None
    if tables.bits == 16:
        return Handler(int.from_bytes(raw[2:4], "little") * 16 + int.from_bytes(raw[:2], "little"), 4)
    if not raw[5] & 0x80:
        return None
    offset = int.from_bytes(raw[:2] + raw[6:8], "little")
    error = vector in WITH_ERROR_CODE
    if tables.bits == 64:
        return Handler(offset | int.from_bytes(raw[8:12], "little") << 32, 16 + 8 * error)
    selector = int.from_bytes(raw[2:4], "little")
    descriptor = read(tables.gdt_base + (selector & ~7), 8)
    base = int.from_bytes(descriptor[2:5] + descriptor[7:8], "little") if len(descriptor) == 8 else 0
    return Handler(base + offset & 0xFFFF_FFFF, 8 + 4 * error)


class Nets:
    """Finds the handlers that a step may end in. What follows from gates is known until they change."""

    def __init__(self) -> None:
        self._of: tuple[Tables, bytes] | None = None
        self._known: dict[tuple[bool, tuple[int, ...]], list[Handler]] = {}

    def of(self, read: Read, tables: Tables, instruction: Instruction | None) -> list[Handler]:
        """Those of this instruction, the likeliest first."""
        base, size = tables.idt_base, EXCEPTIONS * _GATE_SIZES[tables.bits]
        gates = read(base, size)  # all at once: to walk page tables for each costs most of a step

        def reader(address: int, length: int) -> bytes:
            at = address - base
            return gates[at : at + length] if 0 <= at <= len(gates) - length else read(address, length)

        vectors = _vectors(instruction)
        syscall = tables.bits == 64 and saves_flags_in_r11(instruction)
        if tables.bits == 32 or vectors[0] >= EXCEPTIONS:  # what other tables say as well
            return _handlers(reader, tables, syscall, vectors)
        if self._of != (tables, gates):
            self._of = tables, gates
            self._known.clear()
        found = self._known.get((syscall, vectors))
        if found is None:
            found = self._known[syscall, vectors] = _handlers(reader, tables, syscall, vectors)
        return found


def _handlers(read: Read, tables: Tables, syscall: bool, vectors: Iterable[int]) -> list[Handler]:
    """Each entry once."""
    found = [Handler(tables.syscall, None)] if syscall else []
    for vector in vectors:
        one = handler(read, tables, vector)
        if one is not None and one.entry not in [known.entry for known in found]:
            found.append(one)
    return found


def _vectors(instruction: Instruction | None) -> tuple[int, ...]:
    """What the instruction may end in, the likeliest first."""
    if instruction is None:
        return FAULTS
    known = _by_code.get(instruction.code)
    if known is None:
        own = (_INT[instruction.mnemonic],) if instruction.mnemonic in _INT else ()
        known = _by_code[instruction.code] = (*own, *_own_faults(instruction), *FAULTS)
    return (instruction.immediate8, *known) if instruction.mnemonic == Mnemonic.INT else known


_by_code: dict[int, tuple[int, ...]] = {}  # what `_vectors` says, less the vector of INT n


def _own_faults(instruction: Instruction) -> tuple[int, ...]:
    """What this instruction may raise more likely than others do."""
    if instruction.mnemonic in _DIVIDES:
        return (DE,)
    if any(RegisterExt.is_dr(instruction.op_register(n)) for n in range(instruction.op_count)):
        return (DB,)  # the guest's DR7.GD, where KVM emulates the MOV
    if not _X87.isdisjoint(instruction.cpuid_features()):
        return MF, NM
    loads = (
        instruction.op_count
        and instruction.op0_kind == OpKind.REGISTER
        and RegisterExt.is_segment_register(instruction.op0_register)
    )
    if loads or instruction.mnemonic in _FAR or instruction.mnemonic in _IRET or instruction.is_jmp_far or instruction.is_call_far:
        return GP, NP, SS
    return (BR,) if instruction.mnemonic == Mnemonic.BOUND else ()


def pushed_flags(instruction: Instruction | None) -> int:
    """Bytes of the flags image that the instruction pushes; 0 when it pushes none."""
    return 0 if instruction is None else _PUSHF.get(instruction.mnemonic, 0)


def popped_flags(instruction: Instruction | None) -> tuple[int, int]:
    """(offset from the stack pointer, bytes) of the flags image that the instruction loads; bytes 0 when it loads none."""
    if instruction is None:
        return 0, 0
    if instruction.mnemonic in _POPF:
        return 0, _POPF[instruction.mnemonic]
    size = _IRET.get(instruction.mnemonic, 0)
    return 2 * size, size


def tf_after(instruction: Instruction | None, before: bool, popped: int | None, r11: int, sfmask: int) -> bool:
    """The guest's own TF behind an instruction that completed. `popped`: the flags image that it loaded, if any."""
    if popped is not None:
        return bool(popped & TF)
    if instruction is None:
        return before
    if instruction.mnemonic in (Mnemonic.SYSRET, Mnemonic.SYSRETQ):
        return bool(r11 & TF)
    if instruction.mnemonic == Mnemonic.SYSCALL:
        return before and not sfmask & TF
    return before


def traps_by_new_tf(instruction: Instruction | None) -> bool:
    """SYSCALL and SYSRET: whether a single-step trap follows says the TF behind them, not the one before."""
    return instruction is not None and instruction.mnemonic in (Mnemonic.SYSCALL, Mnemonic.SYSRET, Mnemonic.SYSRETQ)


def saves_flags_in_r11(instruction: Instruction | None) -> bool:
    """SYSCALL."""
    return instruction is not None and instruction.mnemonic == Mnemonic.SYSCALL


def repeats(instruction: Instruction | None) -> bool:
    """Whether it is a string instruction with a repeat prefix: a step ends after each iteration."""
    return (
        instruction is not None
        and instruction.is_string_instruction
        and (instruction.has_rep_prefix or instruction.has_repne_prefix)
    )


def exhausted(instruction: Instruction, rcx: int) -> bool:
    """Whether it is a repeated string instruction whose count, of its address size, has come to 0."""
    kinds = {instruction.op_kind(n) for n in range(instruction.op_count)}
    bits = next((width for width, those in _ADDRESSES.items() if kinds & those), 64)
    return repeats(instruction) and not rcx & (1 << bits) - 1


def branched(instruction: Instruction | None, rip: int, following: int) -> bool:
    """Whether a branch was taken, as BTF counts."""
    if instruction is None or instruction.has_rep_prefix or instruction.has_repne_prefix:
        return False
    plain = (FlowControl.NEXT, FlowControl.CONDITIONAL_BRANCH)
    return rip != following or instruction.flow_control not in plain
