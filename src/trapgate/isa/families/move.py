"""Moves, extends, sets and exchanges, by condition or without, LEA too; and moves between registers and transients."""

from collections.abc import Iterator
from functools import partial

from trapgate.arch.control import CR4_FSGSBASE
from trapgate.isa import flags
from trapgate.isa.forms import Form
from trapgate.isa.operands import fetch, store
from trapgate.isa.vocabulary import Trace

WIDTHS = (8, 16, 32, 64)


def mov(m: Trace, kinds: str, width: int) -> None:
    """MOV between registers, immediates and T0 (a memory operand already loaded or yet to be stored)."""
    store(m, kinds[0], 0, fetch(m, kinds[1], 1, width))
    m.jump("NEXT")


def mov_wide(m: Trace, to_register: bool) -> None:
    """R0 (or T0) = a 64-bit constant."""
    store(m, "R" if to_register else "T", 0, m.hole("Qimm"))
    m.jump("NEXT")


def transfer(m: Trace, destination: str, source: str) -> None:
    """One transient to another."""
    m[destination] = m[source]
    m.jump("NEXT")


def extend(m: Trace, signed: bool, kind: str, narrow: int, wide: int) -> None:
    """MOVZX, MOVSX, MOVSXD."""
    value = fetch(m, kind, 1, narrow)
    store(m, "R", 0, value.sext(wide) if signed else value.zext(wide))
    m.jump("NEXT")


def widen_accumulator(m: Trace, width: int) -> None:
    """CBW, CWDE, CDQE: the lower half of (R)AX sign-extended."""
    store(m, "R", 0, m.get("R0", width // 2).sext(width))
    m.jump("NEXT")


def sign_to_rdx(m: Trace, width: int) -> None:
    """CWD, CDQ, CQO: (R)DX = copies of (R)AX's sign."""
    store(m, "R", 0, m.get("rax", width).sar(width - 1))
    m.jump("NEXT")


def conditional_move(m: Trace, code: int, kind: str, width: int) -> None:
    """CMOVcc. A 32-bit destination loses its upper half whether or not the condition holds."""
    store(m, "R", 0, flags.condition(m, code).select(fetch(m, kind, 1, width), m.get("R0", width)))
    m.jump("NEXT")


def set_byte(m: Trace, code: int, kind: str) -> None:
    """SETcc."""
    store(m, kind, 0, flags.condition(m, code).zext(8))
    m.jump("NEXT")


def exchange(m: Trace, width: int) -> None:
    """XCHG of two registers."""
    a, b = m.get("R0", width), m.get("R1", width)
    store(m, "R", 0, b)
    store(m, "R", 1, a)
    m.jump("NEXT")


def exchange_memory(m: Trace, width: int) -> None:
    """XCHG with memory: T1 = T0, T0 = R1; the register follows when the store is done."""
    m["T1"] = m["T0"]
    m["T0"] = m.get("R1", width).zext(64)
    m.jump("NEXT")


def lea(m: Trace, width: int) -> None:
    """LEA: the register gets EA."""
    store(m, "R", 0, m["EA"].trunc(width))
    m.jump("NEXT")


def xlat_address(m: Trace, width: int, segment: bool) -> None:
    """EA = [segment base +] (rBX + AL, cut to the address size): where XLAT looks."""
    address = (m.get("rbx", 64) + m.get("rax", 8).zext(64)).trunc(width).zext(64)
    m["EA"] = address + m.get("Rseg", 64) if segment else address
    m.jump("NEXT")


def segment_base(m: Trace, write: bool, width: int) -> None:
    """RDFSBASE, WRFSBASE and their like: #UD without CR4.FSGSBASE, #GP(0) for a base that is not canonical (SDM vol. 2)."""
    with m.when((m.get("cr4", 64) & CR4_FSGSBASE) == 0, likely=False):
        m.cold("raise_ud")
    if write:
        base = m.get("R0", width).zext(64)
        with m.when((base << 16).sar(16) != base, likely=False):
            m.cold("raise_gp0")
        m.put("Rseg", base)
    else:
        store(m, "R", 0, m.get("Rseg", width))
    m.jump("NEXT")


def forms() -> Iterator[Form]:
    """Every stencil of this family."""
    for width in WIDTHS:
        for kinds in ("RR", "RI", "RT", "TR", "TI"):
            yield Form(f"mov.{kinds}.{width}", partial(mov, kinds=kinds, width=width))
        yield Form(f"xchg.RR.{width}", partial(exchange, width=width))
        yield Form(f"xchg.T.{width}", partial(exchange_memory, width=width))
        if width > 8:
            yield Form(f"lea.{width}", partial(lea, width=width))
            yield Form(f"widen.{width}", partial(widen_accumulator, width=width))
            yield Form(f"sign_to_rdx.{width}", partial(sign_to_rdx, width=width))
        for kind in "RT":
            for narrow in (8, 16, 32):
                for signed in (False, True):
                    if narrow < width:
                        name = f"mov{'s' if signed else 'z'}x.{kind}.{narrow}.{width}"
                        yield Form(name, partial(extend, signed=signed, kind=kind, narrow=narrow, wide=width))
            for code, name in enumerate(flags.CONDITIONS):
                if width > 8:
                    yield Form(f"cmov{name}.{kind}.{width}", partial(conditional_move, code=code, kind=kind, width=width))
                else:
                    yield Form(f"set{name}.{kind}", partial(set_byte, code=code, kind=kind))
    for width in (16, 32, 64):
        for segment in (False, True):
            yield Form(f"xlat_ea{'.seg' * segment}.{width}", partial(xlat_address, width=width, segment=segment))
    for width in (32, 64):
        for write in (False, True):
            yield Form(f"base.{'write' if write else 'read'}.{width}", partial(segment_base, write=write, width=width))
    yield Form("mov.RQ", partial(mov_wide, to_register=True))
    yield Form("mov.TQ", partial(mov_wide, to_register=False))
    for destination, source in (("T1", "T0"), ("T0", "T1"), ("T2", "T0"), ("T0", "T2"), ("T0", "EA"), ("T2", "EA"), ("EA", "T2")):
        yield Form(f"{destination}={source}", partial(transfer, destination=destination, source=source))
