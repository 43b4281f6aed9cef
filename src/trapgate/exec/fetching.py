"""Fetches Debian's kernel: from where apt has it already, by apt, which checks signatures, or by HTTP with a digest of ours."""

import hashlib
import re
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

from trapgate.exec.errors import ExecError
from trapgate.exec.kernel import SERIES, Kernel, Progress, of_package

ARCHIVES = Path("/var/cache/apt/archives")  # packages that apt has fetched for this host
PACKAGE = re.compile(rf"linux-image-{re.escape(SERIES)}\.(\d+)(?:\+\w+)*-cloud-amd64")
PINNED = "linux-image-6.12.117+deb12-cloud-amd64_6.12.117-1~deb12u1_amd64.deb"
PINNED_DIGEST = "5195b288dec79e2981d6b84457f38b7ce7310a2d702930ec7d07209c7f78ce37"  # SHA-256
PINNED_SIZE = 34_307_256
POOL = "debian-security/pool/updates/main/l/linux-signed-6.12-amd64"
ADDRESSES = (
    f"http://deb.debian.org/{POOL}/{PINNED}",
    f"http://snapshot.debian.org/archive/debian-security/20261128T000000Z/{POOL.partition('/')[2]}/{PINNED}",
)
"""Where it lies while it is the newest, and where every package stays. What comes is checked, however it came."""
WHAT = "fetching Debian's kernel, once"
LOOK = 0.2  # s between two looks at how much has arrived
PATIENCE = 30.0  # s without an answer
CHUNK = 1 << 18  # bytes


def fetched(progress: Progress) -> Kernel:
    """Debian's kernel, from the first place that has it. ExecError, with what each of them said."""
    refused = []
    with tempfile.TemporaryDirectory(prefix="trapgate-") as scratch:
        for place in (_had, _by_apt, _by_http):
            try:
                package = place(Path(scratch), progress)
                progress("unpacking the kernel, once", 0, 0)
                return of_package(package)
            except ExecError as error:
                refused.append(str(error))
    what = "a linux-image-*-cloud-amd64 package of Debian's"
    raise ExecError(f"no kernel for the guest: {'; '.join(refused)}. Give one with --kernel FILE: {what}")


def _newest(names: Iterator[str]) -> str | None:
    found = [(int(match[1]), name) for name in names if (match := PACKAGE.match(name))]
    return max(found)[1] if found else None


def _had(scratch: Path, progress: Progress) -> Path:
    name = _newest(path.name for path in ARCHIVES.glob("linux-image-*_amd64.deb")) if ARCHIVES.is_dir() else None
    if name is None:
        raise ExecError("none among the packages that apt has fetched")
    return ARCHIVES / name


def _by_apt(scratch: Path, progress: Progress) -> Path:
    name = _newest(iter(_said(scratch, "apt-cache", "pkgnames", "linux-image-").split()))
    if name is None:
        raise ExecError(f"apt knows no linux-image-{SERIES}.*-cloud-amd64")
    size = re.search(r"^Size: (\d+)$", _said(scratch, "apt-cache", "show", "--no-all-versions", name), re.MULTILINE)
    whole = int(size[1]) if size else 0
    # apt downloads as another user when root runs it, and that one cannot write here
    words = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=", name]
    process = subprocess.Popen(
        words, cwd=scratch, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        while process.poll() is None:
            progress(WHAT, sum(file.stat().st_size for file in scratch.iterdir()), whole)
            time.sleep(LOOK)
        _, said = process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    found = list(scratch.glob("*.deb"))
    if process.returncode or not found:
        raise ExecError(f"apt-get download {name} failed: {_last(said)}")
    return found[0]


def _said(scratch: Path, *words: str) -> str:
    try:
        done = subprocess.run(words, cwd=scratch, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise ExecError(f"{words[0]}: {error.strerror}") from error
    if done.returncode:
        raise ExecError(f"{words[0]} failed: {_last(done.stderr)}")
    return done.stdout


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]


def _by_http(scratch: Path, progress: Progress) -> Path:
    refused = []
    for address in ADDRESSES:
        target = scratch / PINNED
        try:
            with urllib.request.urlopen(address, timeout=PATIENCE) as answer, target.open("wb") as file:
                digest, done = hashlib.sha256(), 0
                while data := answer.read(CHUNK):
                    file.write(data)
                    digest.update(data)
                    done += len(data)
                    progress(WHAT, done, PINNED_SIZE)
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            refused.append(f"{address.split('/')[2]}: {getattr(reason, 'strerror', None) or reason}")
            continue
        if digest.hexdigest() == PINNED_DIGEST:
            return target
        refused.append(f"{address.split('/')[2]}: the package is not the one that was asked for (SHA-256)")
    raise ExecError("; ".join(refused))
