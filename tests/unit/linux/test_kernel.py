"""A kernel found in a guest's memory, of 64 bits and of 32."""

import pytest

from trapgate.linux.kallsyms import KernelSymbol
from trapgate.linux.kernel import NARROW, WIDE, Kernel, NoKernel, Width, find_kernel
from unit.linux.tables import Release, image
from unit.linux.test_kallsyms import symbols

PHYSICAL = 0x0340_0000
SLIDE = 0x0280_0000
BANNER = b"Linux version 9.9.9 (somebody@somewhere)\n\0"
BOTH = pytest.mark.parametrize("width", [WIDE, NARROW], ids=["64 bits", "32 bits"])


class Memory:
    """A guest with a kernel at PHYSICAL, moved by SLIDE."""

    cr4 = 0x20

    def __init__(self, width: Width) -> None:
        self.start = width.linked_at + SLIDE
        made = [KernelSymbol(self.start, "T_text"), *symbols(3000, 3, start=self.start + 16)[4:]]
        made.append(KernelSymbol(made[-1].address + 64, "Dlinux_banner"))
        size = made[-1].address + len(BANNER) - self.start
        before = -(-size // 4096) * 4096
        self.image = bytearray(image(made, self.start, Release.BEHIND, before=before, word=width.pointer))
        self.image[size - len(BANNER) : size] = BANNER
        self.entry = made[50].address
        self.msrs = {width.entry: self.entry}
        self.mapped = True

    def read_msr(self, index: int) -> int:
        return self.msrs.get(index, 0)

    def translate(self, address: int) -> int | None:
        return address - self.start + PHYSICAL if self.mapped else None

    def read_physical(self, address: int, length: int) -> bytes:
        return bytes(self.image[address - PHYSICAL :][:length]) if address >= PHYSICAL else b""


@BOTH
def test_where_it_is_and_what_it_says(width: Width) -> None:
    memory = Memory(width)
    kernel = find_kernel(memory)
    assert (kernel.width, kernel.start, kernel.slide, kernel.moved) == (width, memory.start, SLIDE, memory.start - PHYSICAL)
    assert kernel.banner == BANNER[:-2].decode()
    assert kernel.address("_text") == memory.start
    assert kernel.address("no_such") is None
    assert kernel.runs()


@BOTH
def test_what_it_says_without_names_of_data(width: Width) -> None:
    kernel = find_kernel(Memory(width))
    bare = Kernel(
        width, kernel.guest, tuple(one for one in kernel.symbols if one.name != "linux_banner"), kernel.entry, kernel.moved
    )
    assert bare.banner == kernel.banner != ""


@BOTH
def test_another_kernel_is_another(width: Width) -> None:
    memory = Memory(width)
    kernel = find_kernel(memory)
    memory.msrs[width.entry] += 0x20_0000
    assert not kernel.runs()
    memory.msrs[width.entry], memory.mapped = kernel.entry, False
    assert not kernel.runs()


@pytest.mark.parametrize("entry", [0, 0x1000, 0x7FFF_0000_0000, 0xFFFF_FFFF_C000_0000], ids=hex)
@BOTH
def test_no_kernel_yet(width: Width, entry: int) -> None:
    memory = Memory(width)
    memory.msrs[width.entry] = entry
    with pytest.raises(NoKernel, match="no Linux kernel runs here"):
        find_kernel(memory)


@BOTH
def test_an_entry_that_is_not_mapped(width: Width) -> None:
    memory = Memory(width)
    memory.mapped = False
    with pytest.raises(NoKernel, match="not mapped"):
        find_kernel(memory)


def test_the_tables_of_a_32_bit_kernel_are_not_walked() -> None:
    with pytest.raises(NoKernel, match="page tables"):
        find_kernel(Memory(NARROW)).memory()
