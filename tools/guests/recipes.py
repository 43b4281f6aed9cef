"""Which file of which Debian package each guest is, and where apt finds it."""

from dataclasses import dataclass, replace

from tools.guests.sources import Source

STABLE_32 = Source("bookworm", "i386")
BACKPORTS = Source("trixie-backports")  # the newest kernels that Debian builds for a release
KERNEL_FILE = r"boot/vmlinuz-.*|usr/lib/modules/[^/]*/vmlinuz"

INSTALLER = r"usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64"


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
MODULE_PACKAGES = {  # of kernels that have them in a package of their own
    "backports": replace(KERNELS["backports"], follow=(r"linux-image-\d.*-cloud-amd64", r"linux-modules-\d.*-cloud-amd64")),
}
OTHERS = {
    "vmlinuz-rt": Recipe("linux-image-rt-amd64", (r"linux-image-\d.*-rt-amd64",), KERNEL_FILE),
    "vmlinuz-6.1-amd64": Recipe("linux-image-amd64", (r"linux-image-\d.*-amd64",), KERNEL_FILE),  # Xen's dom0: cloud kernels cannot
    "xen": Recipe("xen-system-amd64", (r"xen-hypervisor-\d.*-amd64",), r"boot/xen-\d.*-amd64\.gz"),
    "memtest86+x64": Recipe("memtest86+", (), r"boot/memtest86\+x64\.bin"),
    "memtest86+ia32": Recipe("memtest86+", (), r"boot/memtest86\+ia32\.bin"),
    "gnumach": Recipe("gnumach-image-1.8-486", (), r"boot/gnumach-1\.8-486\.gz"),
    "installer-kernel": Recipe("debian-installer-12-netboot-amd64", (), rf"{INSTALLER}/linux"),
    "installer-initrd": Recipe("debian-installer-12-netboot-amd64", (), rf"{INSTALLER}/initrd\.gz"),
    "ipxe.lkrn": Recipe("ipxe", (), r"boot/ipxe\.lkrn"),
}
