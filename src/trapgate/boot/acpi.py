"""Builds the ACPI tables of the board: RSDP, RSDT, XSDT, FADT, FACS, MADT, DSDT with \\_S5, COM1, clock and more. ACPI 6.5.

They lie between E0000h and FFFFFh, where guests look for the RSDP and where the memory map says "reserved".
"""

import struct

from trapgate.arch import layout
from trapgate.boot import aml
from trapgate.boot.image import ImageError
from trapgate.boot.plan import BootOptions, Piece
from trapgate.boot.regions import FIRMWARE_END, FIRMWARE_START, Regions
from trapgate.values import dataclass

OEM_ID, OEM_TABLE_ID, CREATOR = b"TRAPGT", b"TRAPGATE", b"TRAP"
MAX_CPUS = 254  # 8-bit APIC identifiers; 255 means all
_HEADER = struct.Struct("<4sIBB6s8sI4sI")
_FACS_SIZE, _FACS_ALIGN = 64, 64
_FADT_SIZE = 276  # revision 6

# FADT flags (table 5.10)
WBINVD, PROC_C1, PWR_BUTTON, SLP_BUTTON, TMR_VAL_EXT, RESET_REG_SUP = 1 << 0, 1 << 2, 1 << 4, 1 << 5, 1 << 8, 1 << 10
# FADT IA-PC boot flags (table 5.11). The keyboard controller only resets, so it is not announced: guests need not search for keys.
LEGACY_DEVICES, VGA_NOT_PRESENT = 1 << 0, 1 << 2
PCAT_COMPAT = 1 << 0  # MADT: the two 8259 are there
ACTIVE_HIGH, LEVEL = 1 << 0, 3 << 2  # MADT interrupt flags


@dataclass(frozen=True, slots=True)
class Tables:
    """The bytes to load, and where the RSDP is; 0 and nothing when RAM does not reach so far."""

    rsdp: int
    pieces: tuple[Piece, ...]


def place(regions: Regions, options: BootOptions) -> Tables:
    """Claim the place of the tables and build them; ImageError when the image lies there, or for an impossible number of CPUs."""
    if not 1 <= options.cpus <= MAX_CPUS:
        raise ImageError(f"{options.cpus} vCPUs: there can be 1 to {MAX_CPUS}")
    if not any(start <= FIRMWARE_START and end >= FIRMWARE_END for start, end in options.ram):
        return Tables(0, ())
    data = build(FIRMWARE_START, options.cpus, options.virtio)
    regions.claim(FIRMWARE_START, len(data), "ACPI tables")
    return Tables(FIRMWARE_START, (Piece(FIRMWARE_START, data, "ACPI tables"),))


def build(base: int, cpus: int, virtio: int = 0) -> bytes:
    """All tables for a board with so many processors and virtio devices, to lie at `base` (a multiple of 64), the RSDP first."""
    assert base % _FACS_ALIGN == 0
    out = bytearray(64)  # the RSDP comes last, when the addresses are known

    def put(data: bytes, align: int = 16) -> int:
        out.extend(bytes(-len(out) % align))
        out.extend(data)
        return base + len(out) - len(data)

    facs = put(struct.pack("<4sIIIIIQB", b"FACS", _FACS_SIZE, 0, 0, 0, 0, 0, 2).ljust(_FACS_SIZE, b"\0"), _FACS_ALIGN)
    dsdt = put(table(b"DSDT", 2, dsdt_terms(virtio)))
    fadt = put(table(b"FACP", 6, _fadt_body(facs, dsdt)))
    madt = put(table(b"APIC", 5, _madt_body(cpus)))
    rsdt = put(table(b"RSDT", 1, struct.pack("<II", fadt, madt)))
    xsdt = put(table(b"XSDT", 1, struct.pack("<QQ", fadt, madt)))
    out[:36] = _rsdp(rsdt, xsdt)
    return bytes(out)


def table(signature: bytes, revision: int, body: bytes) -> bytes:
    """A system description table: the common header (5.2.6) with its checksum, and the body."""
    length = _HEADER.size + len(body)
    header = _HEADER.pack(signature, length, revision, 0, OEM_ID, OEM_TABLE_ID, 1, CREATOR, 1)
    whole = bytearray(header + body)
    whole[9] = _checksum(whole)
    return bytes(whole)


def dsdt_terms(virtio: int) -> bytes:
    """What the board has that cannot be found otherwise: the sleep type of power-off, the serial port, the clock (RTC), fw_cfg."""
    off = aml.integer(layout.S5_SLEEP_TYPE)
    zero = aml.integer(0)
    serial = aml.resources(aml.io_ports(layout.COM1_PORT, 8), aml.irq(layout.COM1_IRQ))
    clock = aml.resources(aml.io_ports(layout.RTC_PORT, 2), aml.irq(layout.RTC_IRQ))
    firmware = aml.resources(aml.io_ports(layout.FW_CFG_PORT, layout.FW_CFG_LENGTH))
    return aml.name("\\_S5", aml.package(off, off, zero, zero)) + aml.scope(
        "\\_SB",
        aml.device(
            "COM1",
            aml.name("_HID", aml.eisa_id("PNP0501")),
            aml.name("_UID", aml.integer(1)),
            aml.name("_CRS", serial),
        ),
        aml.device(
            "FWCF",
            aml.name("_HID", aml.string("QEMU0002")),
            aml.name("_STA", aml.integer(0x0B)),  # there, on, and not for the user to see
            aml.name("_CRS", firmware),
        ),
        aml.device("RTC", aml.name("_HID", aml.eisa_id("PNP0B00")), aml.name("_CRS", clock)),
        *(_virtio_device(number) for number in range(virtio)),
    )


def _virtio_device(number: int) -> bytes:
    """A virtio device behind memory-mapped registers: Linux knows it by this identifier (drivers/virtio/virtio_mmio.c)."""
    place = aml.memory(layout.VIRTIO_BASE + number * layout.PAGE_BYTES, layout.VIRTIO_LENGTH)
    return aml.device(
        f"VR{number:02X}",
        aml.name("_HID", aml.string("LNRO0005")),
        aml.name("_UID", aml.integer(number)),
        aml.name("_CCA", aml.integer(1)),
        aml.name("_CRS", aml.resources(place, aml.interrupt(layout.VIRTIO_GSI + number))),
    )


def _fadt_body(facs: int, dsdt: int) -> bytes:
    """The FADT after its header (5.2.9). SMI_CMD is 0: the board is in ACPI mode from the start."""
    fadt = bytearray(_FADT_SIZE)

    def put(offset: int, size: int, value: int) -> None:
        fadt[offset : offset + size] = value.to_bytes(size, "little")

    put(36, 4, facs)
    put(40, 4, dsdt)
    put(45, 1, 1)  # preferred profile: desktop
    put(46, 2, layout.SCI_IRQ)
    put(56, 4, layout.PM1_EVENT_PORT)
    put(64, 4, layout.PM1_CONTROL_PORT)
    put(76, 4, layout.PM_TIMER_PORT)
    put(88, 1, layout.PM1_EVENT_LENGTH)
    put(89, 1, layout.PM1_CONTROL_LENGTH)
    put(91, 1, layout.PM_TIMER_LENGTH)
    put(96, 2, 0xFFFF)  # no C2: its latency is above 100 us
    put(98, 2, 0xFFFF)  # no C3: above 1000 us
    put(108, 1, layout.RTC_CENTURY_INDEX)
    put(109, 2, LEGACY_DEVICES | VGA_NOT_PRESENT)
    put(112, 4, WBINVD | PROC_C1 | PWR_BUTTON | SLP_BUTTON | TMR_VAL_EXT | RESET_REG_SUP)
    fadt[116:128] = _io_address(layout.RESET_PORT, 1)
    put(128, 1, layout.RESET_VALUE)
    put(131, 1, 5)  # minor version
    # X_FIRMWARE_CTRL stays 0, for FIRMWARE_CTRL is set (5.2.9); the other extended addresses repeat the short ones.
    put(140, 8, dsdt)
    fadt[148:160] = _io_address(layout.PM1_EVENT_PORT, layout.PM1_EVENT_LENGTH)
    fadt[172:184] = _io_address(layout.PM1_CONTROL_PORT, layout.PM1_CONTROL_LENGTH)
    fadt[208:220] = _io_address(layout.PM_TIMER_PORT, layout.PM_TIMER_LENGTH)
    return bytes(fadt[_HEADER.size :])


def _madt_body(cpus: int) -> bytes:
    """The MADT after its header (5.2.12): a local APIC for each processor, the I/O APIC, what differs from the ISA defaults."""
    parts = [struct.pack("<II", layout.LAPIC_BASE, PCAT_COMPAT)]
    parts += [struct.pack("<BBBBI", 0, 8, number, number, 1) for number in range(cpus)]
    parts.append(struct.pack("<BBBBII", 1, 12, layout.IOAPIC_ID, 0, layout.IOAPIC_BASE, 0))
    parts.append(struct.pack("<BBBBIH", 2, 10, 0, layout.PIT_IRQ, layout.PIT_GSI, 0))
    parts.append(struct.pack("<BBBBIH", 2, 10, 0, layout.SCI_IRQ, layout.SCI_IRQ, ACTIVE_HIGH | LEVEL))
    parts.append(struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1))  # NMI at LINT1 of every processor
    return b"".join(parts)


def _rsdp(rsdt: int, xsdt: int) -> bytes:
    """The root pointer (5.2.5.3): one checksum over its first 20 bytes, one over all 36."""
    pointer = bytearray(struct.pack("<8sB6sBIIQB3x", b"RSD PTR ", 0, OEM_ID, 2, rsdt, 36, xsdt, 0))
    pointer[8] = _checksum(pointer[:20])
    pointer[32] = _checksum(pointer)
    return bytes(pointer)


def _io_address(port: int, length: int) -> bytes:
    """A generic address structure (5.2.3.2) for I/O ports: space 1, width in bits, offset 0, access size (3 = dword)."""
    return struct.pack("<BBBBQ", 1, 8 * length, 0, {1: 1, 2: 2, 4: 3}[length], port)


def _checksum(data: bytes | bytearray) -> int:
    """The byte that makes the sum of all bytes 0 (mod 256), for a table whose checksum field is still 0."""
    return -sum(data) & 0xFF
