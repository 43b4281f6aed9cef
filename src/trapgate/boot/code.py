"""Starts machine code without an image around it, with the least that a CPU needs to execute it in a mode."""

from trapgate.arch.control import CR0_ET
from trapgate.boot.image import ImageError
from trapgate.boot.plan import FLAT_GDT, LONG_GDT, BootPlan, Piece, identity_tables, long64, protected32
from trapgate.memory import PAGE_SIZE
from trapgate.vcpu import CpuStart, SegmentStart

TABLES = 7 * PAGE_SIZE  # a GDT and six pages of page tables
REAL_MODE_END = 1 << 16  # with CS = 0


def plan(code: bytes, address: int, bits: int, top: int) -> BootPlan:
    """Code at an address, with RIP on it, interrupts disabled and flat segments. `top` is where RAM (below 3 GiB) ends.

    16 bits: real mode, CS and all other segments 0. 32: protected mode without paging. 64: under page tables that map the first
    4 GiB onto themselves, writable, for CPL 0. Tables lie in the last 28 KiB of that RAM, and the stack grows down from there (from
    64 KiB in real mode). There is no IDT. ImageError for another mode or place.
    """
    if bits not in (16, 32, 64):
        raise ImageError(f"code of {bits} bits: there is code of 16, 32 and 64")
    base = top - TABLES
    end = REAL_MODE_END if bits == 16 else base
    if not 0 <= address <= end - len(code):
        raise ImageError(f"{len(code)} bytes of {bits}-bit code at {address:#x} do not fit below {end:#x}")
    pieces = [Piece(address, code, "code")]
    match bits:
        case 16:
            return BootPlan("code", tuple(pieces), _real16(address), (), code=16)
        case 32:
            pieces.append(Piece(base, FLAT_GDT, "GDT"))
            return BootPlan("code", tuple(pieces), protected32(address, {"rsp": base}, base), (), code=32)
        case _:
            tables = base + PAGE_SIZE
            pieces += [Piece(base, LONG_GDT, "GDT"), Piece(tables, identity_tables(tables), "page tables")]
            return BootPlan("code", tuple(pieces), long64(address, {"rsp": base}, base, tables), (), code=64)


def _real16(address: int) -> CpuStart:
    data = SegmentStart(0, 0, 0xFFFF, 0x0093)
    segments = {
        "cs": SegmentStart(0, 0, 0xFFFF, 0x009B),
        **dict.fromkeys(("ds", "es", "fs", "gs", "ss"), data),
        "tr": SegmentStart(0, 0, 0xFFFF, 0x008B),
    }
    return CpuStart("real16", address, CR0_ET, segments, {"rsp": 0xFFFE}, idt_limit=0x3FF, gdt_limit=0xFFFF)
