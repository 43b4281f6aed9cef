"""The registers as gdb is told of them: target.xml and the layout of `g` and `p` packets, from the table of registers.

gdb's own features are the same whatever mode the guest is in, as the real machine's registers are (gdb manual, i386 Features).
Our feature, the system registers, is read register by register and never saved by a call from gdb.
"""

from collections.abc import Iterable

from trapgate.arch.registers import CORE, FEATURES, OURS, SEGMENTS, SSE, TABLE, Group, Register

REGISTERS: tuple[Register, ...] = TABLE
"""Every register; the index is its number in `p` and `P`."""

BY_NAME: dict[str, int] = {register.name: number for number, register in enumerate(REGISTERS)}
"""The number of a register by its vCPU name."""

IN_G: tuple[Register, ...] = tuple(register for register in REGISTERS if register.feature != OURS)
"""The registers that `g` and `G` carry, in order."""


def size(register: Register) -> int:
    """Bytes of a register on the wire, where all are little-endian."""
    return register.gdb_bits // 8


# Bits by their names in the SDM: RFLAGS vol. 1, 3.4.3; MXCSR vol. 1, 10.2.3; CR0, CR4 vol. 3, 2.5; EFER 2.2.1; DR6 18.2.3;
# its bits 11 and 16 are active low, so the names say what a 1 means.
_FLAGS: dict[str, tuple[int, str]] = {
    "i386_eflags": (4, "CF 1= PF 3= AF 5= ZF SF TF IF DF OF IOPL:12-13 NT:14 15= RF VM AC VIF VIP ID"),
    "i386_mxcsr": (4, "IE DE ZE OE UE PE DAZ IM DM ZM OM UM PM RC:13-14 FZ:15"),
    "cr0": (8, "PE MP EM TS ET NE WP:16 AM:18 NW:29 CD PG"),
    "cr4": (
        8,
        "VME PVI TSD DE PSE PAE MCE PGE PCE OSFXSR OSXMMEXCPT UMIP LA57 VMXE SMXE FSGSBASE:16 PCIDE OSXSAVE SMEP:20 "
        "SMAP PKE CET PKS",
    ),
    "efer": (8, "SCE LME:8 LMA:10 NXE SVME LMSLE FFXSR TCE"),
    "dr6": (8, "B0 B1 B2 B3 noBLD:11 BD:13 BS BT noRTM"),
}
_TYPES_OF = {CORE: ("i386_eflags",), SSE: ("i386_mxcsr",), SEGMENTS: (), OURS: ("cr0", "cr4", "efer", "dr6")}
_ADDRESSES = ("cr2", "dr0", "dr1", "dr2", "dr3", "lstar", "cstar")  # and every base: shown as pointers are
_VECTORS = (  # the members of vec128: name, element type, count
    ("v4_float", "ieee_single", 4),
    ("v2_double", "ieee_double", 2),
    ("v16_int8", "int8", 16),
    ("v8_int16", "int16", 8),
    ("v4_int32", "int32", 4),
    ("v2_int64", "int64", 2),
)


def _flags(name: str) -> Iterable[str]:
    size, fields = _FLAGS[name]
    yield f'<flags id="{name}" size="{size}">'
    bit = 0
    for item in fields.split():
        if item.endswith("="):  # a reserved bit: gdb shows it without a name
            label, bit, end = "", int(item[:-1]), int(item[:-1])
        else:
            label, _, place = item.partition(":")
            bit = int(place.split("-")[0]) if place else bit
            end = int(place.split("-")[1]) if "-" in place else bit
        kind = ' type="uint32"' if end > bit else ""
        yield f'<field name="{label}" start="{bit}" end="{end}"{kind}/>'
        bit = end + 1
    yield "</flags>"


def _vectors() -> Iterable[str]:
    for name, element, count in _VECTORS:
        yield f'<vector id="{name}" type="{element}" count="{count}"/>'
    yield '<union id="vec128">'
    yield from (f'<field name="{name}" type="{name}"/>' for name, _, _ in _VECTORS)
    yield '<field name="uint128" type="uint128"/></union>'


def _type(register: Register) -> str:
    if register.feature != OURS:
        return register.gdb_type
    if register.name in _FLAGS:
        return register.name
    return "data_ptr" if register.name in _ADDRESSES or register.name.endswith("_base") else register.gdb_type


def _group(register: Register) -> str:
    if register.feature == OURS:
        return ' group="system" save-restore="no"'
    if register.group is Group.X87 and register.gdb_bits == 32:
        return ' group="float"'
    return ' group="vector"' if register.name == "mxcsr" else ""


def target_xml() -> bytes:
    """The target description: gdb's architecture i386:x86-64 with every register of `REGISTERS`."""
    lines = ['<?xml version="1.0"?>', '<!DOCTYPE target SYSTEM "gdb-target.dtd">', '<target version="1.0">']
    lines.append("<architecture>i386:x86-64</architecture>")
    for feature in FEATURES:
        lines.append(f'<feature name="{feature}">')
        for name in _TYPES_OF[feature]:
            lines.extend(_flags(name))
        if feature == SSE:
            lines.extend(_vectors())
        for number, register in enumerate(REGISTERS):
            if register.feature == feature:
                what = f'name="{register.gdb_name}" bitsize="{register.gdb_bits}" type="{_type(register)}" regnum="{number}"'
                lines.append(f"<reg {what}{_group(register)}/>")
        lines.append("</feature>")
    lines.append("</target>")
    return "\n".join(lines).encode()
