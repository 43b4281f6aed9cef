"""Finds the kernel of a Linux guest in its memory, wherever KASLR has put it.

The entry of system calls (IA32_LSTAR; for 32 bits IA32_SYSENTER_EIP) is a function of the kernel's, mapped in every address space,
page-table isolation or not; the kernel's image lies around it, in one piece of physical memory (Linux,
Documentation/arch/x86/x86_64/mm.rst, "kernel text mapping").
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from trapgate.arch import walk
from trapgate.arch.control import CR0_PG, EFER_LMA
from trapgate.arch.msrs import LSTAR, SYSENTER_EIP
from trapgate.errors import TrapgateError
from trapgate.linux.btf import Types
from trapgate.linux.kallsyms import KernelSymbol, kernel_symbols


@dataclass(frozen=True, slots=True)
class Width:
    """How kernels of a width lie in memory: the MSR of their system call entry, addresses of code, where they are linked.

    CONFIG_PHYSICAL_START is 1000000h everywhere; the addresses of 32-bit kernels are those of every CONFIG_VMSPLIT.
    """

    pointer: int  # bytes
    entry: int
    code: range
    linked_at: int


WIDE = Width(8, LSTAR, range(0xFFFF_FFFF_8000_0000, 0xFFFF_FFFF_C000_0000), 0xFFFF_FFFF_8100_0000)  # __START_KERNEL_map, 1 GiB
NARROW = Width(4, SYSENTER_EIP, range(0x4000_0000, 1 << 32), 0xC100_0000)
ALIGNMENT = 2 << 20  # CONFIG_PHYSICAL_ALIGN
TABLES = 64 << 20  # the symbols lie behind the code, no further than this from the system call entry
LONGEST_BANNER = 512
_BANNER = b"Linux version "
MOST_TYPES = 32 << 20  # bytes: Debian's kernels have 5 MiB
_PAGE = 4096


class NoKernel(TrapgateError):
    """There is no Linux kernel, none yet, or none whose symbols can be read."""


class Guest(Protocol):
    """What is asked of a guest that may run Linux."""

    @property
    def cr4(self) -> int:
        """CR4 of any of its vCPUs: how many levels its page tables have."""
        ...

    def read_msr(self, index: int) -> int:
        """An MSR of any of its vCPUs."""
        ...

    def translate(self, address: int) -> int | None:
        """The physical address behind a virtual one; None when unmapped."""
        ...

    def read_physical(self, address: int, length: int) -> bytes:
        """RAM from a physical address on, up to where it ends; nothing where there is none."""
        ...


class Memory:
    """The kernel's memory by virtual address, through its own page tables, whatever the vCPUs have loaded; as it is at one stop."""

    def __init__(self, guest: Guest, root: int) -> None:
        self._guest, self._root = guest, root
        self._pages: dict[int, int | None] = {}

    def physical(self, address: int) -> int | None:
        """The physical address behind a virtual one; None when unmapped."""
        page, offset = divmod(address, _PAGE)
        if page not in self._pages:
            self._pages[page] = walk.translate(
                self._entry, page * _PAGE, cr0=CR0_PG, cr3=self._root, cr4=self._guest.cr4, efer=EFER_LMA
            )
        base = self._pages[page]
        return None if base is None else base + offset

    def _entry(self, address: int, size: int) -> int | None:
        data = self._guest.read_physical(address, size)
        return int.from_bytes(data, "little") if len(data) == size else None

    def read(self, address: int, length: int) -> bytes:
        """Up to `length` bytes, less where not all of them are there."""
        out = b""
        while length > 0 and (physical := self.physical(address)) is not None:
            piece = self._guest.read_physical(physical, min(length, _PAGE - address % _PAGE))
            if not piece:
                break
            out, address, length = out + piece, address + len(piece), length - len(piece)
        return out

    def number(self, address: int, size: int) -> int | None:
        """A number; None when it is not there."""
        data = self.read(address, size)
        return int.from_bytes(data, "little") if len(data) == size else None

    def word(self, address: int) -> int | None:
        """A pointer; None when it is not there."""
        return self.number(address, 8)

    def text(self, address: int, most: int) -> str:
        """A string up to its zero; what is not printable is escaped."""
        data = self.read(address, most).partition(b"\0")[0]
        return data.decode("utf-8", "backslashreplace").encode("unicode_escape").decode()


@dataclass(frozen=True)
class Kernel:
    """A kernel as it runs: `entry` is where its system calls enter, `moved` how far virtual addresses are beyond physical ones."""

    width: Width
    guest: Guest
    symbols: tuple[KernelSymbol, ...]
    entry: int
    moved: int

    @cached_property
    def _by_name(self) -> dict[str, int]:
        return {label[1:]: address for address, label in reversed(self.symbols)}

    def address(self, name: str) -> int | None:
        """Where a symbol is; the lowest, if several are called so; None when there is none."""
        return self._by_name.get(name)

    def read(self, address: int, length: int) -> bytes:
        """Memory of the image at a virtual address, whatever address space the vCPU is in; short at its end."""
        return self.guest.read_physical(address - self.moved, length)

    def runs(self) -> bool:
        """Whether the guest still runs it: its system calls enter where they did."""
        entry = self.guest.read_msr(self.width.entry)
        return entry == self.entry and self.guest.translate(entry) == entry - self.moved

    @property
    def start(self) -> int:
        """Where the image begins."""
        return self._by_name["_text"]

    @property
    def slide(self) -> int:
        """How far KASLR has moved it from where it was linked; with `nokaslr`, 0."""
        return self.start - self.width.linked_at

    def memory(self) -> Memory:
        """Its memory as it is now. NoKernel when it does not say where its page tables are, as those of 32 bits do not."""
        root = self.address("init_top_pgt")
        if root is None or self.width is NARROW:
            raise NoKernel("the kernel's symbols do not say where its page tables are")
        return Memory(self.guest, root - self.moved)

    @cached_property
    def types(self) -> Types:
        """Its types. TypesError when it does not describe them."""
        start, end = self.address("__start_BTF"), self.address("__stop_BTF")
        data = b"" if start is None or end is None else self.read(start, min(end - start, MOST_TYPES))
        return Types(data)

    @property
    def banner(self) -> str:
        """What it says first when it boots: version, compiler, date."""
        at = self.address("linux_banner")
        if at is None:  # a kernel with names of functions alone (no CONFIG_KALLSYMS_ALL)
            image = self.read(self.start, TABLES)
            text = b"".join(image.partition(_BANNER)[1:])[:LONGEST_BANNER]
        else:
            text = self.read(at, LONGEST_BANNER)
        return text.partition(b"\0")[0].decode("latin-1").strip()


def find_kernel(guest: Guest, until: float | None = None) -> Kernel:
    """The kernel of a guest. NoKernel when it does not run Linux, or has not come so far as to set up system calls.

    KallsymsError when it does not tell its symbols; TooSlow when it is not found until then (time.monotonic(), s).
    """
    for width in (WIDE, NARROW):
        entry = guest.read_msr(width.entry)
        if entry in width.code:
            break
    else:
        raise NoKernel("no Linux kernel runs here, or it has not set up its system calls yet")
    physical = guest.translate(entry)
    if physical is None:
        raise NoKernel("the kernel's system call entry is not mapped")
    first = physical & -ALIGNMENT
    moved = entry - physical
    symbols = kernel_symbols(guest.read_physical(first, TABLES), first + moved, entry, width.pointer, until)
    kernel = Kernel(width, guest, tuple(symbols), entry, moved)
    if kernel.address("_text") is None:
        raise NoKernel("the kernel's symbols do not say where it begins")
    return kernel
