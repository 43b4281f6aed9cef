"""Holds translated code: one memfd seen twice, once writable, once executable, never both; native functions at its start."""

import ctypes
import errno
import mmap
import os
from collections.abc import Callable, Iterable

from trapgate.hostcall import REMEDIES, HostError, asking
from trapgate.mapping import Mapping
from trapgate.stencil.library import Library

SIZE = 160 << 20  # sparse: costs what is used
GUARD = 1 << 16


def table_order(names: Iterable[str]) -> list[str]:
    """The order of native functions in `native_table`: constants of LLVM's, which vary with the host's CPU, come last."""
    return sorted(names, key=lambda name: (name.startswith("."), name))


class CodeBuffer:
    """Machine code: native functions, and behind them, from `first` on, the blocks that native code copies there.

    HostError when the host gives no executable memory.
    """

    def __init__(self, library: Library, size: int = SIZE) -> None:
        writable, self._executable = _two_views(size)
        self.base, self.written_at = self._executable.address, writable.address
        self.library = library
        self._view = writable.view
        self._view[GUARD : GUARD + len(library.blob)] = library.blob
        self.entries = {name: self.base + GUARD + at for name, at in library.entries.items()}
        self.first = GUARD + len(library.blob) + 4095 & ~4095
        self.limit = size - GUARD

    def function(self, name: str, width: int, arguments: int) -> Callable[..., int]:
        """A native function as a Python callable: (CPU state address, arguments)."""
        result = ctypes.c_uint64 if width else None
        prototype = ctypes.PYFUNCTYPE(result, ctypes.c_void_p, *[ctypes.c_uint64] * arguments)
        return prototype(self.entries[name])

    def enter(self) -> Callable[[int, int], None]:
        """Run translated code: (CPU state address, code address). Other Python threads run meanwhile."""
        return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(self.entries["enter"])

    def append(self, code: bytes | bytearray) -> int:
        """Store code in front of all blocks, before there are any; its address."""
        at = self.first
        self._view[at : at + len(code)] = code
        self.first = at + len(code) + 15 & ~15
        return self.base + at

    def patch(self, at: int, code: bytes | bytearray) -> None:
        """Change code at an offset, while nothing runs."""
        self._view[at : at + len(code)] = code

    def peek(self, at: int, length: int) -> bytes:
        """The code at an offset."""
        return bytes(self._view[at : at + length])

    def scratch(self, code: bytes | bytearray) -> int:
        """Store code behind all blocks, until the next call; its address."""
        assert len(code) <= GUARD
        self._view[self.limit : self.limit + len(code)] = code
        return self.base + self.limit


def _two_views(size: int) -> tuple[Mapping, Mapping]:
    """(writable, executable). No descriptor leads to them once they are there: whoever writes to a wrong one hits no code."""
    try:
        with asking("memfd_create"):
            descriptor = os.memfd_create("trapgate-code", os.MFD_CLOEXEC)
        try:
            with asking(f"{size >> 20} MiB in a memfd (ftruncate)"):
                os.ftruncate(descriptor, size)
            writable = Mapping(size, "translated code", descriptor)
            return writable, Mapping(size, "translated code, executable", descriptor, mmap.PROT_READ | mmap.PROT_EXEC)
        finally:
            os.close(descriptor)
    except HostError as error:
        denied = error.errno in (errno.EPERM, errno.EACCES)
        do = "allow it (execmem), or use --engine kvm" if denied else REMEDIES.get(error.errno, "use --engine kvm")
        remedy = f"{error.call} failed; {do}"
        raise HostError("executable memory", error.errno, remedy) from error
