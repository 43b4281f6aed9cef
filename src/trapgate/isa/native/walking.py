"""Walks the page tables of all modes with paging, and does without (SDM vol. 3, chapter 5; APM vol. 2, chapter 5).

`walk` translates one guest-virtual address and sets accessed and dirty bits. It leaves `walk_rights` and `walk_entry`, or a #PF or
#GP prepared. A debugger's peek looks at no rights, and changes nothing.
"""

from trapgate.arch import vectors
from trapgate.arch.control import CR0_CD, CR0_PG, CR0_WP, CR4_PAE, CR4_PGE, CR4_PSE, CR4_SMAP, CR4_SMEP, EFER_LMA, EFER_NXE
from trapgate.arch.layout import MIRROR_BASE, MIRROR_LENGTH, MIRRORED_BASE
from trapgate.arch.paging import ERROR_I, ERROR_P, ERROR_RSVD, NX, PS, RW, US, A, D, G, P, bits
from trapgate.isa import state as s
from trapgate.isa.native.memtypes import mtrr_uncached, pat_uncached
from trapgate.isa.native.mode import has
from trapgate.isa.vocabulary import Trace, Value, Variable
from trapgate.values import dataclass

NOWHERE = (1 << 64) - 1
PAGE_4K, PAGE_2M, PAGE_4M, PAGE_1G, TOP_LONG = (
    12,
    21,
    22,
    30,
    39,
)  # the shift of a level: log2 of what its entries cover
PDPTE_RESERVED = bits(1, 2) | bits(5, 8)  # of PAE, besides address bits and NX
PSE36 = bits(13, 20)  # address bits 39:32 of a 4 MiB page
PSE36_UP = 32 - 13


@dataclass(frozen=True, slots=True)
class _Tables:
    """How the tables of the running mode are read; 1-bit values, which exclude each other's other half."""

    long: Value  # four levels
    wide: Value  # entries of 8 bytes: long mode and PAE

    def address(self, entry: Value) -> Value:
        """The address in an entry, cut to what the CPU has."""
        m = entry.trace
        return self.wide.select(entry & m.get("physical_mask", 64) & ~m.const(0xFFF, 64), entry & 0xFFFFF000)

    def is_top(self, shift: Value) -> Value:
        """1-bit: a PDPTE of PAE, which has no rights, and was checked when CR3 was loaded."""
        return self.wide & ~self.long & (shift == PAGE_1G)


@dataclass(frozen=True, slots=True)
class _Leaf:
    """Where a walk has ended: the entry, its guest-physical place, the level's shift, RW, US and NX of all levels together."""

    entry: Value
    place: Value
    shift: Value
    rights: Value


def in_ram(m: Trace, physical: Value, size: int) -> Value:
    """1-bit: all of [physical, physical + size) is RAM."""
    last = physical + size
    low = last.ule(m.get("ram_low_end", 64))
    high = physical.uge(1 << 32) & last.ule(m.get("ram_high_end", 64))
    return low | high


def mark_dirty(m: Trace, physical: Value) -> Value:
    """A page of RAM is written to; where that is noted."""
    place = m.get("dirty_pages", 64) + (physical >> 12)
    m.store(place, m.const(1, 8))
    return place


def walk(m: Trace) -> None:
    """walk(address, wanted) -> guest-physical address or NOWHERE."""
    address, wanted = m.arguments
    _without_paging(m, address, wanted)
    long = has(m.get("efer", 64), EFER_LMA)
    _refuse_not_canonical(m, long, address, wanted)
    tables = _Tables(long, has(m.get("cr4", 64), CR4_PAE) | long)  # a debugger may write one register without the other
    leaf = _descend(m, tables, address, wanted)
    physical = _physical(m, tables, leaf, address)
    may_read, may_write, may_fetch = _permissions(m, leaf.rights, wanted)
    writing, fetching = has(wanted, s.ACCESS_WRITE), has(wanted, s.ACCESS_FETCH)
    with m.when(~(writing.select(may_write, fetching.select(may_fetch, may_read)) | has(wanted, s.ACCESS_PEEK))):
        _page_fault(m, address, wanted, ERROR_P)
    new = leaf.entry | A | writing.select(m.const(D, 64), m.const(0, 64))
    _mark(m, leaf.place, leaf.entry, new, wanted)
    uncached = pat_uncached(m, leaf.entry, leaf.shift == PAGE_4K) | has(m.get("cr0", 64), CR0_CD) | mtrr_uncached(m, physical)
    rights = m.const(0, 64)
    for condition, bit in (
        (may_read, s.RIGHT_READ),
        (may_write & has(new, D) & ~_is_mirror(m, physical), s.RIGHT_WRITE),
        (may_fetch, s.RIGHT_FETCH),
        (has(leaf.entry, G) & has(m.get("cr4", 64), CR4_PGE), s.RIGHT_GLOBAL),
        (uncached, s.RIGHT_UNCACHED),
        (leaf.shift != PAGE_4K, s.RIGHT_LARGE),
        (leaf.shift == PAGE_2M, s.RIGHT_2M),
    ):
        rights = rights | condition.select(m.const(bit, 64), m.const(0, 64))
    m.put("walk_rights", rights)
    m.put("walk_entry", leaf.entry)
    m.result(_mirrored(m, physical, wanted))


def _without_paging(m: Trace, address: Value, wanted: Value) -> None:
    """Without CR0.PG linear addresses are physical ones, with all rights: the walk ends."""
    cr0 = m.get("cr0", 64)
    with m.when(~has(cr0, CR0_PG)):
        uncached = has(cr0, CR0_CD) | mtrr_uncached(m, address)
        type_bit = uncached.select(m.const(s.RIGHT_UNCACHED, 64), m.const(0, 64))
        write = _is_mirror(m, address).select(m.const(0, 64), m.const(s.RIGHT_WRITE, 64))
        m.put("walk_rights", type_bit | write | (s.RIGHT_READ | s.RIGHT_FETCH))
        m.result(_mirrored(m, address, wanted))


def _is_mirror(m: Trace, physical: Value) -> Value:
    """1-bit: nothing but the firmware of low memory is there, as it is read once more."""
    return (physical - MIRROR_BASE).ult(m.const(MIRROR_LENGTH, 64))


def _mirrored(m: Trace, physical: Value, wanted: Value) -> Value:
    """Where what is read at a guest-physical address lies; a write goes nowhere there."""
    low = _is_mirror(m, physical) & ~has(wanted, s.ACCESS_WRITE)
    return low.select(physical - (MIRROR_BASE - MIRRORED_BASE), physical)


def _refuse_not_canonical(m: Trace, long: Value, address: Value, wanted: Value) -> None:
    """Prepare #GP for an address with odd upper bits; Python finds out whether it is #SS."""
    with m.when(long & ((address << 16).sar(16) != address), likely=False):
        with m.when(~has(wanted, s.ACCESS_PEEK)):
            m.put("fault_vector", m.const(vectors.GP, 32))
            m.put("fault_error", m.const(0, 32))
            m.put("fault_has_error", m.const(s.NOT_CANONICAL, 32))
        m.result(NOWHERE)


def _page_fault(m: Trace, address: Value, wanted: Value, code: int) -> None:
    """Prepare #PF for an access and return NOWHERE. Nothing is prepared for a debugger's peek."""
    with m.when(~has(wanted, s.ACCESS_PEEK)):
        error = m.const(code, 64) | ((wanted & s.ACCESS_WRITE) << 1) | (wanted & s.ACCESS_USER)
        cr4 = m.get("cr4", 64)
        fetch_reported = has(m.get("efer", 64), EFER_NXE) & has(cr4, CR4_PAE) | has(cr4, CR4_SMEP)
        error = error | (has(wanted, s.ACCESS_FETCH) & fetch_reported).select(m.const(ERROR_I, 64), m.const(0, 64))
        m.put("cr2", address)
        m.put("fault_vector", m.const(vectors.PF, 32))
        m.put("fault_error", error.trunc(32))
        m.put("fault_has_error", m.const(1, 32))
    m.result(NOWHERE)


def _descend(m: Trace, tables: _Tables, address: Value, wanted: Value) -> _Leaf:
    """From CR3 down to the entry that maps a page; a #PF ends the walk."""
    long, wide, cr3 = tables.long, tables.wide, m.get("cr3", 64)
    top = long.select(m.const(TOP_LONG, 64), wide.select(m.const(PAGE_1G, 64), m.const(PAGE_4M, 64)))
    shift = m.variable(64, top)
    table = m.variable(64, (wide & ~long).select(cr3 & 0xFFFFFFE0, tables.address(cr3)))
    rights, entry, place = m.variable(64, RW | US), m.variable(64, 0), m.variable(64, 0)
    step = wide.select(m.const(9, 64), m.const(10, 64))
    with m.loop():
        _read_entry(m, tables, address, table.value, shift.value, place, entry)
        found, is_top = entry.value, tables.is_top(shift.value)
        with m.when(~has(found, P)):
            _page_fault(m, address, wanted, 0)
        leaf = _maps_page(m, tables, found, shift.value)
        with m.when((found & _reserved(m, tables, shift.value, leaf)) != 0, likely=False):
            _page_fault(m, address, wanted, ERROR_P | ERROR_RSVD)
        with m.when(~is_top):
            rights.set((rights.value & (found | ~m.const(RW | US, 64))) | (found & NX))
        with m.when(leaf):
            m.leave()
        with m.when(~is_top):
            _mark(m, place.value, found, found | A, wanted)
        table.set(tables.address(found))
        shift.set(shift.value - step)
    return _Leaf(entry.value, place.value, shift.value, rights.value)


def _read_entry(m: Trace, tables: _Tables, address: Value, table: Value, shift: Value, place: Variable, entry: Variable) -> None:
    """Find where a table's entry for an address lies, and what it is; where no memory is, the bus reads as ones."""
    wide = tables.wide
    index = (address >> shift) & wide.select(m.const(0x1FF, 64), m.const(0x3FF, 64))
    index = tables.is_top(shift).select(index & 3, index)
    place.set(table + (index << wide.select(m.const(3, 64), m.const(2, 64))))
    entry.set(wide.select(m.const(NOWHERE, 64), m.const(0xFFFFFFFF, 64)))
    with m.when(in_ram(m, place.value, 8)):
        host = m.get("ram_base", 64) + place.value
        entry.set(wide.select(m.load(host, 64), m.load(host, 32).zext(64)))


def _maps_page(m: Trace, tables: _Tables, entry: Value, shift: Value) -> Value:
    """1-bit: the entry maps a page instead of naming a table; a large one of 32-bit paging needs CR4.PSE."""
    large = (shift == PAGE_2M) | ((shift == PAGE_4M) & has(m.get("cr4", 64), CR4_PSE)) | ((shift == PAGE_1G) & tables.long)
    return (shift == PAGE_4K) | (has(entry, PS) & large)


def _reserved(m: Trace, tables: _Tables, shift: Value, leaf: Value) -> Value:
    """The bits that must be 0 in a present entry; `arch.paging.reserved_mask` says the same on ints."""
    zero = m.const(0, 64)
    outside = ~m.get("physical_mask", 64) & bits(0, 51)
    no_nx = has(m.get("efer", 64), EFER_NXE).select(zero, m.const(NX, 64))
    low = (leaf & (shift != PAGE_4K)).select(((m.const(1, 64) << shift) - 1) & ~m.const(bits(0, 12), 64), zero)
    names_pdpt = shift == TOP_LONG
    upper = (names_pdpt | ((shift == PAGE_1G) & ~leaf)).select(m.get("table_reserved", 64), zero)
    unavailable = tables.long.select(zero, m.const(bits(52, 62), 64))
    wide = outside | no_nx | low | names_pdpt.select(m.const(PS, 64), zero) | upper | unavailable
    narrow = (leaf & (shift == PAGE_4M)).select(m.const(1 << 21, 64), zero)
    return tables.is_top(shift).select(outside | (NX | PDPTE_RESERVED), tables.wide.select(wide, narrow))


def _physical(m: Trace, tables: _Tables, leaf: _Leaf, address: Value) -> Value:
    """The guest-physical address."""
    inside = (m.const(1, 64) << leaf.shift) - 1
    high = (leaf.shift == PAGE_4M).select((leaf.entry & PSE36) << PSE36_UP, m.const(0, 64))
    base = (tables.address(leaf.entry) & ~inside) | high & m.get("physical_mask", 64) & ~m.const(0xFFF, 64)
    return base | (address & inside)


def _permissions(m: Trace, rights: Value, wanted: Value) -> tuple[Value, Value, Value]:
    """1-bit each: the access's privilege may read, write, fetch (SDM vol. 3, 5.6.1)."""
    cr0, cr4 = m.get("cr0", 64), m.get("cr4", 64)
    user, user_page, writable = has(wanted, s.ACCESS_USER), has(rights, US), has(rights, RW)
    executable = ~has(rights, NX) | ~has(m.get("efer", 64), EFER_NXE)
    kernel_reads = ~user_page | ~has(cr4, CR4_SMAP) | has(wanted, s.ACCESS_AC)
    may_read = user.select(user_page, kernel_reads)
    may_write = user.select(user_page & writable, kernel_reads & (writable | ~has(cr0, CR0_WP)))
    may_fetch = executable & user.select(user_page, ~user_page | ~has(cr4, CR4_SMEP))
    return may_read, may_write, may_fetch


def _mark(m: Trace, place: Value, old: Value, new: Value, wanted: Value) -> None:
    """Set accessed and dirty bits in an entry, which lie in its lowest byte."""
    with m.when((new != old) & ~has(wanted, s.ACCESS_PEEK)):
        m.store(m.get("ram_base", 64) + place, new.trunc(8))
        mark_dirty(m, place)


FUNCTIONS = {"walk": (walk, 64, 2)}
