"""Files out of Debian packages, without installing them and without root: apt-get download, then dpkg-deb and tar."""

import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.guests.sources import GuestError, output_of

Report = Callable[[int, int], None]  # bytes so far, bytes in all (0: not known)
_POLL = 0.2  # seconds between two looks at how much has arrived


def silent(so_far: int, whole: int) -> None:
    """Report to nobody."""


def fetch(package: str, folder: Path, report: Report, options: Sequence[str] = ()) -> Path:
    """Download a package into a folder and return its file; one that is there already is used. `options` are for apt."""
    name, size = _archive_name(package, options)
    target = folder / name
    if target.is_file() and target.stat().st_size == size:
        report(size, size)
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        place = Path(scratch)
        place.chmod(0o755)  # apt downloads as another user when it is run by root
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=", *options, package],
                cwd=place,
                stdout=errors,
                stderr=errors,
            )
            while process.poll() is None:
                report(sum(file.stat().st_size for file in place.iterdir() if file.is_file()), size)
                try:
                    process.wait(_POLL)
                except subprocess.TimeoutExpired:
                    continue
            errors.seek(0)
            text = errors.read().decode(errors="replace")
        arrived = list(place.glob("*.deb"))
        if process.returncode or len(arrived) != 1:
            last = text.strip().splitlines()[-1:] or ["no message"]
            raise GuestError(f"apt-get download {package} failed: {last[0]} (run `apt-get update` as root and try again)")
        arrived[0].replace(target)
    report(size, size)
    return target


def extract(archive: Path, pattern: str) -> bytes:
    """The contents of the one file in a package whose path, without `./`, matches a regular expression."""
    with tempfile.TemporaryFile() as plain:
        done = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=plain, stderr=subprocess.PIPE, check=False)
        if done.returncode:
            raise _unsound(archive, done.stderr)
        plain.seek(0)
        with tarfile.open(fileobj=plain) as tar:
            for member in tar:
                if member.isfile() and re.fullmatch(pattern, member.name.removeprefix("./")):
                    file = tar.extractfile(member)
                    assert file is not None  # a regular file has contents
                    return file.read()
    raise GuestError(f"{archive.name} holds no file like {pattern}")


def unpack(archive: Path, folder: Path) -> None:
    """All files of a package, below a folder."""
    done = subprocess.run(["dpkg-deb", "-x", str(archive), str(folder)], capture_output=True, check=False)
    if done.returncode:
        raise _unsound(archive, done.stderr)


def _unsound(archive: Path, reason: bytes) -> GuestError:
    return GuestError(f"{archive} is no sound package: {reason.decode(errors='replace').strip()}; delete it and try again")


def keep(path: Path, data: bytes, mode: int = 0o644) -> Path:
    """Store a file in one step, so that a run cut short leaves no half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as scratch:
        scratch.write(data)
        os.fchmod(scratch.fileno(), mode)
    os.replace(scratch.name, path)
    return path


def _archive_name(package: str, options: Sequence[str]) -> tuple[str, int]:
    """What apt calls the file of a package's candidate version, and its size in bytes."""
    shown = output_of("apt-cache", "show", "--no-all-versions", *options, package)
    fields = dict(re.findall(r"^(Package|Version|Architecture|Size): (\S+)$", shown, re.MULTILINE))
    try:
        return f"{fields['Package']}_{fields['Version'].replace(':', '%3a')}_{fields['Architecture']}.deb", int(fields["Size"])
    except KeyError as missing:
        raise GuestError(f"apt-cache show {package} tells no {missing.args[0]}: run `apt-get update` as root first") from None
