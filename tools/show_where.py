"""Write docs/where.md: which instructions run as translated code, which in native functions, and which Python executes, by mode."""

import sys
from collections.abc import Mapping
from pathlib import Path

from iced_x86 import Mnemonic

from trapgate.arch.models import CpuModel
from trapgate.isa import modes
from trapgate.soft.decode.lowering import Lowering
from trapgate.soft.decode.template import Builder
from trapgate.soft.state.instructions import HANDLERS
from trapgate.stencil.cache import Cache
from trapgate.stencil.library import load_library

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from unit.soft.exact.test_reachable import encodings  # noqa: E402

PAGE = ROOT / "docs" / "where.md"
CPL3 = 3 << modes.CPL_SHIFT
FLAT32 = modes.CODE32 | modes.STACK32 | modes.FLAT
# Of each mode: the size of code, and its mode words.
MODES = {
    "64-bit, CPL 0": (64, modes.CODE64 | modes.IOPL),
    "64-bit, CPL 3": (64, modes.CODE64 | CPL3),
    "32-bit, CPL 0": (32, FLAT32 | modes.IOPL),
    "32-bit, CPL 3": (32, FLAT32 | CPL3),
    "real": (16, modes.REAL | modes.IOPL),
    "virtual-8086": (16, modes.REAL | CPL3),
}
MODEL = "EPYC-Turin"
TRANSLATED, PYTHON, FAULT, DEVICE = "translated", "**Python**", "faults", "a device"
NATIVE = "native: "
# Why Python executes what it does, by the room of the handler.
REASONS = {
    "bcd": "decimal arithmetic, which no compiler has emitted for decades",
    "careful": "floating point whose unmasked exception has come",
    "control": "control registers whose change reshapes paging or segments; XSETBV, INVPCID",
    "debugging": "debug registers that arm something",
    "flags": "STAC and CLAC outside of 64-bit code",
    "frames": "ENTER with a nesting level",
    "msr": "MSRs that act, RDPMC",
    "portio": "ports that the I/O bitmap decides; INS and OUTS, which devices answer",
    "random": "RDRAND and RDSEED ask the host",
    "tables": "ARPL",
    "traps": "BOUND; HLT and INT1: an event for the machine",
}
HEAD = """\
# Where each instruction runs

Written by `make where`; not to be edited. *Translated* instructions are micro-ops of a block, the host's own code. *native:
f* means that the native function `f` executes the rest of the instruction, or all of it, and hands to Python what is not
plain: most faults, operands on devices, hits of breakpoints. **Python** executes the others; the last column says why.
*faults* is an exception whatever the operands are, *a device* is answered by the machine. A dash: there is no such encoding.
Where encodings of a mnemonic differ there is more than one word. CPU model: {model}.

"""


def where(builder: Builder) -> str:
    """One word for what an instruction was lowered to."""
    names = [name for name, _ in builder.ops]
    if "python" in names:
        return PYTHON
    if any(name.startswith("port.") for name in names):
        return DEVICE
    functions = [name.rpartition(".")[2] for name in names if name.startswith(("native.", "system.", "load_segment"))]
    functions += ["software_interrupt"] if {"int", "into"} & set(names) else []
    functions += ["retf"] if any(name.startswith("retf.") for name in names) else []
    if functions:
        return NATIVE + functions[0]
    return FAULT if builder.ends and len(names) == 1 and names[0].startswith("raise_") else TRANSLATED


def table() -> dict[str, dict[str, set[str]]]:
    """The words of each mnemonic by mode; of encodings that the model has."""
    lowering, found = Lowering(load_library(Cache()), CpuModel.parse(MODEL)), dict[str, dict[str, set[str]]]()
    names = {value: name for name in dir(Mnemonic) if isinstance(value := getattr(Mnemonic, name), int)}
    for bits, instruction, raw in encodings():
        if instruction.is_invalid:
            continue
        for mode, (size, word) in MODES.items():
            if size == bits:
                words = found.setdefault(names[instruction.mnemonic], {}).setdefault(mode, set())
                words.add(where(lowering.lowered(raw, word)))
    return {name: modes_ for name, modes_ in sorted(found.items()) if set().union(*modes_.values()) - {FAULT}}


def page(found: Mapping[str, Mapping[str, set[str]]]) -> str:
    """The page of a table."""
    plain = [name for name, by_mode in found.items() if set().union(*by_mode.values()) <= {TRANSLATED, FAULT}]
    lines = [f"| instruction | {' | '.join(MODES)} | why Python |", "|---" * (len(MODES) + 2) + "|"]
    for name, by_mode in found.items():
        if name not in plain:
            cells = (", ".join(sorted(by_mode[mode])) if mode in by_mode else "-" for mode in MODES)
            lines.append(f"| {name} | {' | '.join(cells)} | {_why(name, by_mode)} |")
    return (
        HEAD.format(model=MODEL)
        + "\n".join(lines)
        + f"\n\n## Translated in every mode that has them\n\n{len(plain)} instructions: {', '.join(plain)}.\n"
    )


def _why(name: str, by_mode: Mapping[str, set[str]]) -> str:
    if not any(PYTHON in words for words in by_mode.values()):
        return ""
    return REASONS[HANDLERS[getattr(Mnemonic, name)].__module__.rpartition(".")[2]]


def in_python(found: Mapping[str, Mapping[str, set[str]]]) -> set[tuple[str, str]]:
    """(instruction, mode) of all that Python executes from the start."""
    return {(name, mode) for name, by_mode in found.items() for mode, words in by_mode.items() if PYTHON in words}


if __name__ == "__main__":
    PAGE.write_text(page(table()))
