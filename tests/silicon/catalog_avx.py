"""AVX, AVX2, FMA and F16C: every VEX-encoded form with vector registers."""

from functools import cache

from iced_x86 import Code_, CpuidFeature, EncodingKind, OpCodeInfo

from .forms import Form, encodings, features, legal_codes, mnemonic_of

_NAMES = ("AVX", "AVX2", "FMA", "F16C", "AES", "PCLMULQDQ")


@cache
def _codes() -> dict[str, list[Code_]]:
    wanted = {getattr(CpuidFeature, name) for name in _NAMES}
    table: dict[str, list[Code_]] = {}
    for code in legal_codes():
        needed = features(code)
        if OpCodeInfo(code).encoding == EncodingKind.VEX and needed and needed <= wanted:
            table.setdefault(mnemonic_of(code), []).append(code)
    return dict(sorted(table.items()))


MNEMONICS = tuple(_codes())


@cache
def forms(mnemonic: str) -> tuple[Form, ...]:
    """Every form of an instruction by its mnemonic; KeyError when it is none of these."""
    return tuple(form for code in _codes()[mnemonic] for form in encodings(code))
