"""Computes effective addresses and accesses memory: the stencils that stand before and behind every operation on memory.

An access looks the page up in the TLB of its rights (holes `RTLBR`, `RTLBW`, `RTLBA`: tag of readable, of writable pages, addend).
The tag is compared with the page of the *last* byte in the slot of the first: so an access that crosses a page misses, too.
Whatever misses goes out of line, where the access is *performed* (or faults) before the stencil behind it is resumed.
"""

from collections.abc import Iterator
from functools import partial

from trapgate.arch.xstate import LEGACY_BYTES
from trapgate.isa.forms import Form
from trapgate.isa.state import TLB_ENTRIES
from trapgate.isa.vocabulary import Trace, Value

WIDTHS = (8, 16, 32, 64)
LINE = 64
# Operands that bodies reach through HOST; the long ones always go out of line.
REF_SIZES = (1, 2, 4, 6, 8, 10, 16, 28, 108, LEGACY_BYTES)


def ea(m: Trace, base: bool, scale: int, segment: bool, width: int) -> None:
    """EA = [segment base +] (base + index * scale + displacement, cut to the address size)."""
    address = m.hole("Sdisp")
    if scale:
        index = m.get("R1", 64)
        address = address + (index << {1: 0, 2: 1, 4: 2, 8: 3}[scale])
    if base:
        address = address + m.get("R0", 64)
    if width < 64:
        address = address.trunc(width).zext(64)
    if segment:
        address = address + m.get("Rseg", 64)
    m["EA"] = address
    m.jump("NEXT")


def ea_constant(m: Trace, segment: bool) -> None:
    """EA = a constant (RIP-relative or absolute) [+ segment base]."""
    address = m.hole("Qaddress")
    m["EA"] = address + m.get("Rseg", 64) if segment else address
    m.jump("NEXT")


def based(m: Trace) -> None:
    """EA, an offset into FS or GS, becomes linear on AMD's CPUs: #GP(0) where it is not canonical itself (as measured)."""
    offset = m["EA"]
    with m.when((offset << 16).sar(16) != offset, likely=False):
        m.cold("raise_gp0")
    m["EA"] = offset + m.get("Rseg", 64)
    m.jump("NEXT")


def linear32(m: Trace) -> None:
    """An address of 32-bit address size."""
    m["EA"] = m["EA"].trunc(32).zext(64)
    m.jump("NEXT")


def segment_check(m: Trace, write: bool, last: Value | None = None) -> None:
    """Legacy modes: EA is an offset into the segment at `Rseg`; check limit and rights, then make it linear.

    `last`: the size less 1, where it is no constant. Only the plain case is settled here: an expand-up segment whose attribute bit
    17 (may be read) or 18 (may be written) says so.
    """
    offset = m["EA"]
    limit = m.get("Rseglimit", 32).zext(64)
    plain = m.get("Rsegattr", 32).bit(18 if write else 17)
    inside = (offset + (m.hole("Usize", 64) if last is None else last)).ule(limit)
    with m.when(plain & inside, likely=True):
        m["EA"] = (offset + m.get("Rseg", 64)).trunc(32).zext(64)
        m.jump("NEXT")
    check = m.hole("Ucheck", 64)  # which segment, size - 1, write: for the exact check
    m["X"] = check if last is None else check | last << 8
    m.cold("slow_segment")


def probe(m: Trace, address: Value, size: int, write: bool) -> tuple[Value, Value]:
    """(1-bit hit, host address) of an access of `size` bytes."""
    index = (address >> 7) & ((TLB_ENTRIES - 1) << 5)
    page = (address + (size - 1)) & -4096 if size > 1 else address & -4096
    tag = m.get_at("RTLBW" if write else "RTLBR", index, 64)
    return tag == page, address + m.get_at("RTLBA", index, 64)


def load(m: Trace, width: int) -> None:
    """T0 = memory at EA, zero-extended."""
    hit, host = probe(m, m["EA"], width // 8, write=False)
    with m.when(hit, likely=True):
        m["T0"] = m.load(host, width).zext(64)
        m.jump("NEXT")
    m.cold(f"slow_load{width}")


def store(m: Trace, width: int) -> None:
    """Memory at EA = T0."""
    hit, host = probe(m, m["EA"], width // 8, write=True)
    with m.when(hit, likely=True):
        m.store(host, m["T0"].trunc(width))
        m.jump("NEXT")
    m.cold(f"slow_store{width}")


def modify(m: Trace, width: int, locked: bool) -> None:
    """T0 = memory at EA, HOST = its host address, proven writable. A locked access inside a cache line locks no bus."""
    size = width // 8
    hit, host = probe(m, m["EA"], size, write=True)
    if locked and size > 1:
        hit = hit & (m["EA"] & (LINE - 1)).ule(LINE - size)
    with m.when(hit, likely=True):
        m["HOST"] = host
        m["T0"] = m.load(host, width).zext(64)
        m.jump("NEXT")
    m.cold(f"slow_{'lock' if locked else 'modify'}{width}")


def commit(m: Trace, width: int) -> None:
    """Memory at HOST = T0, behind `modify`. HOST is the bounce buffer when the operand lies elsewhere than in one page of RAM."""
    m.store(m["HOST"], m["T0"].trunc(width))
    with m.when(m["HOST"] == m.address_of("bounce"), likely=False):
        m.cold("slow_commit")
    m.jump("NEXT")


def lock_end(m: Trace) -> None:
    """Behind every locked instruction: a bus lock may have left a debug exception to take."""
    with m.when(m.get("pending_debug", 32) != 0, likely=False):
        m.put("next_rip", m.hole("Qnext"))
        m.cold("debug_trap")
    m.jump("NEXT")


def reference_kind(write: bool, read: bool, locked: bool = False, mmx: bool = False, late: bool = False) -> int:
    """What `slow_reference` finds in X above the size (16 bits)."""
    return write << 16 | read << 17 | locked << 18 | mmx << 19 | late << 20


def reference(m: Trace, size: int, write: bool, read: bool, locked: bool = False, mmx: bool = False) -> None:
    """HOST = host address of `size` bytes at EA, for bodies that take their operand there; `commit_reference` follows a write.

    `locked` (CMPXCHG16B, whose operand is aligned and never split): uncached memory locks the bus. `mmx`: a store that enters MMX
    state even where it faults.
    """
    m["X"] = m.const(size | reference_kind(write, read, locked, mmx), 64)
    if size <= 32:
        hit, host = probe(m, m["EA"], size, write)
        with m.when(hit, likely=True):
            m["HOST"] = host
            m.jump("NEXT")
    m.cold("slow_reference")


def commit_reference(m: Trace) -> None:
    """Behind a body that wrote through HOST."""
    with m.when(m["HOST"] == m.address_of("bounce"), likely=False):
        m.cold("slow_commit")
    m.jump("NEXT")


def aligned(m: Trace, size: int) -> None:
    """Operands that must be aligned (MOVAPS and its like): #GP(0) otherwise."""
    with m.when((m["EA"] & (size - 1)) != 0, likely=False):
        m.cold("raise_gp0")
    m.jump("NEXT")


def alignment(m: Trace, size: int) -> None:
    """Before an access at CPL 3 with CR0.AM and RFLAGS.AC set: #AC(0), see `arch.alignment`."""
    address = m["EA"]
    canonical = (address << 16).sar(16) == address  # otherwise the access itself faults
    with m.when(((address & (size - 1)) != 0) & canonical, likely=False):
        m.cold("raise_ac0")
    m.jump("NEXT")


def forms() -> Iterator[Form]:
    """Every stencil of this family."""
    for segment in (False, True):
        yield Form(f"ea.const{'.seg' * segment}", partial(ea_constant, segment=segment))
        for width in (16, 32, 64):
            for base in (False, True):
                for scale in (0, 1, 2, 4, 8):
                    name = f"ea{'.b' * base}{f'.i{scale}' if scale else ''}{'.seg' * segment}.{width}"
                    yield Form(name, partial(ea, base=base, scale=scale, segment=segment, width=width))
    yield Form("EA=cut32", linear32)
    yield Form("based", based)
    for write in (False, True):
        yield Form(f"segment.{'w' if write else 'r'}", partial(segment_check, write=write))
    for width in WIDTHS:
        yield Form(f"load.{width}", partial(load, width=width))
        yield Form(f"store.{width}", partial(store, width=width))
        yield Form(f"modify.{width}", partial(modify, width=width, locked=False))
        yield Form(f"lock.{width}", partial(modify, width=width, locked=True))
        yield Form(f"commit.{width}", partial(commit, width=width))
    yield Form("lock_end", lock_end)
    for size in REF_SIZES:
        yield Form(f"ref.r.{size}", partial(reference, size=size, write=False, read=True))
        yield Form(f"ref.w.{size}", partial(reference, size=size, write=True, read=False))
        yield Form(f"ref.rw.{size}", partial(reference, size=size, write=True, read=True))
    for size in (4, 8):
        yield Form(f"ref.mmx.{size}", partial(reference, size=size, write=True, read=False, mmx=True))
    yield Form("ref.lock.16", partial(reference, size=16, write=True, read=True, locked=True))
    yield Form("commit.ref", commit_reference)
    for size in (2, 4, 8, 16):
        yield Form(f"alignment.{size}", partial(alignment, size=size))
    yield Form("aligned.16", partial(aligned, size=16))
