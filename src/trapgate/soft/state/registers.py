"""Says where iced-x86's registers lie in the CPU state."""

from iced_x86 import Register

from trapgate.isa.state import GENERAL as NAMES
from trapgate.isa.state import LAYOUT

_BY_WIDTH = {
    64: ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", *(f"R{n}" for n in range(8, 16))],
    32: ["EAX", "ECX", "EDX", "EBX", "ESP", "EBP", "ESI", "EDI", *(f"R{n}D" for n in range(8, 16))],
    16: ["AX", "CX", "DX", "BX", "SP", "BP", "SI", "DI", *(f"R{n}W" for n in range(8, 16))],
    8: ["AL", "CL", "DL", "BL", "SPL", "BPL", "SIL", "DIL", *(f"R{n}L" for n in range(8, 16))],
}
GENERAL: dict[int, tuple[int, int]] = {  # register: (offset of its low byte, bits)
    getattr(Register, name): (LAYOUT[NAMES[n]].offset, width) for width, names in _BY_WIDTH.items() for n, name in enumerate(names)
}
GENERAL |= {getattr(Register, name): (LAYOUT[NAMES[n]].offset + 1, 8) for n, name in enumerate(["AH", "CH", "DH", "BH"])}
SEGMENT_NAME = {getattr(Register, name.upper()): name for name in ("es", "cs", "ss", "ds", "fs", "gs")}
RSP_FAMILY = tuple(getattr(Register, name) for name in ("RSP", "ESP", "SP"))
