"""SSE to SSE4.2, MMX, AES, PCLMULQDQ and SHA: every legacy-encoded form, register and memory."""

from functools import cache

from iced_x86 import Code_, CpuidFeature

from .catalog import INTEGER
from .forms import Form, encodings, features, is_legacy, legal_codes, mnemonic_of

_NAMES = ("MMX", "SSE", "SSE2", "SSE3", "SSSE3", "SSE4_1", "SSE4_2", "AES", "PCLMULQDQ", "SHA")


@cache
def _codes() -> dict[str, list[Code_]]:
    wanted = {getattr(CpuidFeature, name) for name in _NAMES}
    table: dict[str, list[Code_]] = {}
    for code in legal_codes():
        name, needed = mnemonic_of(code), features(code)
        integer = name in INTEGER and name not in ("movsd", "cmpsd")
        if is_legacy(code) and needed and needed <= wanted and not integer and not name.startswith("f"):
            table.setdefault(name, []).append(code)
    return dict(sorted(table.items()))


MNEMONICS = tuple(_codes())


@cache
def forms(mnemonic: str) -> tuple[Form, ...]:
    """Every form of an instruction by its mnemonic; KeyError when it is none of these."""
    return tuple(form for code in _codes()[mnemonic] for form in encodings(code))
