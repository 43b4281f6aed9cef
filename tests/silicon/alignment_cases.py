"""Cases with RFLAGS.AC set: which accesses must be aligned, to what, and what comes before #AC. Linux sets CR0.AM."""

from collections.abc import Iterator

from .assemble import assemble
from .compare import Case
from .decoded import form_of
from .families import FAMILIES, Family
from .forms import by_opcode
from .sample import choose
from .state import AC_FLAG, CODE, CODE_PAGE, FX_INIT, GPR_NAMES, SCRATCH, SCRATCH_SIZE, State

CHECKED = tuple(family for family in FAMILIES if family.name != "branches")
END, BEYOND = SCRATCH + SCRATCH_SIZE, 1 << 63
# Aligned to less and less, across the end of memory and behind it, before its begin, in a read-only page, not canonical.
ADDRESSES = (
    *(SCRATCH + 0x1000 + n for n in (1, 2, 4, 8, 16)),
    *(END - 2, END - 1, END, END + 1, END + 4),
    *(SCRATCH - 1, SCRATCH - 3, SCRATCH - 5, CODE_PAGE + 1, CODE_PAGE + 8, BEYOND + 1),
)
# Not POPF: it would pop flags that linger, such as NT.
TEXTS = (
    "mov eax, [rbx]", "mov [rbx], eax", "add [rbx], eax", "xchg [rbx], eax", "bt dword ptr [rbx], 3", "cmpxchg [rbx], ecx",
    "cmpxchg8b [rbx]", "cmpxchg16b [rbx]", "lodsd", "movsd", "rep movsd", "push rax", "pop rax", "push qword ptr [rbx]",
    "call rax", "ret", "leave", "enter 0, 0", "enter 0, 2", "movss xmm1, [rbx]", "movsd xmm1, [rbx]", "movhps xmm1, [rbx]",
    "movups xmm1, [rbx]", "movdqu [rbx], xmm1", "movaps xmm1, [rbx]", "paddb xmm1, [rbx]", "lddqu xmm1, [rbx]",
    "movddup xmm1, [rbx]", "pmovsxbw xmm1, [rbx]", "pmovsxbd xmm1, [rbx]", "pinsrq xmm1, [rbx], 1", "cvtdq2pd xmm1, [rbx]",
    "pcmpistri xmm1, [rbx], 3", "movntdqa xmm1, [rbx]", "ldmxcsr [rbx]", "stmxcsr [rbx]", "maskmovdqu xmm1, xmm2",
    "maskmovq mm1, mm2", "movq [rbx], mm1", "movq mm1, [rbx]", "fld dword ptr [rbx]", "fld qword ptr [rbx]",
    "fld tbyte ptr [rbx]", "fstp tbyte ptr [rbx]", "fbld [rbx]", "fbstp [rbx]", "fild word ptr [rbx]", "fldcw [rbx]",
    "fnstsw [rbx]", "fldenv [rbx]", "fnsave [rbx]", "frstor [rbx]", "clflush [rbx]", "prefetcht0 [rbx]",
)  # fmt: skip
UNALIGNED = ("fxsave [rbx]", "fxrstor [rbx]")  # what they do to an aligned image is not asked here


def with_check(case: Case) -> Case:
    """The case with alignment checked."""
    return case._replace(state=case.state._replace(rflags=case.state.rflags | AC_FLAG))


def chosen(family: Family, mnemonic: str, each: int) -> Iterator[Case]:
    """Some cases of each opcode of an instruction, by a fixed seed."""
    for opcode, forms in by_opcode(family.forms(mnemonic)).items():
        yield from map(with_check, choose(forms, each, f"alignment {opcode}", family.make))


def tabled() -> Iterator[Case]:
    """Every instruction of TEXTS at every address, in RBX, RSP, RBP, RSI and RDI."""
    for text in (*TEXTS, *UNALIGNED):
        code = assemble(text)
        form = form_of("integer", code)
        for address in ADDRESSES:
            if text in UNALIGNED and not address & 15:
                continue
            registers = {"rax": CODE + 0x20, "rcx": 2, **dict.fromkeys(("rbx", "rsp", "rbp", "rsi", "rdi"), address)}
            gpr = tuple(registers.get(name, SCRATCH + 0x1000) for name in GPR_NAMES)
            yield with_check(Case(form, State(gpr, 0x202, FX_INIT, bytes(SCRATCH_SIZE))))
