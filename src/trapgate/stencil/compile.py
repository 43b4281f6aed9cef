"""Makes LLVM turn a module of lowered bodies into machine code: each section a `Stencil`, its relocations the holes."""

import io
import sys
from types import ModuleType

from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from trapgate.stencil.stencil import Hole, Stencil

# llvmlite's execution engine makes two callbacks when it is imported, for which Python's ctypes takes a page that may be written
# and executed at once. We only want object files of LLVM, and no such page.
sys.modules.setdefault("llvmlite.binding.executionengine", ModuleType("llvmlite.binding.executionengine"))
import llvmlite.binding as llvm  # noqa: E402

R_X86_64_64, R_X86_64_PC32, R_X86_64_PLT32, R_X86_64_32, R_X86_64_32S, R_X86_64_16, R_X86_64_8 = 1, 2, 4, 10, 11, 12, 14
SIZES = {R_X86_64_64: 8, R_X86_64_PC32: 4, R_X86_64_PLT32: 4, R_X86_64_32: 4, R_X86_64_32S: 4, R_X86_64_16: 2, R_X86_64_8: 1}
RELATIVE = (R_X86_64_PC32, R_X86_64_PLT32)


class Compiler:
    """One LLVM target machine, for the host CPU (without AVX-512: short code and no clock penalty)."""

    def __init__(self, position_independent: bool = False) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        llvm.initialize_native_asmparser()
        self._machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(),
            features=_features(),
            opt=2,
            reloc="pic" if position_independent else "static",
            codemodel="small",
        )

    def compile(self, text: str) -> dict[str, Stencil]:
        """Every function of an LLVM IR module by its name, as code with holes; constants it needs follow as `.rodata` stencils."""
        module = llvm.parse_assembly(text)
        module.verify()
        passes = llvm.create_pass_builder(self._machine, llvm.create_pipeline_tuning_options(speed_level=2))
        passes.getModulePassManager().run(module, passes)
        return _read_object(self._machine.emit_object(module))


def _features() -> str:
    """What the code may not use. A CPU's name says what silicon of its kind has, of which a hypervisor may have taken some away."""
    lacked = (name for name, there in llvm.get_host_cpu_features().items() if not there)
    return ",".join(f"-{name}" for name in (*sorted(lacked), "avx512f", "vzeroupper"))


def _read_object(data: bytes) -> dict[str, Stencil]:
    elf = ELFFile(io.BytesIO(data))
    symbols = elf.get_section_by_name(".symtab")
    assert isinstance(symbols, SymbolTableSection)
    holes: dict[str, list[Hole]] = {}
    for section in elf.iter_sections():
        if not isinstance(section, RelocationSection) or not section.name.startswith((".rela.text.", ".rela.rodata")):
            continue
        found = holes.setdefault(section.name.removeprefix(".rela"), [])
        for entry in section.iter_relocations():
            kind = entry["r_info_type"]
            symbol = symbols.get_symbol(entry["r_info_sym"])
            name, addend = symbol.name, entry["r_addend"]
            if isinstance(symbol["st_shndx"], int):  # defined here: name the section, which is what gets a place
                name, addend = elf.get_section(symbol["st_shndx"]).name, addend + symbol["st_value"]
            found.append(Hole(entry["r_offset"], SIZES[kind], kind in RELATIVE, name.removeprefix(".text."), addend))
    stencils = {}
    for section in elf.iter_sections():
        if section.name.startswith((".text.", ".rodata")) and section.data_size:
            name = section.name.removeprefix(".text.")
            stencils[name] = Stencil(section.data(), tuple(holes.get(section.name, ())))
    return stencils
