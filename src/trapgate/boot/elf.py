"""Reads what a loader needs of an ELF file: class, entry, what to load where, its notes. ELF32 and ELF64, little-endian x86.

Written here, not taken from pyelftools, because that reads the section headers before anything else: a boot image may come without
them, or with broken ones, and every (offset, size) of a hostile file must pass `Image.slice`.
"""

from collections.abc import Iterator

from trapgate.arch.msrs import EFER
from trapgate.boot.image import Image
from trapgate.boot.plan import Piece
from trapgate.boot.regions import Regions
from trapgate.values import dataclass

MAX_PROGRAM_HEADERS = 256
MAX_NOTES = 256
MAX_OWNER = 64  # bytes of a note's name: a longer one is cut, for none that matters is so long
PT_LOAD, PT_INTERP, PT_NOTE = 1, 3, 4
EXECUTABLE_TYPES = (2, 3)  # ET_EXEC, ET_DYN
MACHINES = {1: 3, 2: 62}  # EI_CLASS to e_machine: EM_386, EM_X86_64
MACHINE_NAMES = {3: "x86 (32-bit)", 8: "MIPS", 20: "PowerPC", 21: "PowerPC64", 40: "ARM", 62: "x86-64", 183: "AArch64"}
MACHINE_NAMES |= {2: "SPARC", 4: "m68k", 22: "s390", 43: "SPARC V9", 50: "IA-64", 243: "RISC-V", 258: "LoongArch"}
KINDS = {
    1: "a relocatable object file: link it first, to the address where it runs",
    4: "a core dump, not a kernel",
}


@dataclass(frozen=True, slots=True)
class Segment:
    """A program header. Addresses are the file's own: nothing is checked yet but that the header is there."""

    kind: int
    offset: int
    virtual: int
    physical: int
    file_size: int
    memory_size: int
    alignment: int


@dataclass(frozen=True, slots=True)
class Elf:
    """An ELF file: `bits` is 32 or 64."""

    image: Image
    bits: int
    entry: int
    segments: tuple[Segment, ...]

    def loadable(self) -> list[Segment]:
        """The segments that occupy memory."""
        return [segment for segment in self.segments if segment.kind == PT_LOAD and segment.memory_size]

    def physical_entry(self) -> int:
        """The entry point where it lies in memory: many kernels name it by its virtual address."""
        for segment in self.loadable():
            if segment.physical != segment.virtual and segment.virtual <= self.entry < segment.virtual + segment.memory_size:
                return self.entry - segment.virtual + segment.physical
        return self.entry

    def notes(self) -> Iterator[tuple[bytes, int, memoryview]]:
        """(name, type, description) of every note.

        Names and descriptions are padded to 8 bytes in a segment aligned to 8, else to 4, as readelf has it.
        """
        left = MAX_NOTES
        for segment in self.segments:
            if segment.kind != PT_NOTE:
                continue
            notes = Image(self.image.slice(segment.offset, segment.file_size, "a note segment"), self.image.name)
            at, mask = 0, 7 if segment.alignment == 8 else 3
            while at + 12 <= len(notes):
                if not left:
                    raise self.image.error(f"more than {MAX_NOTES} ELF notes")
                left -= 1
                name_size, size, kind = notes.unpack("III", at, "a note header")
                name = notes.slice(at + 12, name_size, "a note's name")
                at = at + 12 + name_size + mask & ~mask
                yield bytes(name[:MAX_OWNER]).rstrip(b"\0"), kind, notes.slice(at, size, "a note's description")
                at = at + size + mask & ~mask


_MOST_SEARCHED = 1 << 26  # bytes of a file
_EFER_NUMBER = EFER.to_bytes(4, "little")


def code_width(image: Image) -> int:
    """The width of the code that a file is there for: 64 for ELF64, 32 for ELF32 and 0 for what is no ELF file.

    ELF32 may hold 64-bit code, too, for multiboot loaders take no other class. Such code enters long mode, for which it must name
    EFER: a file that does so gives 0, any width.
    """
    if not is_elf(image):
        return 0
    if image.has(4, b"\x02"):
        return 64
    return 0 if _EFER_NUMBER in bytes(image.data[:_MOST_SEARCHED]) else 32


def is_elf(image: Image) -> bool:
    """Whether the file begins as an ELF file does."""
    return image.has(0, b"\x7fELF")


def parse(image: Image) -> Elf:
    """Read the file header and the program headers; ImageError when they are cut, absurd or for another machine."""
    class_, encoding = image.unpack("BB", 4, "the ELF identification")
    if class_ not in MACHINES or encoding not in (1, 2):
        raise image.error("an ELF file, but neither of 32 nor of 64 bits")
    if encoding == 2:
        machine = int.from_bytes(image.slice(18, 2, "the ELF header"), "big")
        raise image.error(f"a big-endian ELF file for {MACHINE_NAMES.get(machine, f'machine {machine}')}, not for x86")
    wide = class_ == 2
    kind, machine = image.unpack("HH", 16, "the ELF header")
    if machine != MACHINES[class_] and machine in MACHINES.values():
        raise image.error(f"an ELF{64 if wide else 32} file of {MACHINE_NAMES[machine]} code: link it as ELF{32 if wide else 64}")
    if machine != MACHINES[class_]:
        raise image.error(f"an ELF file for {MACHINE_NAMES.get(machine, f'machine {machine}')}, not for x86")
    if kind not in EXECUTABLE_TYPES:
        raise image.error(KINDS.get(kind, f"an ELF file that is no executable (type {kind})"))
    entry, table = image.unpack("QQ" if wide else "II", 24, "the ELF header")
    entry_size, count = image.unpack("HH", 54 if wide else 42, "the ELF header")
    if count > MAX_PROGRAM_HEADERS:
        raise image.error(f"{count} ELF program headers; at most {MAX_PROGRAM_HEADERS} are taken")
    if count and entry_size < (56 if wide else 32):
        raise image.error(f"ELF program headers of {entry_size} bytes are too small")
    segments = tuple(_segment(image, table + index * entry_size, wide) for index in range(count))
    return Elf(image, 64 if wide else 32, entry, segments)


def _segment(image: Image, at: int, wide: bool) -> Segment:
    what = "an ELF program header"
    if wide:
        kind, _flags, offset, virtual, physical, file_size, memory_size, alignment = image.unpack("IIQQQQQQ", at, what)
    else:
        kind, offset, virtual, physical, file_size, memory_size, _flags, alignment = image.unpack("IIIIIIII", at, what)
    return Segment(kind, offset, virtual, physical, file_size, memory_size, alignment)


def place_segments(elf: Elf, regions: Regions) -> list[Piece]:
    """Claim memory for every loadable segment and return the bytes that go there; ImageError when one does not fit or overlaps."""
    pieces = []
    for number, segment in enumerate(elf.loadable()):
        what = f"segment {number} of {elf.image.name}"
        if segment.file_size > segment.memory_size:
            raise elf.image.error(f"ELF segment {number} has more bytes in the file than in memory")
        data = elf.image.slice(segment.offset, segment.file_size, f"ELF segment {number}")
        regions.claim(segment.physical, segment.memory_size, what)
        pieces.append(Piece(segment.physical, data, what))
    if not pieces:
        raise elf.image.error("an ELF file with nothing to load")
    return pieces


def check_entry(elf: Elf, entry: int) -> int:
    """The entry point, if it lies in a loaded segment; ImageError otherwise."""
    if not any(segment.physical <= entry < segment.physical + segment.memory_size for segment in elf.loadable()):
        raise elf.image.error(f"its entry point {entry:#x} is in no loaded segment")
    return entry
