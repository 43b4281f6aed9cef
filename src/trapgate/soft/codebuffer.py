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
    """Append-only machine code. `write` is the writable view; addresses are those of the executable one."""

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
        self.view = memoryview(self._writable)
        self._finalizer = weakref.finalize(self, _unmap, self.base, size)
        self.size = size
        self.library = library
        self.end = GUARD
        self.view[self.end : self.end + len(library.blob)] = library.blob
        self.entries = {name: self.base + self.end + at for name, at in library.entries.items()}
        self.end += (len(library.blob) + 4095) & ~4095
        self.first = self.end

    def function(self, name: str, width: int, arguments: int) -> Callable[..., int]:
        """A native function as a Python callable: (CPU state address, arguments)."""
        result = ctypes.c_uint64 if width else None
        prototype = ctypes.PYFUNCTYPE(result, ctypes.c_void_p, *[ctypes.c_uint64] * arguments)
        return prototype(self.entries[name])

    def enter(self) -> Callable[[int, int], None]:
        """Run translated code: (CPU state address, code address). Other Python threads run meanwhile."""
        return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(self.entries["enter"])

    @property
    def room(self) -> int:
        """Bytes left."""
        return self.size - self.end - GUARD

    def append(self, code: bytes | bytearray) -> int:
        """Store code; its offset in the buffer."""
        at = self.end
        self.view[at : at + len(code)] = code
        self.end = (at + len(code) + 15) & ~15
        return at

    def patch(self, offset: int, data: bytes) -> None:
        """Change code that is there already."""
        self.view[offset : offset + len(data)] = data

    def reset(self) -> None:
        """Forget all translated code; the native functions stay."""
        self.end = self.first


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
