"""Makes the pieces of docs/example.md: one instruction from its bytes to the block in which it runs, as the code makes them.

`make docs-example` writes them into the page again. Stencils are LLVM's, so their bytes follow from its version and the host's CPU.
"""

import re
from functools import partial
from pathlib import Path

import llvmlite.binding as llvm
from iced_x86 import Decoder, Formatter, FormatterSyntax, Instruction, Register

from trapgate.arch.models import CpuModel
from trapgate.isa.state import LAYOUT
from trapgate.soft.decode.lowering import Lowering
from trapgate.soft.decode.template import Rip, Template
from trapgate.soft.state.codebuffer import CodeBuffer, table_order
from trapgate.stencil.stencil import Stencil
from unit.soft.bench import CODE, Bench, library
from unit.soft.plain import Native

PAGE = Path(__file__).resolve().parents[2] / "docs/example.md"
GUEST = bytes.fromhex("014308 ebfb")  # add [rbx+8], eax; jmp back to it
ADD = GUEST[:3]
NATIVES = table_order(library().entries)
FIELDS = {one.offset: name for name, one in LAYOUT.items()} | {
    LAYOUT["native_table"].offset + 8 * n: f"to {name}" for n, name in enumerate(NATIVES)
}
_FORMATTER = Formatter(FormatterSyntax.NASM)


def pieces() -> dict[str, str]:
    """The text of each piece by its name."""
    mode = Bench("64").st.mode
    lowering = Lowering(library(), CpuModel.parse("EPYC-Turin"))
    builder = lowering.lowered(ADD, mode)
    template = builder.finish()
    _, placed = Native(CodeBuffer(library(), 1 << 20)).placed(GUEST, mode, CODE)
    version = ".".join(map(str, llvm.llvm_version_info))
    return {
        "made by": f"LLVM {version} for {llvm.get_host_cpu_name()}",
        "guest": listing(GUEST, CODE),
        "micro-ops": "\n".join(f"{name:<10}  {_filled(holes)}".rstrip() for name, holes in builder.ops),
        "stencils": "\n\n".join(f"{name}\n{_with_holes(library().stencils[name])}" for name, _ in builder.ops),
        "template": f"{listing(template.code)}\n\n"
        + "\n".join(f"+{one:02x}  cold branch to {name}, which resumes at +{back:02x}" for one, name, back in template.colds),
        "placed": _placed(placed, template),
    }


def listing(code: bytes, start: int = 0, first: int = 0) -> str:
    """Address, bytes and text of each instruction from an offset on; zeros at the end are padding."""
    found = []
    for one in Decoder(64, code[first:], ip=start + first):
        raw = code[one.ip - start : one.ip - start + one.len]
        if not any(code[one.ip - start :]):
            break
        found.append(f"{one.ip:04x}  {raw.hex(' '):<32}{_text(one)}")
    return "\n".join(found)


def _text(one: Instruction) -> str:
    text = re.sub(r"\b0{6,}([0-9A-F]+)h", lambda found: f"{int(found[1], 16):04x}", _FORMATTER.format(one)).replace(" near", "")
    if one.memory_base == Register.R12 and not one.memory_index:  # R12 holds the CPU's state
        text += f"  ; {FIELDS[one.memory_displacement]}"
    return text


def _placed(code: bytes, template: Template) -> str:
    at = code.index(template.code[: template.colds[0][0]])
    end = at + len(template.code)
    return "\n".join(
        (
            f"0000  {code[:8].hex(' '):<32}the block's RIP",
            f"0008  {code[8:16].hex(' ')}",
            listing(code[:at], 0, 16),
            f"{at:04x}  ... the template, {len(template.code)} bytes, with its branches out of line:",
            *(listing(code[: at + one + 4], 0, at + one - 2) for one, _, _ in template.colds),
            listing(code, 0, end),
        )
    )


def _filled(holes: "dict[str, int | Rip | str]") -> str:
    return ", ".join(
        f"{name} = {FIELDS[value] if name[0] == 'R' and isinstance(value, int) else value}" for name, value in holes.items()
    )


def _with_holes(stencil: Stencil) -> str:
    words = [f"{byte:02x}" for byte in stencil.code]
    for hole in stencil.holes:
        words[hole.offset : hole.offset + hole.size] = [f"<{hole.name}"] + [".."] * (hole.size - 2) + ["..>"]
    return "\n".join(" ".join(words[at : at + 24]) for at in range(0, len(words), 24))


def blocks(page: str) -> dict[str, str]:
    """The pieces that a page shows, by name."""
    return {name: text for name, text in re.findall(r"<!-- piece: ([a-z -]+) -->\n```\n(.*?)\n```", page, re.DOTALL)}


def _put(text: str, found: "re.Match[str]") -> str:
    return f"{found[1]}{text}\n{found[2]}"


def main() -> None:
    """Write the pieces into the page."""
    page = PAGE.read_text()
    for name, text in pieces().items():
        page = re.sub(rf"(<!-- piece: {name} -->\n```\n).*?(```)", partial(_put, text), page, flags=re.DOTALL)
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
