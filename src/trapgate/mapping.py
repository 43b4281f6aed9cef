"""Maps host memory of our own between pages that nobody may touch: guest RAM, translated code, and what native code searches."""

import ctypes
import errno
import mmap
import weakref

from trapgate.hostcall import HostError, asking

GUARD = 2 << 20  # bytes in front and behind; as large as the host's large pages, on whose boundary memory begins
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)  # Python 3.11 has no name for the last
_FIXED = 0x10
_NONE = 0  # PROT_NONE
_MADV_DONTNEED, _MADV_HUGEPAGE = 4, 14

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Mapping:
    """`size` bytes at host address `address`, zero at first, that cost only what is touched; `view` is what Python sees of them.

    With a `descriptor` it is that file, shared; the descriptor may be closed at once, and no copy of it is kept, so that nothing
    but the mapping leads to the memory. HostError when the host gives none: `what` says what it was for.
    The memory goes when neither this object nor a view of it is left.
    """

    def __init__(self, size: int, what: str, descriptor: int = -1, protection: int = mmap.PROT_READ | mmap.PROT_WRITE) -> None:
        call = f"{_bytes(size)} of memory for {what} (mmap)"
        whole = size + 3 * GUARD
        if not 0 < whole < 1 << 63:
            raise HostError(call, errno.ENOMEM)
        reserved = _map(None, whole, _NONE, _PRIVATE, -1, call)
        self.address = (reserved + 2 * GUARD - 1) & -GUARD
        try:
            flags = mmap.MAP_SHARED if descriptor >= 0 else _PRIVATE
            _map(self.address, size, protection, flags | _FIXED, descriptor, call)
        except HostError:
            _libc.munmap(reserved, whole)
            raise
        self._bytes = (ctypes.c_char * size).from_address(self.address)
        weakref.finalize(self._bytes, _libc.munmap, reserved, whole).atexit = False  # threads may use it until the very end
        self.view = memoryview(self._bytes).cast("B")
        self._of_file = False  # whether some of it is a file's

    def prefer_large_pages(self) -> None:
        """Fewer faults in the host; a host without large pages does as well."""
        _libc.madvise(self.address, len(self._bytes), _MADV_HUGEPAGE)

    def copy_of(self, begin: int, size: int, descriptor: int, offset: int) -> None:
        """Bytes [begin, begin + size) are those of a file from `offset` on, each page a copy once it is written. HostError.

        All are multiples of a page. For memory without a descriptor; this one may be closed at once. The file may not change.
        """
        assert begin >= 0 and begin + size <= len(self._bytes), (begin, size)
        call = f"{_bytes(size)} of a file as memory (mmap)"
        _map(self.address + begin, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | _FIXED, descriptor, call, offset)
        self._of_file = True

    def clear(self) -> None:
        """All bytes are zero again and cost nothing. For memory without a descriptor. HostError."""
        if self._of_file:
            _map(self.address, len(self._bytes), mmap.PROT_READ | mmap.PROT_WRITE, _PRIVATE | _FIXED, -1, "memory anew (mmap)")
            self._of_file = False
            return
        with asking(f"{_bytes(len(self._bytes))} of memory anew (madvise)"):
            if _libc.madvise(self.address, len(self._bytes), _MADV_DONTNEED):
                raise OSError(ctypes.get_errno(), "madvise")


def _map(address: int | None, size: int, protection: int, flags: int, descriptor: int, call: str, offset: int = 0) -> int:
    found = _libc.mmap(address, size, protection, flags, descriptor, offset)
    if found is None or found == ctypes.c_void_p(-1).value:
        raise HostError(call, ctypes.get_errno())
    return int(found)


def _bytes(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count} bytes"
