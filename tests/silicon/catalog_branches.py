"""Comparisons with the conditional branch behind them: a translator may make one operation of the two."""

from functools import cache

from . import catalog
from .forms import Form

COMPARISONS = ("cmp", "test", "add", "and", "sub")
DISTANCE = 0x10  # to an INT3 behind both
MNEMONICS = tuple(f"{name}-j{condition}" for name in COMPARISONS for condition in catalog.CONDITIONS)


@cache
def _comparisons(name: str) -> tuple[Form, ...]:
    return tuple(form for form in catalog.forms(name) if not form.instruction.has_lock_prefix)


@cache
def forms(mnemonic: str) -> tuple[Form, ...]:
    """Every form of a comparison, with a branch; KeyError when it is none of MNEMONICS."""
    name, _, branch = mnemonic.partition("-j")
    jump = bytes((0x70 | catalog.CONDITIONS.index(branch), DISTANCE))
    return tuple(Form(form.code + jump, form.instruction, form.mnemonic, f"{form.text}; j{branch}") for form in _comparisons(name))
