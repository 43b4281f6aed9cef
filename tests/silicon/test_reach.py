"""The catalogs reach every stencil that 64-bit user code can be made of; what they do not reach is listed with who judges it."""

import re

from trapgate.arch.models import MODELS
from trapgate.isa import catalog as isa_catalog
from trapgate.isa import modes
from trapgate.soft.decode.lowering import Lowering, fused
from trapgate.stencil.cache import Cache
from trapgate.stencil.library import load_library

from .families import FAMILIES

ELSEWHERE = {
    "other code, stack and address sizes (test_compat, tests/programs)": (
        r"(ea|bit_address|pointer|xlat_ea|advance|goto|rip|enter|enter_ea|frame_ea|push_ea|pop_ea|rsp_add|rsp_leave)\..*\b(16|32)",
        r"(ea|advance|goto|rip|frame_ea|push_ea|pop_ea|rsp_add|rsp_leave)\.(16|32)",
        r"(enter|enter_ea|push_ea)\.4\.64",
        r"(jcxz|loop|loope|loopne|rep_head|rep_next|rep_nexte|rep_nextne)\.16",
        r"rep_while(e|ne)\.\d+\.16",
    ),
    "segments with a base or a limit (tests/programs, tests/behaviour)": (
        r".*\.seg\b.*",
        r"(segment|limit|base)\..*",
        r"EA=cut32",
    ),
    "saving and restoring x87 and SSE state (test_fpstate)": (
        r"(fxsave|fxrstor|xsave|xsavec|xsaveopt|xrstor|xrstors)\..*",
        r"(fldenv|fnsave|fnstenv|frstor)_.*",
        r"ref\.(r|w|rw)\.(14|28|94|108|512|576)|x87\.waits\.(14|28|94|108)",
    ),
    "system instructions and privileged variants (tests/programs, tests/behaviour)": (
        r"native\..*",
        r"popf\.(iopl|kernel)\..*",
        r"port\..*|dr6\..*|cli|sti|swapgs|rdtsc|rdtscp",
    ),
    "system instructions in native code (tests/unit/soft/test_native_system, test_rules)": (
        r"system\..*|area\..*|(load|store)\.[gi]dt\..*|load_segment|refuse\..*|shadow\.ss|clts|lmsw|int|into|xgetbv",
        r"retf\..*|ref\.(r|w|rw)\.6",
    ),
    "AMD's offsets into FS and GS, and calls to nowhere (test_segments, test_vendors, recordings)": (r"based|canonical\.call\..*",),
    "modes: alignment checks, #NM, waiting x87 exceptions (tests/behaviour, test_fpstate)": (
        r"alignment\..*|aligned\.64|raise_(gp0|nm|ud)|(mmx|wait|avx)\.gate|vzero(all|upper)\.8",
    ),
    "stores that an unmasked exception may keep from happening (tests/unit/soft/test_unmasked)": (r"x87\.refuse",),
    "what a block begins and ends with, the instruction clock, breakpoints (tests/unit/soft)": (
        r"head(\.count)?(\.limit)?|bulk\..*\.count|rep_seam\.count|leave_breakpoint",
    ),
    "seams, between parts of far branches and the like (tests/programs)": (
        r"EA=T2|T0=(EA|T1|T2)|T2=EA|goto|goto\.T[02]\..*|rip|rip\.T[02]\..*",
    ),
    "no instruction needs them": (r"ea\.64|ea\.i1\.64|push_ea\.16\.64|movzx\.[RT]\.32\.64|test\.RT\..*|ref\.(rw\.(1|2|10)|w\.10)",),
}


def _reached() -> set[str]:
    lowerings, mode = [Lowering(load_library(Cache()), model) for model in MODELS.values()], modes.CODE64 | modes.CPL | modes.AVX
    unmasked = mode | modes.SSE_UNMASKED  # as some cases have it
    names = set[str]()
    for family in FAMILIES:
        for mnemonic in family.mnemonics:
            for form in family.forms(mnemonic):
                first = form.code[: form.instruction.len]
                for lowering in lowerings:
                    builder = lowering.lowered(first, mode)
                    if first != form.code:
                        builder = fused(builder, lowering.lowered(form.code[len(first) :], mode)) or builder
                    names.update(name for name, _ in (*builder.ops, *lowering.lowered(first, unmasked).ops))
    return names


def test_every_stencil_is_reached_or_judged_elsewhere() -> None:
    stencils = {form.name.rstrip("!") for form in isa_catalog.forms()}
    missed = stencils - _reached()
    patterns = [re.compile(pattern) for several in ELSEWHERE.values() for pattern in several]
    assert sorted(name for name in missed if not any(pattern.fullmatch(name) for pattern in patterns)) == []
    assert len(stencils - missed) > 2000
    idle = [pattern.pattern for pattern in patterns if not any(pattern.fullmatch(name) for name in missed)]
    assert idle == []
