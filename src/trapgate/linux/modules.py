"""Reads what a Linux kernel keeps of a loaded module: its functions' names, and its tables for walks of stacks."""

import struct

from trapgate.errors import TrapgateError
from trapgate.linux.kernel import Kernel, Memory
from trapgate.linux.tasks import Module

MOST_SYMBOLS = 1 << 16
_SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym: name, info, other, section, value, size
_FUNCTION = 2  # STT_FUNC
_LONGEST_NAME = 512


class Loaded:
    """A kernel's modules. Nothing is told of what it does not describe."""

    def __init__(self, kernel: Kernel, memory: Memory) -> None:
        self._types, self._memory = kernel.types, memory

    def function(self, module: Module, address: int) -> tuple[str, int] | None:
        """(name, offset in it) of the function that an address of a module's is in, or behind."""
        try:
            table = self._get(module.address, "module", "kallsyms")
            symbols, strings = (self._get(table, "mod_kallsyms", name) for name in ("symtab", "strtab"))
            count = self._memory.number(table + self._types.offset("mod_kallsyms", "num_symtab"), 4) or 0
        except TrapgateError:
            return None
        data = self._memory.read(symbols, _SYMBOL.size * min(count, MOST_SYMBOLS))
        data = data[: len(data) // _SYMBOL.size * _SYMBOL.size]
        found = [
            (value, name)
            for name, info, _, section, value, _ in _SYMBOL.iter_unpack(data)
            if info & 0xF == _FUNCTION and section and module.start <= value <= address
        ]
        if not found:
            return None
        value, name = max(found)
        return self._memory.text(strings + name, _LONGEST_NAME), address - value

    def orc(self, module: Module) -> tuple[int, int, int] | None:
        """Its tables, as `orc.Orc.add` takes them; None where it has none."""
        try:
            places, entries = (self._get(module.address, "module", f"arch.{name}") for name in ("orc_unwind_ip", "orc_unwind"))
            count = self._memory.number(module.address + self._types.offset("module", "arch.num_orcs"), 4) or 0
        except TrapgateError:
            return None
        return (places, count, entries) if places and entries else None

    def _get(self, address: int, structure: str, path: str) -> int:
        return self._memory.word(address + self._types.offset(structure, path)) or 0
