"""Tells disk images that are not raw by what their makers put into them.

Sources: QEMU, docs/interop/qcow2.txt, qed_spec.txt and parallels.txt; VMware, Virtual Disk Format 5.0; Microsoft, Virtual Hard Disk
Image Format Specification and [MS-VHDX]; the signatures of file(1) for VDI and UDIF.
"""

from collections.abc import Callable

from trapgate.values import dataclass


@dataclass(frozen=True, slots=True)
class Format:
    """`name` as people call it, with what qemu-img calls it."""

    name: str
    word: str


SECTOR = 512
VHD, QCOW, VMDK = Format("VHD", "vpc"), Format("qcow2", "qcow2"), Format("VMDK", "vmdk")
MAGICS = (  # (offset, from the last sector on if less than 0; magic; what it is)
    (0, b"QFI\xfb\0\0\0\x01", Format("qcow", "qcow")),
    (0, b"QFI\xfb", QCOW),
    (0, b"QED\0", Format("QED", "qed")),
    (0, b"KDMV", VMDK),
    (0, b"COWD", VMDK),
    (0, b"# Disk DescriptorFile", VMDK),
    (0x40, b"\x7f\x10\xda\xbe", Format("VDI", "vdi")),
    (0, b"vhdxfile", Format("VHDX", "vhdx")),
    (0, b"conectix", VHD),
    (-SECTOR, b"conectix", VHD),
    (-SECTOR, b"koly", Format("DMG", "dmg")),
    (0, b"WithoutFreeSpace", Format("Parallels", "parallels")),
    (0, b"WithouFreSpacExt", Format("Parallels", "parallels")),
)


def format_of(read: Callable[[int, int], bytes], size: int) -> Format | None:
    """What a file of so many bytes is, of which `read(offset, length)` gives some; None: raw, as far as can be told."""
    for offset, magic, found in MAGICS:
        at = offset if offset >= 0 else size + offset
        if 0 <= at <= size - len(magic) and read(at, len(magic)) == magic:
            return found
    return None
