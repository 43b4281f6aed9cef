"""A guest that makes ever new code does not fill the host's memory: translations start over."""

import pytest

from trapgate.exits import Halted
from trapgate.isa.native.placing import KNOWN_ROOM, MOST_RECORDS
from trapgate.soft.blocks.patterns import ROOM
from trapgate.soft.blocks.translator import Translator
from unit.soft.bench import CODE, Bench


def run(made: Bench, code: str) -> None:
    """Write code and run it up to its HLT."""
    made.ram.write(CODE, bytes.fromhex(code))
    made.st.rip = CODE
    assert made.cpu.run() == Halted()
    assert made.st.rip == CODE + len(code) // 2


@pytest.mark.parametrize("what", ["records", "bytes of records", "bytes of patterns"])
def test_translations_start_over(what: str) -> None:
    made = Bench()
    translator: Translator = made.cpu.translator
    run(made, "31c0f4")  # xor eax, eax; hlt
    before = translator.known_blocks, translator.patterns
    if what == "records":
        translator.known_blocks.added = MOST_RECORDS + 1
    elif what == "bytes of records":
        translator.known_blocks.end = KNOWN_ROOM - 4096
    else:
        translator.patterns._end = ROOM - 4096
    run(made, "31c031c0f4")  # a block never met, of instructions that were
    assert what == "bytes of patterns" or translator.known_blocks is not before[0]
    run(made, "31c9f4")  # an instruction never met
    assert translator.known_blocks is not before[0] and translator.patterns is not before[1]
    assert translator.known_blocks.added <= 4 and made.st.rcx == 0
