"""The ACPI tables: checksums, pointers, what they say of the board, and AML against the encodings of the specification."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from trapgate.arch import layout
from trapgate.boot import acpi, aml

BASE = 0xE_0000


def table_at(blob: bytes, address: int) -> bytes:
    """The table at a guest-physical address; its length is its second field."""
    at = address - BASE
    return blob[at : at + int.from_bytes(blob[at + 4 : at + 8], "little")]


def tables(cpus: int = 1) -> dict[bytes, bytes]:
    """Every table by signature, found the way a guest finds them."""
    blob = acpi.build(BASE, cpus)
    assert blob[:8] == b"RSD PTR "
    assert sum(blob[:20]) % 256 == 0
    assert sum(blob[:36]) % 256 == 0
    rsdt, length, xsdt = struct.unpack_from("<IIQ", blob, 16)
    assert length == 36
    roots = [table_at(blob, rsdt), table_at(blob, xsdt)]
    short, wide = struct.unpack("<II", roots[0][36:]), struct.unpack("<QQ", roots[1][36:])
    assert short == wide
    found = {whole[:4]: whole for whole in (*roots, *(table_at(blob, address) for address in wide))}
    facs, dsdt = struct.unpack_from("<II", found[b"FACP"], 36)
    assert facs % 64 == 0
    found[b"DSDT"], found[b"FACS"] = table_at(blob, dsdt), table_at(blob, facs)
    assert struct.unpack_from("<Q", found[b"FACP"], 140) == (dsdt,)
    return found


def test_every_table_is_reached_and_its_bytes_sum_to_zero() -> None:
    found = tables()
    assert set(found) == {b"RSDT", b"XSDT", b"FACP", b"APIC", b"DSDT", b"FACS"}
    for signature, whole in found.items():
        if signature != b"FACS":  # it has no checksum
            assert sum(whole) % 256 == 0, signature


def test_the_fadt_names_the_ports_of_the_board() -> None:
    fadt = tables()[b"FACP"]
    assert len(fadt) == 276
    assert struct.unpack_from("<I", fadt, 64) == (layout.PM1_CONTROL_PORT,)
    assert struct.unpack_from("<BBBBQ", fadt, 172) == (1, 16, 0, 2, layout.PM1_CONTROL_PORT)
    assert struct.unpack_from("<I", fadt, 48) == (0,)  # SMI_CMD: ACPI mode from the start
    assert struct.unpack_from("<I", fadt, 112)[0] >> 20 & 1 == 0  # not hardware-reduced
    assert struct.unpack_from("<BBBBQB", fadt, 116) == (1, 8, 0, 1, layout.RESET_PORT, layout.RESET_VALUE)


def test_the_madt_has_every_processor_and_the_interrupt_overrides() -> None:
    madt = tables(cpus=3)[b"APIC"]
    assert struct.unpack_from("<II", madt, 36) == (layout.LAPIC_BASE, 1)
    entries, at = [], 44
    while at < len(madt):
        entries.append(madt[at : at + madt[at + 1]])
        at += madt[at + 1]
    assert [entry[2:4] for entry in entries if entry[0] == 0] == [b"\0\0", b"\1\1", b"\2\2"]
    assert [struct.unpack("<BI", entry[3:8]) for entry in entries if entry[0] == 2] == [(0, 2), (9, 9)]
    assert [struct.unpack("<II", entry[4:]) for entry in entries if entry[0] == 1] == [(layout.IOAPIC_BASE, 0)]


def test_the_dsdt_has_what_cannot_be_found_otherwise() -> None:
    dsdt = tables()[b"DSDT"]
    assert aml.string("QEMU0002") in dsdt
    assert aml.io_ports(0x510, 12) in dsdt


def test_the_dsdt_has_virtio_devices_each_at_its_place() -> None:
    none, two = acpi.dsdt_terms(0), acpi.dsdt_terms(2)
    assert aml.string("LNRO0005") not in none
    assert two.count(aml.string("LNRO0005")) == 2
    for number in (0, 1):
        resources = aml.memory(0xFEB0_0000 + 0x1000 * number, 0x200) + aml.interrupt(16 + number)
        assert two.count(resources) == 1
        assert aml.path(f"VR0{number}") in two


def test_a_board_full_of_processors_still_fits() -> None:
    assert len(acpi.build(BASE, acpi.MAX_CPUS)) < 0x2_0000


@pytest.mark.parametrize(
    ("made", "encoding"),
    [
        (aml.integer(0), "00"),
        (aml.integer(1), "01"),
        (aml.integer(2), "0a02"),
        (aml.integer(0x1234), "0b3412"),
        (aml.integer(0x12345678), "0c78563412"),
        (aml.string("ab"), "0d616200"),
        (aml.eisa_id("PNP0501"), "0c41d00501"),
        (aml.path("\\_SB"), "5c5f53425f"),
        (aml.path("_SB.COM1"), "2e5f53425f434f4d31"),
        (aml.memory(0xFEB01000, 0x200), "860900010010b0fe00020000"),
        (aml.interrupt(17), "890600010111000000"),
        (aml.package(aml.integer(5), aml.integer(0)), "1205020a0500"),
        (aml.buffer(b"\x79\x00"), "11050a027900"),
        (aml.sized(bytes(62))[:2], "3f00"),
        (aml.sized(bytes(63))[:3], "410400"),
        (aml.sized(bytes(4093))[:2], "4fff"),
        (aml.sized(bytes(4094))[:3], "810001"),
    ],
)
def test_aml_is_encoded_as_the_specification_says(made: bytes, encoding: str) -> None:
    assert made.hex() == encoding


@pytest.mark.parametrize("text", ["TOOLONG", "A.B.C", ""])
def test_bad_names_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="at most four"):
        aml.path(text)


@pytest.mark.skipif(shutil.which("iasl") is None, reason="iasl (acpica-tools) is not installed")
def test_the_reference_disassembler_reads_the_dsdt(tmp_path: Path) -> None:
    (tmp_path / "dsdt.dat").write_bytes(tables()[b"DSDT"])
    subprocess.run(["iasl", "-d", "dsdt.dat"], cwd=tmp_path, check=True, capture_output=True)
    source = (tmp_path / "dsdt.dsl").read_text()
    assert 'EisaId ("PNP0501")' in source
    assert "0x03F8" in source
    assert "_S5, Package (0x04)" in source
