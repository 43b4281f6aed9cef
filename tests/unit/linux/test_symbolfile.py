"""The file of symbols, read back by an ELF library."""

import io

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from trapgate.linux.kallsyms import KernelSymbol
from trapgate.linux.symbolfile import symbol_file

SYMBOLS = [
    KernelSymbol(0x10, "Apcpu_hot"),
    KernelSymbol(0xFFFFFFFF81000000, "T_text"),
    KernelSymbol(0xFFFFFFFF81000000, "T_stext"),
    KernelSymbol(0xFFFFFFFF81000040, "thelper.constprop.0"),
    KernelSymbol(0xFFFFFFFF82000000, "Dinit_task"),
    KernelSymbol(0xFFFFFFFF83000000, "B_end"),
]


def test_names_places_and_kinds() -> None:
    elf = ELFFile(io.BytesIO(symbol_file(SYMBOLS)))
    assert (elf["e_machine"], elf["e_type"], elf["e_entry"]) == ("EM_X86_64", "ET_EXEC", SYMBOLS[1].address)
    table = elf.get_section_by_name(".symtab")
    assert isinstance(table, SymbolTableSection)
    found = {one.name: one.entry for one in table.iter_symbols() if one.name}
    assert set(found) == {"_text", "_stext", "helper.constprop.0", "init_task", "_end"}
    assert found["_text"]["st_value"] == SYMBOLS[1].address and found["_text"]["st_size"] == 0x40
    assert found["helper.constprop.0"]["st_info"] == {"bind": "STB_LOCAL", "type": "STT_FUNC"}
    assert found["init_task"]["st_info"] == {"bind": "STB_GLOBAL", "type": "STT_OBJECT"}
    names = {number: section.name for number, section in enumerate(elf.iter_sections())}
    assert (names[found["_stext"]["st_shndx"]], names[found["_end"]["st_shndx"]]) == (".text", ".data")
    binds = [one["st_info"]["bind"] for one in table.iter_symbols()]
    assert binds[: table["sh_info"]] == ["STB_LOCAL"] * table["sh_info"] and set(binds[table["sh_info"] :]) == {"STB_GLOBAL"}


def test_a_file_of_32_bits() -> None:
    narrow = [KernelSymbol(0xC1000000, "T_text"), KernelSymbol(0xC1000040, "thelper"), KernelSymbol(0xC1200000, "Dinit_task")]
    elf = ELFFile(io.BytesIO(symbol_file(narrow, 4)))
    assert (elf.elfclass, elf["e_machine"], elf["e_entry"]) == (32, "EM_386", 0xC1000000)
    table = elf.get_section_by_name(".symtab")
    assert isinstance(table, SymbolTableSection)
    found = {one.name: (one["st_value"], one["st_size"], one["st_info"]["type"]) for one in table.iter_symbols() if one.name}
    assert found == {
        "_text": (0xC1000000, 0x40, "STT_FUNC"),
        "helper": (0xC1000040, 0x1FFFC0, "STT_FUNC"),
        "init_task": (0xC1200000, 1, "STT_OBJECT"),
    }


def test_nothing_of_it_is_taken_for_memory() -> None:
    elf = ELFFile(io.BytesIO(symbol_file(SYMBOLS)))
    assert elf.num_segments() == 0
    for name in (".text", ".data"):
        section = elf.get_section_by_name(name)
        assert section is not None
        assert section["sh_type"] == "SHT_NOBITS" and section["sh_addr"] == SYMBOLS[1].address
