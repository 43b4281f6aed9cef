"""Holds what a loader decides, as a value: which bytes go where in guest memory, and the boot processor's first registers."""

from collections.abc import Sequence

from trapgate.arch import paging
from trapgate.arch.control import CR0_ET, CR0_PE, CR0_PG, CR4_PAE, EFER_LMA, EFER_LME
from trapgate.arch.segments import Descriptor
from trapgate.boot.image import Image
from trapgate.memory import Ram
from trapgate.values import dataclass
from trapgate.vcpu import CpuStart, SegmentStart


@dataclass(frozen=True, slots=True)
class Module:
    """A file that a loader hands to the image it starts, with a text for it: the command line of Xen's dom0, say."""

    image: Image
    text: str = ""


@dataclass(frozen=True, slots=True)
class BootOptions:
    """What the user asks of a guest. `ram` holds the (start, end) ranges of `memory.Ram.regions`."""

    ram: tuple[tuple[int, int], ...]
    command_line: str = ""
    initrd: Image | None = None
    modules: tuple[Module, ...] = ()  # multiboot and PVH only
    cpus: int = 1
    load_address: int | None = None  # flat binaries only; None: 7C00h
    virtio: int = 0  # how many virtio devices the guest is told of

    def all_modules(self) -> tuple[Module, ...]:
        """The initrd, which is a module where the protocol knows no other kind, and then the modules."""
        return (*(() if self.initrd is None else (Module(self.initrd),)), *self.modules)


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes for one guest-physical address. `what` names them in messages."""

    address: int
    data: bytes | memoryview
    what: str


@dataclass(frozen=True, slots=True)
class MapEntry:
    """A line of the memory map that the guest is given; `kind` is the ACPI address range type (1 RAM, 2 reserved)."""

    start: int
    size: int
    kind: int


@dataclass(frozen=True, slots=True)
class BootPlan:
    """All that a machine needs to start a guest. `kind` says how the image was recognised; `rsdp` is 0 without ACPI tables.

    `code` is the width of the code that the image is there for, not of its entry, in bits; 0 where it may be any, or several.
    `files` are what the guest finds by name in the firmware configuration device.
    """

    kind: str
    pieces: tuple[Piece, ...]
    start: CpuStart
    memory_map: tuple[MapEntry, ...]
    rsdp: int = 0
    code: int = 0
    files: tuple[tuple[str, bytes], ...] = ()


CHUNK = 1 << 18  # bytes written at once: signals are heard in between


def load(plan: BootPlan, ram: Ram) -> None:
    """Write every piece into guest RAM, which must be zero (as it is when fresh): what is zero in a piece is left out.

    RamError when RAM is smaller than the plan was made for; then some pieces may be written already.
    """
    zeros = bytes(CHUNK)
    for piece in plan.pieces:
        for at in range(0, len(piece.data), CHUNK):
            data = bytes(piece.data[at : at + CHUNK])
            if data != zeros[: len(data)]:
                ram.write(piece.address + at, data)


CODE_SELECTOR, DATA_SELECTOR = 0x10, 0x18  # as the Linux boot protocol wants them; the others follow suit
_CODE32 = Descriptor(limit=0xF_FFFF, type=0xB, present=True, db=True, granular=True)
_CODE64 = Descriptor(limit=0xF_FFFF, type=0xB, present=True, long=True, granular=True)
_DATA = Descriptor(limit=0xF_FFFF, type=0x3, present=True, db=True, granular=True)
FLAT_GDT = bytes(16) + _CODE32.to_bytes() + _DATA.to_bytes()
LONG_GDT = bytes(16) + _CODE64.to_bytes() + _DATA.to_bytes()


def _flat_segments(code: Descriptor) -> dict[str, SegmentStart]:
    """Segment registers with base 0 and limit 4 GiB - 1, and a busy TSS at 0 that nothing may use yet."""
    data = SegmentStart(DATA_SELECTOR, 0, _DATA.byte_limit, _DATA.attributes)
    return {
        "cs": SegmentStart(CODE_SELECTOR, 0, code.byte_limit, code.attributes),
        **dict.fromkeys(("ds", "es", "fs", "gs", "ss"), data),
        "tr": SegmentStart(0, 0, 0x67, 0x008B),
    }


def protected32(entry: int, general: dict[str, int], gdt_base: int) -> CpuStart:
    """32-bit protected mode without paging, flat segments; `FLAT_GDT` lies at `gdt_base`."""
    return CpuStart(
        mode="protected32",
        rip=entry,
        cr0=CR0_PE | CR0_ET,
        segments=_flat_segments(_CODE32),
        general=general,
        gdt_base=gdt_base,
        gdt_limit=len(FLAT_GDT) - 1,
    )


def long64(entry: int, general: dict[str, int], gdt_base: int, cr3: int) -> CpuStart:
    """64-bit mode under the page tables at `cr3`, flat segments; `LONG_GDT` lies at `gdt_base`."""
    return CpuStart(
        mode="long64",
        rip=entry,
        cr0=CR0_PE | CR0_ET | CR0_PG,
        segments=_flat_segments(_CODE64),
        general=general,
        cr3=cr3,
        cr4=CR4_PAE,
        efer=EFER_LME | EFER_LMA,
        gdt_base=gdt_base,
        gdt_limit=len(LONG_GDT) - 1,
    )


def identity_tables(base: int) -> bytes:
    """Six pages of tables for 4-level paging, to lie at `base`: the first 4 GiB mapped onto themselves with 2 MiB pages."""
    writable = paging.P | paging.RW

    def table(entries: Sequence[int]) -> bytes:
        return b"".join(entry.to_bytes(8, "little") for entry in entries).ljust(4096, b"\0")

    top = table([base + 0x1000 | writable])
    pointers = table([base + 0x2000 + 0x1000 * index | writable for index in range(4)])
    directories = [table([index << 30 | page << 21 | writable | paging.PS for page in range(512)]) for index in range(4)]
    return top + pointers + b"".join(directories)
