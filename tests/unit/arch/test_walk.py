"""Page walks in every mode, against tables written by hand."""

import pytest

from trapgate.arch.walk import translate

LONG, PAE, PLAIN = {"efer": 0x400, "cr4": 0x20}, {"efer": 0, "cr4": 0x20}, {"efer": 0, "cr4": 0x10}
HIGH = 0xFFFF_8000_0000_0000


def walk(memory: dict[int, int], address: int, mode: dict[str, int], cr3: int = 0x1000) -> int | None:
    return translate(lambda at, size: memory.get(at), address, cr0=0x80000001, cr3=cr3, **mode)


def test_without_paging_an_address_is_itself() -> None:
    assert translate(lambda at, size: None, 0x1234, cr0=1, cr3=0, cr4=0, efer=0) == 0x1234


@pytest.mark.parametrize(
    ("memory", "address", "expected"),
    [
        ({0x1000: 0x2007, 0x2000: 0x3007, 0x3000: 0x4007, 0x4008: 0x8000_0000_0ABC_D067}, 0x1234, 0xABC_D234),
        ({0x1000: 0x2007, 0x2000: 0x3007, 0x3008: 0x0060_00E7}, 0x20_1234, 0x60_1234),  # 2 MiB
        ({0x1000: 0x2007, 0x2008: 0x8000_00E7}, 0x4000_1234, 0x8000_1234),  # 1 GiB
        ({0x1000 + 8 * 256: 0x2007, 0x2000: 0x87}, HIGH + 5, 5),
        ({0x1000: 0x2087, 0x2000: 0x87}, 5, 5),  # PS of a PML4E says nothing
        ({0x1000: 0x2006}, 0, None),
        ({0x1000: 0x2007}, 0, None),  # a table that is not RAM
        ({0x1000: 0x2007, 0x2000: 0x87}, 1 << 47, None),  # not canonical
    ],
)
def test_long_mode(memory: dict[int, int], address: int, expected: int | None) -> None:
    assert walk(memory, address, LONG) == expected
    assert walk(memory, address, LONG, cr3=0x1018) == expected  # PWT, PCD or a PCID


def test_five_levels() -> None:
    memory = {0x1000: 0x2007, 0x2000: 0x3007, 0x3000: 0x87}
    assert walk(memory, 7, {"efer": 0x400, "cr4": 0x1020}) == 7
    assert walk(memory, 1 << 47, {"efer": 0x400, "cr4": 0x1020}) is None
    assert walk({0x1000: 0x2007, 0x2000 + 8 * 256: 0x3007, 0x3000: 0x87}, 1 << 47, {"efer": 0x400, "cr4": 0x1020}) == 0


def test_pae() -> None:
    memory = {0x1020 + 8 * 3: 0x2001, 0x2000: 0x3003, 0x3008: 0x1_2345_6003, 0x2008: 0x0060_0083}
    assert walk(memory, 0xC000_1FFF, PAE, cr3=0x1020) == 0x1_2345_6FFF
    assert walk(memory, 0xC020_0001, PAE, cr3=0x1020) == 0x60_0001
    assert walk(memory, 0x4000_0000, PAE, cr3=0x1020) is None


def test_32_bit() -> None:
    memory = {0x1004: 0x2003, 0x2008: 0xABC_D003, 0x1008: 0x80_2083}
    assert walk(memory, 0x40_2345, PLAIN) == 0xABC_D345
    assert walk(memory, 0x80_0005, PLAIN) == 0x1_0080_0005  # 4 MiB, with bits 39:32
    assert walk({0x1008: 0x2083, 0x2000: 0x7003}, 0x80_0005, {"efer": 0, "cr4": 0}) == 0x7005  # PS means nothing without CR4.PSE
