"""The registers as gdb is told of them: one list, from which target.xml and the layout of `g` and `p` packets follow.

The first four groups are gdb's own features for x86-64 in its own order (gdb manual, i386 Features); they are the same whatever
mode the guest is in, as the real machine's registers are. The `system` group is ours: read one by one, never saved by a call.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr


@dataclass(frozen=True, slots=True)
class Register:
    """One register on the wire: little-endian, `bits` wide. `name` is the vCPU's, `label` what gdb shows."""

    name: str
    bits: int
    type: str
    feature: str
    label: str
    group: str = ""

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return self.bits // 8


_CORE = "org.gnu.gdb.i386.core"
_SSE = "org.gnu.gdb.i386.sse"
_SEGMENTS = "org.gnu.gdb.i386.segments"
_SYSTEM = "org.trapgate.i386.system"

_GENERAL = "rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15"
_SYSTEM_64 = (
    "cr0:cr0 cr2:data_ptr cr3:int64 cr4:cr4 cr8:int64 efer:efer "
    "dr0:data_ptr dr1:data_ptr dr2:data_ptr dr3:data_ptr dr6:dr6 dr7:int64 "
    "cs_base:data_ptr ss_base:data_ptr ds_base:data_ptr es_base:data_ptr k_gs_base:data_ptr gdt_base:data_ptr idt_base:data_ptr"
)


def _registers() -> Iterable[Register]:
    for name in _GENERAL.split():
        yield Register(name, 64, "data_ptr" if name in ("rbp", "rsp") else "int64", _CORE, name)
    yield Register("rip", 64, "code_ptr", _CORE, "rip")
    yield Register("rflags", 32, "i386_eflags", _CORE, "eflags")
    for name in ("cs", "ss", "ds", "es", "fs", "gs"):
        yield Register(name, 32, "int32", _CORE, name)
    for number in range(8):
        yield Register(f"st{number}", 80, "i387_ext", _CORE, f"st{number}")
    for name in ("fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop"):
        yield Register(name, 32, "int32", _CORE, name, "float")
    for number in range(16):
        yield Register(f"xmm{number}", 128, "vec128", _SSE, f"xmm{number}")
    yield Register("mxcsr", 32, "i386_mxcsr", _SSE, "mxcsr", "vector")
    for name in ("fs_base", "gs_base"):
        yield Register(name, 64, "int64", _SEGMENTS, name)
    for item in _SYSTEM_64.split():
        name, kind = item.split(":")
        yield Register(name, 64, kind, _SYSTEM, name, "system")
    for name in ("gdt_limit", "idt_limit", "ldtr", "tr"):
        yield Register(name, 32, "int32", _SYSTEM, name, "system")


REGISTERS: tuple[Register, ...] = tuple(_registers())
"""Every register; the index is its number in `p` and `P`."""

BY_NAME: dict[str, int] = {register.name: number for number, register in enumerate(REGISTERS)}
"""The number of a register by its vCPU name."""

IN_G: tuple[Register, ...] = tuple(register for register in REGISTERS if register.feature != _SYSTEM)
"""The registers that `g` and `G` carry, in order."""

G_SIZE = sum(register.size for register in IN_G)
"""Bytes of a `g` reply, before hex."""

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
_TYPES_OF = {_CORE: ("i386_eflags",), _SSE: ("i386_mxcsr",), _SEGMENTS: (), _SYSTEM: ("cr0", "cr4", "efer", "dr6")}
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


def target_xml() -> bytes:
    """The target description: gdb's architecture i386:x86-64 with every register of `REGISTERS`."""
    lines = ['<?xml version="1.0"?>', '<!DOCTYPE target SYSTEM "gdb-target.dtd">', '<target version="1.0">']
    lines.append("<architecture>i386:x86-64</architecture>")
    for feature, types in _TYPES_OF.items():
        lines.append(f"<feature name={quoteattr(feature)}>")
        for name in types:
            lines.extend(_flags(name))
        if feature == _SSE:
            lines.extend(_vectors())
        for number, register in enumerate(REGISTERS):
            if register.feature == feature:
                group = f' group="{register.group}"' if register.group else ""
                save = ' save-restore="no"' if feature == _SYSTEM else ""
                what = f'name="{register.label}" bitsize="{register.bits}" type="{register.type}" regnum="{number}"'
                lines.append(f"<reg {what}{group}{save}/>")
        lines.append("</feature>")
    lines.append("</target>")
    return "\n".join(lines).encode()
