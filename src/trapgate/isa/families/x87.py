"""Executes x87 and MMX: the guest's registers are the host's while translated code runs.

`x87_live` says so. Before an instruction of this family stands `x87.live`: if the registers are not live, it goes out of line,
where FXRSTOR fetches them from the state (`fxsave`). They go back when the CPU leaves for Python (`stencil.library`: ENTER), so
that Python sees them in the state and the host's own code finds an empty x87.

The host's control word is the guest's, unmasked exceptions included (as there are at reset): the host would take #MF only at the
next waiting instruction, so the unmasked response is the silicon's. That instruction never comes: whatever may raise is followed by
a look at the status word (`look`) while anything is unmasked, and where an exception waits the registers go back to the state. They
are not live again before the guest has settled it: each instruction then leaves for Python (`exact.careful`), which raises the
guest's #MF, or runs those that do not wait.

A store that an unmasked exception keeps from happening must not touch its operand: where that is no plain memory, Python executes
it; so it does on the Intel model where the operand may fault, which comes second there (`docs/vendors.md`).

The last instruction's pointers (FIP, FDP, FOP) are the guest's business, those of the host's registers are ours: while the state
is live they are kept beside it. Each x87 instruction but those for control stores its address, a constant (`x87.at`). AMD's store
the address of their operand, too; the Intel model's do so under an unmasked exception only (CPUID FDP_EXCPTN_ONLY). FOP is loaded
and stored, but no instruction changes it, as on Intel's while nothing is unmasked.
"""

from collections.abc import Iterator
from functools import partial

from iced_x86 import Code, Code_, EncodingKind, Mnemonic, OpCodeInfo, OpCodeOperandKind

from trapgate.arch import xstate
from trapgate.arch.control import CR0_EM, CR0_MP, CR0_TS
from trapgate.isa import flags
from trapgate.isa.families.hosted import assembler, codes_of, host_forms, plan
from trapgate.isa.families.memory import probe, reference, reference_kind
from trapgate.isa.families.system import python
from trapgate.isa.forms import Form
from trapgate.isa.vocabulary import Trace, Value

FEATURES = ("FPU", "FPU287", "FPU387", "CMOV", "SSE3")
MASKS = 0x3F
# FXRSTOR of the image at $0 into a host whose exceptions are masked. It loads MXCSR, too, which shall stay. A guest may have
# written anything as status word: ES and B follow from flags and masks (SDM vol. 1, 8.1.3.3), and no host is asked to know it,
# lest it take a #MF.
RESTORE = f"stmxcsr {xstate.MXCSR.offset}($0); andw $$0x7f7f, {xstate.FSW.offset}($0); fxrstor64 ($0)"
SUMMARY = 1 << 7  # ES in the status word
STATES = (Mnemonic.FXSAVE, Mnemonic.FXSAVE64, Mnemonic.FXRSTOR, Mnemonic.FXRSTOR64)
CONTROL = (Mnemonic.FLDCW, Mnemonic.FLDENV, Mnemonic.FRSTOR)  # they load a control word, which may unmask exceptions
MASKING = (Mnemonic.FNINIT, Mnemonic.FNSTENV, Mnemonic.FNSAVE)  # they mask all
STATUS_AT = {14: 2, 28: 4, 94: 2, 108: 4}  # where operands of so many bytes have the status word
NO_WAIT = (
    Mnemonic.FNINIT, Mnemonic.FNCLEX, Mnemonic.FNSTCW, Mnemonic.FNSTSW, Mnemonic.FNSTENV, Mnemonic.FNSAVE,
    Mnemonic.FNENI, Mnemonic.FNDISI, Mnemonic.FNSETPM,
)  # fmt: skip
KEEP_POINTERS = (*NO_WAIT, *CONTROL, Mnemonic.WAIT)  # they leave the pointers of the last instruction alone
NOTHING = (Mnemonic.WAIT, Mnemonic.FNENI, Mnemonic.FNDISI, Mnemonic.FNSETPM)
MOVES = {
    Mnemonic.FCMOVB: (2, False), Mnemonic.FCMOVNB: (2, True), Mnemonic.FCMOVE: (4, False), Mnemonic.FCMOVNE: (4, True),
    Mnemonic.FCMOVBE: (6, False), Mnemonic.FCMOVNBE: (6, True), Mnemonic.FCMOVU: (10, False), Mnemonic.FCMOVNU: (10, True),
}  # fmt: skip


def codes() -> Iterator[Code_]:
    """Every x87 encoding but FXSAVE and FXRSTOR."""
    for code in codes_of(EncodingKind.LEGACY, *FEATURES):
        info = OpCodeInfo(code)
        vector = OpCodeOperandKind.XMM_REG in info.op_kinds()
        if not vector and info.mnemonic not in STATES and info.mnemonic not in NOTHING and _is_x87(code):
            yield code


def _is_x87(code: Code_) -> bool:
    """Opcodes D8 to DF without an FWAIT before them (those are two instructions)."""
    info = OpCodeInfo(code)
    return 0xD8 <= (info.op_code >> 8 if info.op_code > 0xFF else info.op_code) <= 0xDF and not info.fwait


def live(m: Trace) -> None:
    """The guest's x87 registers are in the host's from here on; out to Python where an exception waits."""
    with m.when(m.get("x87_live", 32) == 0, likely=False):
        m.put("exit_detail", m.hole("Uop", 32))
        m.put("next_rip", m.hole("Qnext"))
        m.cold("x87_load")
    m.jump("NEXT")


def refuse_mmx(m: Trace) -> None:
    """MMX while CR0.EM or CR0.TS is set: #UD or #NM (SDM vol. 3, 12.1)."""
    with m.when((m.get("cr0", 64) & CR0_EM) != 0):
        m.cold("raise_ud")
    m.cold("raise_nm")


def enter_mmx(m: Trace) -> None:
    """The x87 registers become MMX state, by an instruction that only reads one of them: TOP 0, all valid (SDM vol. 1, 9.5.1)."""
    m.asm("movd %mm0, %eax", "~{rax},~{memory}", 0)
    m.jump("NEXT")


def note_address(m: Trace) -> None:
    """FIP of the instruction that follows."""
    m.put("x87_fip", m.hole("Qhere"))
    m.jump("NEXT")


def note_operand(m: Trace) -> None:
    """FDP: its operand in memory, which has been reached."""
    m.put("x87_fdp", m["EA"])
    m.jump("NEXT")


POINTERS = tuple(  # field, offset in the image, bits
    (field, place.offset, 8 * place.size)
    for field, place in (("x87_fop", xstate.FOP), ("x87_fip", xstate.FIP), ("x87_fdp", xstate.FDP))
)


def _unmasked(control: Value) -> Value:
    """Exceptions that a control word unmasks, of 32 bits."""
    return (~control & MASKS).zext(32)


def _waits(m: Trace, image: Value) -> Value:
    """1-bit: an exception waits, flagged and unmasked."""
    return (_unmasked(m.load(image + xstate.FCW.offset, 16)) & m.load(image + xstate.FSW.offset, 16).zext(32)) != 0


def restore_live(m: Trace, image: Value) -> None:
    """The host's registers = the image, in which no exception waits."""
    for field, at, bits in POINTERS:
        m.put(field, m.load(image + at, bits).zext(64))
    m.put("x87_unmasked", _unmasked(m.load(image + xstate.FCW.offset, 16)))
    m.asm(RESTORE, f"r,{_SCRATCH},~{{memory}}", 0, image)


def revive(m: Trace, image: Value) -> None:
    """Where the registers are live: they are those of another image, or live no more if an exception waits there."""
    with m.when(_waits(m, image), likely=False):
        _end_live(m)
    with m.otherwise():
        restore_live(m, image)


def _end_live(m: Trace) -> None:
    """The host's x87 as its own code expects it (empty, all masked)."""
    m.asm("fninit", "~{memory}", 0)
    m.put("x87_live", m.const(0, 32))


def save_live(m: Trace, image: Value) -> None:
    """The image = the host's registers, with the guest's pointers."""
    m.asm("fxsave64 ($0)", "r,~{memory}", 0, image)
    for field, at, bits in POINTERS:
        m.store(image + at, m.get(field, bits))


def forget_pointers(m: Trace) -> None:
    """FNINIT and FNSAVE clear them (SDM vol. 2, FINIT)."""
    for field, _, _ in POINTERS:
        m.put(field, m.const(0, 64))


def gate_wait(m: Trace) -> None:
    """WAIT while CR0.EM or CR0.TS is set: #NM if MP and TS are."""
    with m.when((m.get("cr0", 64) & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS)):
        m.cold("raise_nm")
    m.jump("NEXT")


def load(m: Trace) -> None:
    """Out of line: fetch the x87 registers from the state, unless an exception waits."""
    with m.when(_waits(m, m.address_of(xstate.IMAGE)), likely=False):
        m.jump("leave_instruction")
    restore_live(m, m.address_of(xstate.IMAGE))
    m.put("x87_live", m.const(1, 32))
    m.jump_to(m["RESUME"])


def save(m: Trace) -> None:
    """x87_save(): the live registers go to the state."""
    with m.when(m.get("x87_live", 32) != 0, likely=False):
        save_live(m, m.address_of(xstate.IMAGE))
        _end_live(m)
    m.result()


def look(m: Trace, operand: bool = False) -> None:
    """Behind an instruction that may raise: out of line where an unmasked exception has come. `operand`: EA is FDP then."""
    unmasked = m.get("x87_unmasked", 32)
    with m.when(unmasked != 0, likely=False):
        status = m.asm("fnstsw %ax", "={ax}", 16)
        with m.when((status.zext(32) & unmasked) != 0, likely=False):
            m.cold("x87_operand" if operand else "x87_wait")


def _look(m: Trace, operand: bool) -> None:
    look(m, operand)
    m.jump("NEXT")


def wait(m: Trace, operand: bool) -> None:
    """Out of line: an exception waits, so the registers go to the state."""
    if operand:
        m.put("x87_fdp", m["EA"])
    save_live(m, m.address_of(xstate.IMAGE))
    _end_live(m)
    m.jump_to(m["RESUME"])


def controlled(m: Trace) -> None:
    """Behind an instruction that changes the control word: what it unmasks may wait already."""
    at = m.address_of("scratch")
    m.asm("fnstcw ($0)", "r,~{memory}", 0, at)
    m.put("x87_unmasked", _unmasked(m.load(at, 16)))
    look(m)
    m.jump("NEXT")


def refuse_unmasked(m: Trace) -> None:
    """To Python while an exception is unmasked."""
    with m.when(m.get("x87_unmasked", 32) != 0, likely=False):
        python(m)
    m.jump("NEXT")


def late_reference(m: Trace, size: int) -> None:
    """HOST = host address of an operand that an unmasked exception keeps from being stored to."""
    hit, host = probe(m, m["EA"], size, write=True)
    with m.when(hit, likely=True):
        m["HOST"] = host
        m.jump("NEXT")
    m["X"] = m.const(size | reference_kind(write=True, read=False, late=True), 64)
    m.put("exit_detail", m.hole("Uop", 32))
    m.put("next_rip", m.hole("Qnext"))
    m.cold("slow_reference")


_SCRATCH = ",".join(f"~{{xmm{n}}}" for n in range(16))


def loads_no_wait(m: Trace, status: int) -> None:
    """Before FLDENV and FRSTOR: out to Python where an exception waits by what lies at HOST, the status word `status` bytes behind
    it, or ES is set there (see `RESTORE`)."""
    found = m.load(m["HOST"] + status, 16).zext(32)
    with m.when((found & (_unmasked(m.load(m["HOST"], 16)) | SUMMARY)) != 0, likely=False):
        python(m)
    m.jump("NEXT")


def conditional_move(m: Trace, condition: int, negated: bool) -> None:
    """FCMOVcc: the guest's condition becomes the host's ZF; the move is FCMOVE (DA C8+i)."""
    wanted = flags.condition(m, condition)
    taken = (wanted ^ 1 if negated else wanted).zext(32)
    m.asm("cmpl $$1, $0; .byte 0xda,Bmodrm+200", "r,~{flags}", 0, taken)
    m.jump("NEXT")


def plain(m: Trace, code: Code_) -> None:
    """Instructions without operands of their own kind: FNCLEX, FCHS, FSIN ..."""
    m.asm(assembler(code, False), "~{memory},~{flags}", 0)
    if code == Code.FNINIT:
        forget_pointers(m)
    m.jump("NEXT")


def store_environment(m: Trace, code: Code_, wide: bool) -> None:
    """FNSTENV and FNSAVE, with the guest's pointers as in protected mode, selectors 0 (SDM vol. 1, figures 8-9 and 8-11)."""
    m.asm(assembler(code, True), "{rsi},~{memory}", 0, m["HOST"])
    at, size = (m["HOST"] + 12, 32) if wide else (m["HOST"] + 6, 16)
    step = size // 8
    m.store(at, m.get("x87_fip", size))
    m.store(at + step, m.get("x87_fop", 64).trunc(16).zext(32) << 16 if wide else m.const(0, 16))
    m.store(at + 2 * step, m.get("x87_fdp", size))
    m.store(at + 3 * step, m.const(0xFFFF0000 if wide else 0, size))  # reserved bits read as ones
    if OpCodeInfo(code).mnemonic == Mnemonic.FNSAVE:
        forget_pointers(m)
    m.jump("NEXT")


def load_environment(m: Trace, code: Code_, wide: bool) -> None:
    """FLDENV and FRSTOR."""
    m.asm(assembler(code, True), "{rsi},~{memory}", 0, m["HOST"])
    at, size = (m["HOST"] + 12, 32) if wide else (m["HOST"] + 6, 16)
    step = size // 8
    m.put("x87_fip", m.load(at, size).zext(64))
    m.put("x87_fop", ((m.load(at + step, 32) >> 16) & 0x7FF).zext(64) if wide else m.const(0, 64))
    m.put("x87_fdp", m.load(at + 2 * step, size).zext(64))
    m.jump("NEXT")


def forms() -> Iterator[Form]:
    """Every stencil of this family."""
    common = []
    for code in codes():
        info = OpCodeInfo(code)
        if info.mnemonic in MOVES:
            condition, negated = MOVES[info.mnemonic]
            yield Form(plan(code).form(False), partial(conditional_move, condition=condition, negated=negated))
        elif info.mnemonic in (Mnemonic.FNSTENV, Mnemonic.FNSAVE):
            wide = code not in (Code.FNSTENV_M14BYTE, Code.FNSAVE_M94BYTE)
            yield Form(plan(code).form(True), partial(store_environment, code=code, wide=wide))
        elif info.mnemonic in (Mnemonic.FLDENV, Mnemonic.FRSTOR):
            wide = code not in (Code.FLDENV_M14BYTE, Code.FRSTOR_M94BYTE)
            yield Form(plan(code).form(True), partial(load_environment, code=code, wide=wide))
        elif not info.op_count:
            yield Form(plan(code).form(False), partial(plain, code=code))
        else:
            common.append(code)
    yield from host_forms(iter(common))
    yield Form("emms", partial(plain, code=Code.EMMS))
    yield Form("mmx.enter", enter_mmx)
    yield Form("x87.live", live)
    yield Form("x87.at", note_address)
    yield Form("x87.data", note_operand)
    yield Form("mmx.gate", refuse_mmx)
    yield Form("wait.gate", gate_wait)
    yield Form("x87.look", partial(_look, operand=False))
    yield Form("x87.look.operand", partial(_look, operand=True))
    yield Form("x87.control", controlled)
    yield Form("x87.refuse", refuse_unmasked)
    for size, status in STATUS_AT.items():
        yield Form(f"x87.waits.{size}", partial(loads_no_wait, status=status))
    for size in (2, 4, 8, 10):
        yield Form(f"ref.late.{size}", partial(late_reference, size=size))
    for size in (14, 94):
        yield Form(f"ref.r.{size}", partial(reference, size=size, write=False, read=True))
        yield Form(f"ref.w.{size}", partial(reference, size=size, write=True, read=False))


FLOWS = {"x87_load": load, "x87_wait": partial(wait, operand=False), "x87_operand": partial(wait, operand=True)}
FUNCTIONS = {"x87_save": (save, 0, 0)}
