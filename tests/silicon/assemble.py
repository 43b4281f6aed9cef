"""Assembly text (Intel syntax) to machine code, through LLVM's assembler."""

import io

import llvmlite.binding as llvm
from elftools.elf.elffile import ELFFile

_ready = False


class AssemblyError(Exception):
    """LLVM's assembler refused the text, or it refers to a symbol that is not in it."""


def assemble(text: str) -> bytes:
    """Position-independent machine code for the text; AssemblyError when it does not stand alone."""
    global _ready
    if not _ready:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        llvm.initialize_native_asmparser()
        _ready = True
    lines = (line.partition(";")[0].strip() for line in text.splitlines())
    body = "\n".join(f'module asm "{line}"' for line in [".intel_syntax noprefix", *filter(None, lines), ".att_syntax"])
    target = llvm.Target.from_triple("x86_64-unknown-linux-gnu")
    try:
        image = target.create_target_machine().emit_object(llvm.parse_assembly(body))
    except RuntimeError as error:
        raise AssemblyError(str(error)) from error
    elf = ELFFile(io.BytesIO(image))
    if elf.get_section_by_name(".rela.text") is not None:
        raise AssemblyError("the text refers to symbols outside itself")
    section = elf.get_section_by_name(".text")
    assert section is not None
    return bytes(section.data())
