"""Runs in the nested machine: each job of /nested/jobs.json, and what came of it, line by line as JSON, over the serial line."""

import json
import os
import subprocess
import sys
import time
import tty
from pathlib import Path

LINE = "/dev/ttyS1"
DEVICE = Path("/dev/kvm")
NESTED_PAGING = Path("/sys/module/kvm_amd/parameters/npt")


def tell(record: dict[str, object]) -> None:
    """Send a record to the host."""
    with open(LINE, "w") as line:
        line.write(json.dumps(record) + "\n")


def run(job: dict[str, object]) -> dict[str, object]:
    """A job's end: its exit status (None: out of time) and its output."""
    began = time.monotonic()
    words, limit = job["words"], job["seconds"]
    assert isinstance(words, list) and isinstance(limit, int)
    with open("/tmp/output", "wb") as output:
        try:
            status = subprocess.run(
                words, stdout=output, stderr=output, stdin=subprocess.DEVNULL, timeout=limit, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            status = None
    text = Path("/tmp/output").read_text(errors="replace")
    return {"end": job["name"], "status": status, "output": text, "seconds": time.monotonic() - began}


def trouble() -> str:
    """Why no guest can run here, in a line; '' when one can."""
    if not DEVICE.exists():
        log = subprocess.run(["/usr/bin/busybox", "dmesg"], capture_output=True, text=True, check=False).stdout
        said = [line.partition("] ")[2] for line in log.splitlines() if "kvm" in line or "SVM" in line]
        return f"no /dev/kvm: kvm_amd is not there, or finds no SVM ({said[-1] if said else 'it says nothing'})"
    if NESTED_PAGING.read_text().strip() in "N0":
        return "kvm_amd is without nested paging (npt=0): on this QEMU guests that read CR3 get the shadow tables' and die"
    from trapgate.kvm import probe
    from trapgate.kvm.ioctl import KvmError

    try:
        first = next(probe.abilities())
    except KvmError as error:
        return str(error)
    return "" if first.holds else f"this KVM runs no guest: {first.name}: {first.seen}"


def adopt_stencils() -> None:
    """Take the stencils that the host has made for this machine's own: to compile them here takes minutes.

    LLVM chooses instructions for the host's CPU, without AVX-512; QEMU's `max` CPU has the rest of what it uses for integer code.
    """
    from trapgate.stencil.cache import Cache
    from trapgate.stencil.library import key

    cache = Cache()
    for path in cache.directory.glob("stencils-*"):
        data = cache.load(path.name)
        assert data is not None
        cache.store(key(), bytes(data))


def main() -> None:
    """All jobs, then a record that nothing follows."""
    with open(LINE, "rb+", buffering=0) as line:
        tty.setraw(line.fileno())
    tell({"kernel": os.uname().release, "python": sys.version.split()[0]})
    if why := trouble():
        tell({"trouble": why})
        tell({"over": True})
        return
    adopt_stencils()
    for job in json.loads(Path("/nested/jobs.json").read_text()):
        tell({"begin": job["name"]})
        tell(run(job))
    tell({"over": True})


if __name__ == "__main__":
    main()
