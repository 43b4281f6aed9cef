"""The x87 instructions, register and memory forms."""

from functools import cache

from iced_x86 import Code_, CpuidFeature

from .forms import Form, encodings, features, is_legacy, legal_codes, mnemonic_of

_NAMES = ("FPU", "FPU287", "FPU387", "CMOV", "SSE3")
# They store or load the last instruction's pointers, for which the software CPU shows zeros while all exceptions are masked
# (`trapgate.isa.families.x87`). `test_fpstate` compares the rest of what they do.
_POINTERS = frozenset(("fnsave", "fsave", "fnstenv", "fstenv", "frstor", "fldenv"))


@cache
def _codes() -> dict[str, list[Code_]]:
    wanted = {getattr(CpuidFeature, name) for name in _NAMES}
    table: dict[str, list[Code_]] = {}
    for code in legal_codes():
        name, needed = mnemonic_of(code), features(code)
        if is_legacy(code) and needed and needed <= wanted and name[0] in "fw" and name not in _POINTERS:
            found = any(True for _ in encodings(code))
            if found:  # FSTCW and the like, WAIT and instruction in one, are two instructions
                table.setdefault(name, []).append(code)
    return dict(sorted(table.items()))


MNEMONICS = tuple(_codes())


@cache
def forms(mnemonic: str) -> tuple[Form, ...]:
    """Every form of an instruction by its mnemonic; KeyError when it is none of these."""
    return tuple(form for code in _codes()[mnemonic] for form in encodings(code))
