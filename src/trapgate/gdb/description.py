"""Describes the registers to a debugger: target.xml and the layout of `g` and `p` packets, from the table of registers.

There is a layout for each `Architecture`. gdb takes a description when its feature org.gnu.gdb.i386.core has the registers of the
architecture that gdb has chosen: RAX to RIP for i386:x86-64, EAX to EIP for i386 and i8086 (gdb manual, i386 Features; tried with
gdb 13). A layout for all of them has both. It must have the same bytes whatever gdb chooses: its registers have no pointer types.
Our feature, the system registers, is read register by register and never saved by a call from gdb.
"""

from collections.abc import Iterable, Iterator
from dataclasses import field

from trapgate.arch.registers import AVX, CORE, FEATURES, OURS, SEGMENTS, SSE, TABLE, Group, Register
from trapgate.arch.registers import BY_NAME as BY_VCPU_NAME
from trapgate.gdb.architecture import Architecture
from trapgate.values import dataclass, replace

PC = "pc"
"""What `Target` calls the program counter as debuggers want it: linear, with the base of CS. `rip` is the offset in CS."""

_NARROW = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")  # in the order of gdb's i386 description


def _wide() -> Iterator[Register]:
    """The registers of i386:x86-64."""
    for one in TABLE:
        yield replace(one, name=PC) if one.name == "rip" else one
    yield replace(BY_VCPU_NAME["rip"], feature=OURS, gdb_name="ip", gdb_type="int64")  # as the CPU has it: an offset in CS


def _cut(pointers: bool) -> Iterator[Register]:
    """The general registers of i386."""
    for name in _NARROW:
        kind = "data_ptr" if name in ("rsp", "rbp") and pointers else "int32" if pointers else "uint32"
        yield replace(BY_VCPU_NAME[name], bits=32, gdb_name=f"e{name[1:]}", gdb_bits=32, gdb_type=kind)
    kind = "code_ptr" if pointers else "uint32"
    yield replace(BY_VCPU_NAME["rip"], name=PC, bits=32, gdb_name="eip", gdb_bits=32, gdb_type=kind)


def _narrow() -> Iterator[Register]:
    """The registers of i386 and i8086. Those of the system stay as wide as they are: the CPU may be in any mode."""
    yield from _cut(pointers=True)
    for one in _fixed():
        if one.feature == CORE and one.gdb_bits != 64:
            yield one
    numbers = {f"{stem}{n}{end}" for n in range(8) for stem, end in (("xmm", ""), ("ymm", "h"))}
    yield from (one for one in _fixed() if one.feature in (SSE, AVX) and (one.name == "mxcsr" or one.name in numbers))
    yield from (one for one in _fixed() if one.feature == OURS)


def _all() -> Iterator[Register]:
    """The registers of every architecture."""
    yield from (one for one in _fixed() if one.feature == CORE)
    yield from _cut(pointers=False)
    yield from (one for one in _fixed() if one.feature != CORE)


def _fixed() -> Iterator[Register]:
    """The registers of i386:x86-64 without types that change their size, and without a feature that i386 does not know."""
    for one in _wide():
        wide = one.group is Group.GENERAL and one.gdb_bits == 64
        yield replace(one, feature=OURS if one.feature == SEGMENTS else one.feature, gdb_type="uint64" if wide else one.gdb_type)


@dataclass(frozen=True, slots=True)
class Layout:
    """The registers of one description: the index is a register's number in `p` and `P`."""

    registers: tuple[Register, ...]
    pointers: bool
    """Whether pointers have 64 bits whatever gdb chooses, so that registers may be of that type."""
    in_g: tuple[Register, ...] = field(init=False)
    """The registers that `g` and `G` carry, in order."""
    core: tuple[Register, ...] = field(init=False)
    """Those of the first feature only: what `g` carries for a client with a description of its own, which lists them first, too."""
    expedited: tuple[tuple[int, Register], ...] = field(init=False)
    """Numbers and registers that a stop reply has, which spares gdb a `g` at most stops: frame, stack, program counter."""

    def __post_init__(self) -> None:
        chosen = [(number, one) for number, one in enumerate(self.registers) if one.feature == CORE]
        object.__setattr__(self, "in_g", tuple(one for one in self.registers if one.feature != OURS))
        object.__setattr__(self, "core", tuple(one for _, one in chosen))
        object.__setattr__(self, "expedited", tuple(pair for pair in chosen if pair[1].name in ("rbp", "rsp", PC)))


def _layouts(avx: bool) -> Iterator[tuple[tuple[Architecture, bool], Layout]]:
    def layout(registers: Iterator[Register], pointers: bool = False) -> Layout:
        return Layout(tuple(one for one in registers if avx or one.feature != AVX), pointers)

    yield (Architecture.I8086, avx), layout(_all())
    yield (Architecture.I386, avx), layout(_narrow())
    yield (Architecture.X86_64, avx), layout(_wide(), pointers=True)
    yield (Architecture.ANY, avx), layout(_all())


LAYOUTS: dict[tuple[Architecture, bool], Layout] = dict(pair for avx in (False, True) for pair in _layouts(avx))
"""What each architecture is described by, on a CPU without and with AVX."""

WIDE = LAYOUTS[Architecture.X86_64, False]
"""The layout for a client that asks for no description."""

NUMBERS: dict[str, int] = {one.name: number for number, one in enumerate(WIDE.registers)}
"""The number of a register in `WIDE` by its name in `Target`."""


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
_TYPES_OF = {CORE: ("i386_eflags",), SSE: ("i386_mxcsr",), AVX: (), SEGMENTS: (), OURS: ("cr0", "cr4", "efer", "dr6")}
_ADDRESSES = (
    "cr2",
    "dr0",
    "dr1",
    "dr2",
    "dr3",
    "lstar",
    "cstar",
)  # and every base: shown as pointers are, where those have 64 bits
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


def _type(register: Register, layout: Layout) -> str:
    if register.feature != OURS:
        return register.gdb_type
    if register.name in _FLAGS:
        return register.name
    address = register.name in _ADDRESSES or register.name.endswith("_base")
    return "data_ptr" if address and layout.pointers else register.gdb_type


def _group(register: Register) -> str:
    if register.feature == OURS:
        return ' group="system" save-restore="no"'
    if register.group is Group.X87 and register.gdb_bits == 32:
        return ' group="float"'
    return ' group="vector"' if register.name == "mxcsr" else ""


_ELEMENTS = {
    # Without a file gdb is what is named here. With i386 named it would show 16-bit code as 32-bit after `set architecture i8086`.
    # GNU/Linux, for which many a gdb is built, is no OS ABI of i8086: gdb warns each time that this is chosen.
    Architecture.I8086: "<architecture>i8086</architecture><osabi>none</osabi>",
    Architecture.I386: "",
    Architecture.X86_64: "<architecture>i386:x86-64</architecture>",
    Architecture.ANY: "<osabi>none</osabi>",
}


def target_xml(architecture: Architecture, avx: bool = False, named: bool = False) -> bytes:
    """The target description of an architecture, with every register of its layout.

    `avx`: the CPU has the upper halves of YMM registers. With `named` it tells its architecture in any case, for debuggers that
    know no default.
    """
    layout = LAYOUTS[architecture, avx]
    lines = ['<?xml version="1.0"?>', '<!DOCTYPE target SYSTEM "gdb-target.dtd">', '<target version="1.0">']
    lines.append("<architecture>i386</architecture>" if named and architecture is Architecture.I386 else _ELEMENTS[architecture])
    for feature in FEATURES:
        registers = [(number, one) for number, one in enumerate(layout.registers) if one.feature == feature]
        if not registers:
            continue
        lines.append(f'<feature name="{feature}">')
        for name in _TYPES_OF[feature]:
            lines.extend(_flags(name))
        if feature == SSE:
            lines.extend(_vectors())
        for number, register in registers:
            what = f'name="{register.gdb_name}" bitsize="{register.gdb_bits}" type="{_type(register, layout)}" regnum="{number}"'
            lines.append(f"<reg {what}{_group(register)}/>")
        lines.append("</feature>")
    lines.append("</target>")
    return "\n".join(line for line in lines if line).encode()
