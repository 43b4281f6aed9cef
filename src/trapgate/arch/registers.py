"""Holds THE table of registers: every name that `Vcpu.get` and `set` understand, its width, its group, and how gdb knows it.

gdb's features and the order inside them are those of its x86-64 target descriptions (gdb manual, "i386 Features"); what gdb has no
feature for goes into one of our own, where `info registers system` and friends find it.
"""

from collections.abc import Iterator
from enum import Enum

from trapgate.arch import xstate
from trapgate.values import dataclass


class Group(Enum):
    """What kind of register; also the name of gdb's register group for those that gdb does not know by itself."""

    GENERAL = "general"
    SEGMENT = "segment"
    CONTROL = "control"
    DEBUG = "debug"
    X87 = "x87"
    SSE = "sse"
    SYSTEM = "system"


CORE = "org.gnu.gdb.i386.core"
SSE = "org.gnu.gdb.i386.sse"
AVX = "org.gnu.gdb.i386.avx"
SEGMENTS = "org.gnu.gdb.i386.segments"
OURS = "org.trapgate.system"


@dataclass(frozen=True, slots=True)
class Register:
    """One register. `bits`: its own width. `gdb_bits`, `gdb_type`: how gdb transfers (zero-padded) and shows it."""

    name: str
    bits: int
    group: Group
    feature: str
    gdb_name: str
    gdb_bits: int
    gdb_type: str

    @property
    def mask(self) -> int:
        """All ones in the register's width."""
        return (1 << self.bits) - 1


def _general() -> Iterator[Register]:
    for name in ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16))):
        yield Register(name, 64, Group.GENERAL, CORE, name, 64, "data_ptr" if name in ("rbp", "rsp") else "int64")
    yield Register("rip", 64, Group.GENERAL, CORE, "rip", 64, "code_ptr")
    yield Register("rflags", 64, Group.GENERAL, CORE, "eflags", 32, "i386_eflags")


def _x87() -> Iterator[Register]:
    for n in range(8):
        yield Register(f"st{n}", 80, Group.X87, CORE, f"st{n}", 80, "i387_ext")
    # fiseg and foseg are 16 bits, fioff and fooff are pointers of 64 bits; gdb takes 32 of each.
    widths = {"fctrl": 16, "fstat": 16, "ftag": 16, "fiseg": 16, "fioff": 64, "foseg": 16, "fooff": 64, "fop": 11}
    for name, bits in widths.items():
        yield Register(name, bits, Group.X87, CORE, name, 32, "int")


def _sse() -> Iterator[Register]:
    for name, place in xstate.SSE.registers.items():
        yield Register(name, 8 * place.size, Group.SSE, SSE, name, 8 * place.size, "vec128")
    yield Register("mxcsr", 32, Group.SSE, SSE, "mxcsr", 32, "i386_mxcsr")


def _avx() -> Iterator[Register]:
    """What is above XMM0-XMM15, on CPUs with AVX: gdb makes YMM0-YMM15 of both."""
    for name, place in xstate.AVX.registers.items():
        yield Register(name, 8 * place.size, Group.SSE, AVX, name, 8 * place.size, "uint128")


def _ours() -> Iterator[Register]:
    def one(name: str, bits: int, group: Group) -> Register:
        return Register(name, bits, group, OURS, name, 32 if bits <= 32 else 64, "int32" if bits <= 32 else "int64")

    for name in ("cs_base", "ss_base", "ds_base", "es_base"):
        yield one(name, 64, Group.SEGMENT)
    for name in ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "xcr0"):
        yield one(name, 64, Group.CONTROL)
    for n in (0, 1, 2, 3, 6, 7):
        yield one(f"dr{n}", 64, Group.DEBUG)
    for name, bits in (("gdt_base", 64), ("gdt_limit", 16), ("idt_base", 64), ("idt_limit", 16), ("ldtr", 16), ("tr", 16)):
        yield one(name, bits, Group.SYSTEM)
    for name in ("k_gs_base", "star", "lstar", "cstar", "sfmask", "tsc"):
        yield one(name, 64, Group.SYSTEM)
    yield one("cs_attributes", 16, Group.SEGMENT)  # descriptor bits 55:40 of the hidden part, where D and L say what code runs


TABLE: tuple[Register, ...] = (
    *_general(),
    *(Register(name, 16, Group.SEGMENT, CORE, name, 32, "int32") for name in ("cs", "ss", "ds", "es", "fs", "gs")),
    *_x87(),
    *_sse(),
    *_avx(),
    *(Register(name, 64, Group.SEGMENT, SEGMENTS, name, 64, "int64") for name in ("fs_base", "gs_base")),
    *_ours(),
)  # in gdb's order: the position is the register number of the remote protocol

BY_NAME: dict[str, Register] = {register.name: register for register in TABLE}
FEATURES = (CORE, SSE, AVX, SEGMENTS, OURS)

# By the number that instructions encode (ModRM and REX; SDM vol. 2, Table 2-2 and 3.1.1.1).
ENCODING = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
SEGMENT_ENCODING = ("es", "cs", "ss", "ds", "fs", "gs")


def register(name: str) -> Register:
    """The register of this name; KeyError says which name is unknown."""
    try:
        return BY_NAME[name]
    except KeyError:
        raise KeyError(f"no register is called {name!r}") from None


def of_feature(feature: str) -> tuple[Register, ...]:
    """The registers of one gdb feature, in order."""
    return tuple(one for one in TABLE if one.feature == feature)
