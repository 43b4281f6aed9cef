"""Where translated code lies: one memfd seen twice, once writable, once executable, never both; native functions at its start."""

import ctypes
import mmap
import os
import weakref
from collections.abc import Callable

from trapgate.stencil.library import Library

SIZE = 160 << 20  # sparse: costs what is used
GUARD = 1 << 16


class CodeError(Exception):
    """The host gives no executable memory."""


class CodeBuffer:
    """Machine code: native functions, and behind them, from `first` on, the blocks that native code copies there."""

    def __init__(self, library: Library, size: int = SIZE) -> None:
        try:
            descriptor = os.memfd_create("trapgate-code", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, size)
            self._writable = mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)
            self.base = _map_executable(descriptor, size)
            os.close(descriptor)
        except OSError as error:
            raise CodeError(
                f"the host gives no executable memory ({error.strerror}): use --engine kvm, or allow execmem"
            ) from error
        self.written_at = ctypes.addressof(ctypes.c_char.from_buffer(self._writable))
        self._finalizer = weakref.finalize(self, _unmap, self.base, size)
        self.library = library
        self._view = memoryview(self._writable)
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


def _map_executable(descriptor: int, size: int) -> int:
    """The address of an executable, unwritable view. Python's own mmap hands out no address of a read-only mapping."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    address = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_SHARED, descriptor, 0)
    if address is None or address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(address)


def _unmap(address: int, size: int) -> None:
    libc = ctypes.CDLL(None)
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.munmap(address, size)
