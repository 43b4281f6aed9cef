"""The catalogs as one: instructions whose states are made alike, and cases of one opcode by the thousand."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from . import catalog, catalog_avx, catalog_branches, catalog_sse, catalog_x87
from .compare import Case
from .forms import Form
from .inputs import make_state
from .inputs_float import make_avx_state, make_sse_state, make_x87_state
from .sample import choose
from .state import State

CHUNK = 2000  # cases in memory at a time: each holds 8 KiB


@dataclass(frozen=True)
class Family:
    """Instructions by mnemonic; `forms` gives every form of one (KeyError when there is none), `make` a state for a form."""

    name: str
    mnemonics: tuple[str, ...]
    forms: Callable[[str], tuple[Form, ...]]
    make: Callable[[Form, random.Random], State]

    def choose(self, mnemonic: str, count: int, seed: str) -> list[Case]:
        """`count` cases of an instruction."""
        return choose(self.forms(mnemonic), count, seed, self.make)

    def choose_many(self, forms: tuple[Form, ...], count: int, seed: str) -> Iterator[list[Case]]:
        """At least `count` cases of some forms, evenly; a chunk at a time, those of a form together."""
        each = -(-count // len(forms))
        some = max(CHUNK // each, 1)
        for at in range(0, len(forms), some):
            part = forms[at : at + some]
            for done in range(0, each, CHUNK):
                yield choose(part, len(part) * min(CHUNK, each - done), f"{seed} {at} {done}", self.make)


FAMILIES = (
    Family("integer", catalog.INTEGER, catalog.forms, make_state),
    Family("sse", catalog_sse.MNEMONICS, catalog_sse.forms, make_sse_state),
    Family("avx", catalog_avx.MNEMONICS, catalog_avx.forms, make_avx_state),
    Family("x87", catalog_x87.MNEMONICS, catalog_x87.forms, make_x87_state),
    Family("branches", catalog_branches.MNEMONICS, catalog_branches.forms, make_state),
)
