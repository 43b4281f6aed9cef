"""Allocates guest-physical memory while a guest is being loaded, alone: it hands out RAM and refuses overlap."""

from collections.abc import Sequence

from trapgate.boot.image import ImageError
from trapgate.boot.plan import MapEntry

PAGE = 4096
FOUR_GIB = 1 << 32
LOW_START = 0x1000  # page 0 holds the real-mode vectors and takes the first pages of other processors' start-up
LOW_END = 0x9_F000  # loaders keep their own structures below this
EBDA_START = 0x9_FC00  # reserved by PC firmware up to video memory
VIDEO_START = 0xA_0000
FIRMWARE_START = 0xE_0000  # where guests search the RSDP, up to FIRMWARE_END (ACPI 6.5, 5.2.5.1)
FIRMWARE_END = 0x10_0000
HIGH_START = 0x10_0000  # RAM goes on here after video memory and firmware

RAM_KIND, RESERVED_KIND = 1, 2  # address range types (ACPI 6.5, 15.1)


class Regions:
    """Claims on RAM, by name. Page 0 is kept free unless the image is one that may go anywhere."""

    def __init__(self, ram: Sequence[tuple[int, int]], keep_page_0: bool = True) -> None:
        self._ram = tuple(ram)
        self._taken: list[tuple[int, int, str]] = [(0, LOW_START, "page 0")] if keep_page_0 else []

    def claims(self) -> list[tuple[int, int, str]]:
        """(start, end, name) of everything handed out, in order of address."""
        return sorted(self._taken)

    def claim(self, start: int, size: int, what: str) -> int:
        """Take [start, start + size); ImageError when any of it is not RAM or taken already. Returns `start`."""
        end = start + size
        if size < 0 or not any(low <= start and end <= high for low, high in self._ram):
            have = sum(high - low for low, high in self._ram)
            raise ImageError(f"{what} needs memory at {start:#x}..{end:#x}, the guest has {_bytes(have)}: give it more memory")
        for low, high, other in self._taken:
            if low < end and start < high:
                raise ImageError(f"{what} at {start:#x}..{end:#x} would overwrite {other} at {low:#x}..{high:#x}")
        if size:
            self._taken.append((start, end, what))
        return start

    def fits(self, start: int, size: int) -> bool:
        """Whether [start, start + size) is free RAM."""
        end = start + size
        return any(low <= start and end <= high for low, high in self._ram) and not any(
            low < end and start < high for low, high, _ in self._taken
        )

    def place(
        self, size: int, what: str, *, align: int = PAGE, low: int = LOW_START, high: int = LOW_END, highest: bool = False
    ) -> int:
        """Take the lowest (or `highest`) free place of `size` bytes inside [low, high); ImageError when there is none."""
        assert align > 0
        assert align & (align - 1) == 0
        candidates = []
        for start, end in self._ram:
            floor, ceiling = max(start, low), min(end, high)
            if highest:
                tops = [ceiling, *(begin for begin, _, _ in self._taken if floor < begin <= ceiling)]
                candidates += [(top - size) & -align for top in tops]
            else:
                bottoms = [floor, *(stop for _, stop, _ in self._taken if floor <= stop < ceiling)]
                candidates += [(bottom + align - 1) & -align for bottom in bottoms]
        fitting = [start for start in candidates if low <= start and start + size <= high and self.fits(start, size)]
        if not fitting:
            have = sum(end - start for start, end in self._ram)
            raise ImageError(f"no room for {what} ({_bytes(size)}) in the guest's {_bytes(have)}: give it more memory")
        return self.claim(max(fitting) if highest else min(fitting), size, what)


def memory_map(ram: Sequence[tuple[int, int]]) -> tuple[MapEntry, ...]:
    """The memory map for the guest: RAM, less what PC firmware keeps between 639 KiB and 1 MiB."""
    entries = []
    for start, end in ram:
        if start < EBDA_START:
            entries.append(MapEntry(start, min(end, EBDA_START) - start, RAM_KIND))
            entries += _clipped(EBDA_START, min(end, VIDEO_START), RESERVED_KIND)
            entries += _clipped(FIRMWARE_START, min(end, FIRMWARE_END), RESERVED_KIND)
            entries += _clipped(HIGH_START, end, RAM_KIND)
        else:
            entries.append(MapEntry(start, end - start, RAM_KIND))
    return tuple(entries)


def _clipped(start: int, end: int, kind: int) -> list[MapEntry]:
    return [MapEntry(start, end - start, kind)] if end > start else []


def _bytes(count: int) -> str:
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 1 << shift:
            return f"{count / (1 << shift):.4g} {unit}"
    return f"{count} bytes"
