"""What page tables map, of every kind: ranges with their rights, wherever the tables lie and whatever they say."""

import struct

import pytest

from trapgate.arch.control import CR0_PG, CR4_LA57, CR4_PAE, CR4_PSE, EFER_LMA
from trapgate.arch.paging import NX, PS, RW, US, P
from trapgate.gdb import mappings
from trapgate.gdb.mappings import Range, TooMany, ranges, words

TOP = 0x1000
LONG = {"cr0": CR0_PG, "cr3": TOP, "cr4": CR4_PAE, "efer": EFER_LMA}


class Tables:
    """Memory of 1 MiB with page tables in it; `reads` counts the tables that were looked at."""

    def __init__(self, size: int = 8) -> None:
        self.memory, self.size, self.reads = bytearray(1 << 20), size, 0

    def put(self, table: int, index: int, entry: int) -> None:
        struct.pack_into("<Q" if self.size == 8 else "<I", self.memory, table + index * self.size, entry)

    def read(self, address: int, length: int) -> bytes:
        self.reads += 1
        return bytes(self.memory[address : address + length])

    def shown(self, **registers: int) -> list[str]:
        return [f"{one.start:x}-{one.end:x} {words(one)}" for one in ranges(self.read, **registers)]


def test_no_paging() -> None:
    assert Tables().shown(**LONG | {"cr0": 0}) == []


def test_four_levels_with_pages_of_each_size() -> None:
    t = Tables()
    t.put(0x1000, 0, 0x2000 | P | RW | US)
    t.put(0x2000, 0, 0x3000 | P | RW | US)
    t.put(0x2000, 1, 1 << 30 | PS | P | RW)
    t.put(0x3000, 0, 0x4000 | P | RW | US)
    t.put(0x3000, 1, 2 << 20 | PS | P | RW | US | NX)
    for index, rights in enumerate((P, P | US, P | US, P | US | RW, 0, P | RW)):
        t.put(0x4000, index, index << 12 | rights)
    assert t.shown(**LONG) == [
        "0-1000 -r-x", "1000-3000 ur-x", "3000-4000 urwx", "5000-6000 -rwx", "200000-400000 urw-", "40000000-80000000 -rwx",
    ]  # fmt: skip


def test_rights_of_all_levels_together() -> None:
    t = Tables()
    for index, rights in enumerate((P | RW | US, P | US, P | RW, P | RW | US | NX)):
        t.put(0x1000, index, 0x2000 | rights)
    t.put(0x2000, 0, PS | P | RW | US)
    size = 1 << 39
    assert t.shown(**LONG) == [
        "0-40000000 urwx", f"{size:x}-{size + (1 << 30):x} ur-x", f"{2 * size:x}-{2 * size + (1 << 30):x} -rwx",
        f"{3 * size:x}-{3 * size + (1 << 30):x} urw-",
    ]  # fmt: skip


def test_the_upper_half_and_one_range_across_tables() -> None:
    t = Tables()
    for index in (255, 256, 511):
        t.put(0x1000, index, 0x2000 | P)
    t.put(0x2000, 0, PS | P)
    t.put(0x2000, 511, PS | P)
    assert t.shown(**LONG) == [
        "7f8000000000-7f8040000000 -r-x", "7fffc0000000-800000000000 -r-x", "ffff800000000000-ffff800040000000 -r-x",
        "ffff807fc0000000-ffff808000000000 -r-x", "ffffff8000000000-ffffff8040000000 -r-x",
        "ffffffffc0000000-10000000000000000 -r-x",
    ]  # fmt: skip


def test_five_levels() -> None:
    t = Tables()
    t.put(0x1000, 511, 0x2000 | P)
    t.put(0x2000, 511, 0x3000 | P)
    t.put(0x3000, 511, PS | P)
    assert t.shown(**LONG | {"cr4": CR4_PAE | CR4_LA57}) == ["ffffffffc0000000-10000000000000000 -r-x"]


def test_pae_whose_first_table_has_no_rights() -> None:
    t = Tables()
    t.put(0x1020, 3, 0x2000 | P)
    t.put(0x2000, 511, PS | P | RW | US)
    assert t.shown(cr0=CR0_PG, cr3=0x1020, cr4=CR4_PAE, efer=0) == ["ffe00000-100000000 urwx"]


def test_32_bits_with_and_without_large_pages() -> None:
    t = Tables(4)
    t.put(0x1000, 0, 0x2000 | P | RW)
    t.put(0x1000, 1023, 0x3000 | PS | P | RW | US)
    t.put(0x2000, 1, P | RW | US)
    t.put(0x3000, 0, P)
    registers = {"cr0": CR0_PG, "cr3": TOP, "efer": 0}
    assert t.shown(cr4=CR4_PSE, **registers) == ["1000-2000 -rwx", "ffc00000-100000000 urwx"]
    assert t.shown(cr4=0, **registers) == ["1000-2000 -rwx", "ffc00000-ffc01000 -r-x"]


def test_tables_that_are_not_there() -> None:
    t = Tables()
    assert t.shown(**LONG | {"cr3": 1 << 40}) == []
    t.put(0x1000, 0, 0xFFFFF800 | P)
    t.put(0x1000, 1, 0xFF000 | P | RW)
    t.put(0xFF000, 0, PS | P | RW)
    assert t.shown(**LONG) == [f"{1 << 39:x}-{(1 << 39) + (1 << 30):x} -rwx"]


def test_tables_that_refer_to_each_other_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mappings, "MOST_TABLES", 500)
    t = Tables()
    for index in range(512):
        t.put(0x1000, index, 0x1000 | P | RW)
    found: list[Range] = []
    with pytest.raises(TooMany, match="more than 500 tables"):
        found.extend(ranges(t.read, **LONG))
    assert t.reads <= 500
    assert found[0].start == 0
