"""Flags that nobody reads are not stored, and those that somebody may see are: decided by the facts of the stencils."""

import pytest

from trapgate.isa.modes import CODE64
from trapgate.soft.state.codebuffer import CodeBuffer
from trapgate.stencil.cache import Cache
from trapgate.stencil.library import load_library
from unit.soft.plain import Native, Plain


@pytest.fixture(scope="module")
def code() -> CodeBuffer:
    return CodeBuffer(load_library(Cache()), 16 << 20)


@pytest.fixture(scope="module")
def plain(code: CodeBuffer) -> Plain:
    return Plain(code)


@pytest.fixture(scope="module")
def native(code: CodeBuffer) -> Native:
    return Native(code)


@pytest.mark.parametrize(
    ("block", "dead"),
    [
        ("01d1 31c0", [True, False]),  # ADD, XOR
        ("01d1 89c0 31c0", [True, False, False]),  # ADD, MOV, XOR: MOV neither reads nor sets
        ("ffc1 31c0", [True, False]),  # INC keeps CF: of nobody's interest before XOR
        ("01d1 ffc1 7204", [False, False, False]),  # ADD, INC, JB: its CF
        ("01d1 83d004 31c0", [False, True, False]),  # ADD, ADC: reads CF, flags or no flags
        ("01d1 c1e004 31c0", [True, True, False]),  # ADD, SHL by 4
        ("01d1 d3e0 7204", [False, False, False]),  # ADD, SHL by CL, JB: a count of 0 keeps the flags of ADD
        ("01d1 0f28c1 31c0", [True, False, False]),  # ADD, MOVAPS between registers: cannot fault
        ("01d1 8903 31c0", [False, False, False]),  # ADD, MOV to memory: may fault
        ("01d1 f7f1 31c0", [False, False, False]),  # ADD, DIV: may fault
        ("010b 31c0", [True, False]),  # ADD to memory
        ("f0830301 31c0", [False, False]),  # LOCK ADD: a bus-lock trap behind it shows its flags
        ("01d1 39d1 7204", [True, False]),  # ADD, CMP with JB in one
        ("01d1 eb04", [False, False]),  # ADD, JMP: the next block may read them
    ],
)
def test_which_flags_are_stored(native: Native, plain: Plain, block: str, dead: list[bool]) -> None:
    raws = [bytes.fromhex(text) for text in block.split()]
    assert [part.dead for part in plain.lowering.parts(raws, CODE64)] == dead
    assert native.placed(b"".join(raws), CODE64, 0x1000)[1] == plain.placed(b"".join(raws), CODE64, 0x1000)
