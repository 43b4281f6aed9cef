"""From the bytes of a case back to its form: the instruction that is judged, and what the other ones leave undefined."""

from iced_x86 import Decoder, Formatter, FormatterSyntax, Instruction, Mnemonic

from .compat import mode_of
from .forms import Form, names
from .pieces import undefined_by_table
from .state import CODE

# Families whose first instruction is what a case is about; in all others it is the last one.
ONE_INSTRUCTION = ("integer", "sse", "x87", "branches")
_formatter = Formatter(FormatterSyntax.INTEL)


def instructions_of(code: bytes) -> list[Instruction]:
    """The instructions of a case; of one that goes to 32-bit or 16-bit code, those behind that."""
    mode = mode_of(code)
    if mode is None:
        return list(Decoder(64, code, ip=CODE))
    return list(Decoder(mode.bits, code[len(mode.prefix) :], ip=mode.entry))


def form_of(family: str, code: bytes) -> Form:
    """The form that a comparison needs, for code of a family."""
    found = instructions_of(code)
    judged = found[0 if family in ONE_INSTRUCTION else -1]
    text = "; ".join(_formatter.format(instruction) for instruction in found)
    return Form(code, judged, names(Mnemonic)[judged.mnemonic].lower(), text)


def undefined_on_the_way(family: str, code: bytes) -> int:
    """Status flags that any instruction of a run leaves undefined; 0 where `compare` knows better, by the operands."""
    if family in ONE_INSTRUCTION:
        return 0
    undefined = 0
    for instruction in instructions_of(code):
        undefined |= undefined_by_table(instruction)
    return undefined
