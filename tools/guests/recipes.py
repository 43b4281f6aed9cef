"""Which file of which Debian package each guest is, and where apt finds it."""

from dataclasses import dataclass

from tools.guests.sources import Source

STABLE_32 = Source("bookworm", "i386")
BACKPORTS = Source("trixie-backports")  # the newest kernels that Debian builds for a release
KERNEL_FILE = r"boot/vmlinuz-.*|usr/lib/modules/[^/]*/vmlinuz"


@dataclass(frozen=True, slots=True)
class Recipe:
    """A package, the dependencies to follow from it (regular expressions), the file's path in the last one (another)."""

    package: str
    follow: tuple[str, ...]
    file: str
    source: Source | None = None  # None: the host's own sources
    architecture: str = "amd64"  # of the programs that the guest runs


KERNELS = {
    "6.1": Recipe("linux-image-cloud-amd64", (r"linux-image-\d.*-cloud-amd64",), KERNEL_FILE),
    "6.12": Recipe("linux-image-6.12-cloud-amd64", (r"linux-image-\d.*-cloud-amd64",), KERNEL_FILE),
    "backports": Recipe(
        "linux-image-cloud-amd64", (r"linux-image-\d.*-cloud-amd64", r"linux-binary-\d.*-cloud-amd64"), KERNEL_FILE, BACKPORTS
    ),
    "686-pae": Recipe("linux-image-686-pae", (r"linux-image-\d.*-686-pae",), KERNEL_FILE, STABLE_32, "i386"),
}
OTHERS = {
    "vmlinuz-6.1-amd64": Recipe("linux-image-amd64", (r"linux-image-\d.*-amd64",), KERNEL_FILE),  # Xen's dom0: cloud kernels cannot
    "xen": Recipe("xen-system-amd64", (r"xen-hypervisor-\d.*-amd64",), r"boot/xen-\d.*-amd64\.gz"),
    "memtest86+x64": Recipe("memtest86+", (), r"boot/memtest86\+x64\.bin"),
    "memtest86+ia32": Recipe("memtest86+", (), r"boot/memtest86\+ia32\.bin"),
    "ipxe.lkrn": Recipe("ipxe", (), r"boot/ipxe\.lkrn"),
}
