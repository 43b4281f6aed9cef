"""The native page walk on random tables, against one written from the manual's tables (SDM vol. 3, 4.3 to 4.6)."""

import random
from collections.abc import Callable

import pytest

from trapgate.arch import control, layout, paging
from trapgate.isa import state as s
from unit.soft.bench import Bench

HIGH_HALF = (1 << 64) - (1 << 47)
NOWHERE = (1 << 64) - 1


def _walk(read: Callable[[int, int], int], address: int, wanted: int, bench: Bench) -> int | None:
    """A page walk from the manual's tables (SDM vol. 3, 4.3 to 4.6): the physical address, or None for #PF."""
    st, model = bench.st, bench.cpu.model
    mode = paging.mode_of(
        cr0_pg=bool(st.cr0 & control.CR0_PG), cr4_pae=bool(st.cr4 & control.CR4_PAE), efer_lma=bool(st.efer & control.EFER_LMA)
    )
    levels, size, index_bits = mode.value
    nx, pse = bool(st.efer & control.EFER_NXE), bool(st.cr4 & control.CR4_PSE)
    physical_bits = int(st.physical_mask).bit_length()
    user, write, fetch = bool(wanted & s.ACCESS_USER), bool(wanted & s.ACCESS_WRITE), bool(wanted & s.ACCESS_FETCH)
    table, rights, no_execute = (
        st.cr3 & (paging.ADDRESS_4K if mode is paging.Mode.LONG4 else 0xFFFF_F000),
        paging.RW | paging.US,
        False,
    )
    for level in range(levels, 0, -1):
        shift = paging.page_shift(mode, level)
        entry = read(table + (address >> shift & (1 << index_bits) - 1) * size, size)
        if not entry & paging.P:
            return None
        large = bool(entry & paging.PS) and level > 1 and paging.may_be_large(mode, level, pse=pse)
        reserved = paging.reserved_mask(
            mode, level, large, physical_bits=physical_bits, nx=nx, pdpe1gb=model.has("pdpe1gb"), amd=model.amd
        )
        if entry & reserved:
            return None
        rights &= entry
        no_execute |= nx and bool(entry & paging.NX)
        if level == 1 or large:
            break
        table = entry & paging.ADDRESS_4K
    if user and not rights & paging.US:
        return None
    if write and not rights & paging.RW and (user or st.cr0 & control.CR0_WP):
        return None
    if fetch and (no_execute or (not user and rights & paging.US and st.cr4 & control.CR4_SMEP)):
        return None
    if not user and not fetch and rights & paging.US and st.cr4 & control.CR4_SMAP and not wanted & s.ACCESS_AC:
        return None
    frame = entry & paging.ADDRESS_4K
    if mode is paging.Mode.BITS32 and large:
        frame = entry & 0xFFC0_0000 | (entry >> 13 & 0xFF) << 32
    physical = frame & -1 << shift | address & (1 << shift) - 1
    in_mirror = layout.MIRROR_BASE <= physical < layout.MIRROR_BASE + layout.MIRROR_LENGTH
    return physical - layout.MIRROR_BASE + layout.MIRRORED_BASE if in_mirror and not write else physical


@pytest.mark.parametrize("model", ["EPYC-Turin", "SapphireRapids"])
@pytest.mark.parametrize("mode", ["long", "32-bit"])
def test_the_native_walk_is_the_manuals(mode: str, model: str) -> None:
    source = random.Random(f"{mode} {model}")
    bench = Bench("64" if mode == "long" else "32", model=model)
    st, size = bench.st, 8 if mode == "long" else 4
    tables = [0x200000 + 0x1000 * n for n in range(5)]
    for address in tables:
        for n in range(0, 4096, size):
            bench.ram.write_int(address + n, size, _entry(source, tables, size))
    st.cr3 = tables[0]

    def read(at: int, size: int) -> int:
        return bench.ram.read_int(at, size) if bench.ram.contains(at, size) else (1 << 8 * size) - 1  # the bus reads as ones

    _paging_bits(bench, source)
    mapped = 0
    for _ in range(4000):
        if source.random() < 0.02:
            _paging_bits(bench, source)
        wanted = source.choice((0, s.ACCESS_WRITE, s.ACCESS_FETCH)) | source.choice((0, s.ACCESS_USER, s.ACCESS_AC))
        low_half = source.randrange(1 << (32 if mode == "32-bit" else 47))
        address = low_half if mode == "32-bit" else low_half | source.choice((0, HIGH_HALF))
        expected = _walk(read, address, wanted, bench)
        found = bench.cpu._walk(bench.cpu.address, address, wanted)
        where = f"{address:#x}, wanted {wanted:#x}, CR0 {st.cr0:#x}, CR4 {st.cr4:#x}, EFER {st.efer:#x}"
        assert found == (NOWHERE if expected is None else expected), where
        mapped += expected is not None
    assert mapped > 100


def _entry(source: random.Random, tables: list[int], size: int) -> int:
    """Mostly a sound one."""
    entry = source.choice((*tables, *tables, 0x300000, 0x80000000)) | paging.A
    for bit in (paging.P, paging.RW, paging.US):
        entry |= bit if source.random() < 0.9 else 0
    if source.random() < 0.1:
        entry |= 1 << source.randrange(8 * size)
    return entry


def _paging_bits(bench: Bench, source: random.Random) -> None:
    st = bench.st
    st.cr0 = (st.cr0 | control.CR0_PG) & ~control.CR0_WP | source.choice((0, control.CR0_WP))
    st.cr4 &= ~(control.CR4_SMEP | control.CR4_SMAP | control.CR4_PSE)
    st.cr4 |= source.choice((0, control.CR4_SMEP)) | source.choice((0, control.CR4_SMAP)) | source.choice((0, control.CR4_PSE))
    if bench.mode == "64":  # no guest can clear PAE there, a debugger can
        st.cr4 = st.cr4 & ~control.CR4_PAE | source.choice((0, control.CR4_PAE))
    st.efer = st.efer & ~control.EFER_NXE | source.choice((0, control.EFER_NXE))
