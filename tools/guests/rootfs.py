"""A Debian root file system with systemd in a cpio archive, for a kernel to run from memory; made by mmdebstrap, which asks apt."""

import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path

from tools.guests.needs import ROOT_FILE_SYSTEM, need
from tools.guests.packages import Report, keep, silent
from tools.guests.sources import GuestError, mirror
from trapgate.boot import cpio

NAME = "debian-root.cpio"
SUITE = "bookworm"
PACKAGES = ("usr-is-merged", "systemd-sysv", "udev", "dbus", "stress-ng", "tcc", "libc6-dev", "xz-utils")
MERGED_USR = "/usr/share/mmdebstrap/hooks/merged-usr"  # /bin is a link from the start: no perl needed to make it one
LEFT_OUT = (  # what no test looks at, and half of the size: graphics that stress-ng's libraries would load on demand among it
    *(f"/usr/share/{name}/*" for name in ("doc", "man", "info", "locale", "i18n", "zoneinfo")),
    *(f"/usr/lib/x86_64-linux-gnu/{name}*" for name in ("libLLVM", "libz3", "dri/")),
    "/usr/lib/udev/hwdb.d/*",
)
_TYPES = {tarfile.DIRTYPE: stat.S_IFDIR, tarfile.SYMTYPE: stat.S_IFLNK, tarfile.CHRTYPE: stat.S_IFCHR}


def make(folder: Path, report: Report = silent) -> Path:
    """The archive, which takes some minutes when it is not there. root logs in without a password. GuestError."""
    path = folder / NAME
    if path.is_file():
        return path
    need(*ROOT_FILE_SYSTEM)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".tar") as tar:
        report(0, 0)
        excluded = [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
        words = [
            "mmdebstrap",
            "--variant=minbase",
            f"--hook-dir={MERGED_USR}",
            f"--include={','.join(PACKAGES)}",
            *excluded,
            SUITE,
            tar.name,
            mirror(),
        ]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            last = [line for line in done.stderr.splitlines() if line.startswith("E:")] or ["no message"]
            raise GuestError(f"mmdebstrap failed: {last[-1]}")
        with tarfile.open(tar.name) as members:
            return keep(path, cpio.archive([node for member in members if (node := _node(members, member))]))


def _node(tar: tarfile.TarFile, member: tarfile.TarInfo) -> cpio.Node | None:
    """An archive member as cpio has it; a hard link becomes a copy. None for the root itself."""
    name = member.name.removeprefix("./").rstrip("/")
    if name in ("", "."):
        return None
    kind, data, device = _TYPES.get(member.type, stat.S_IFREG), b"", (0, 0)
    if member.issym():
        data = member.linkname.encode()
    elif member.ischr():
        device = (member.devmajor, member.devminor)
    elif member.isfile() or member.islnk():
        file = tar.extractfile(member)
        assert file is not None  # a regular file has contents
        data = file.read()
    elif not member.isdir():
        raise GuestError(f"mmdebstrap made /{name}, which is no file, link, directory or character device")
    if name == "etc/shadow":
        data = data.replace(b"root:*:", b"root::")
    return cpio.Node(name, kind | member.mode, data, device, (member.uid, member.gid))
