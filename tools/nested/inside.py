"""Runs in the nested machine: each job of /nested/jobs.json, and what came of it, line by line as JSON, over the serial line."""

import json
import os
import subprocess
import sys
import time
import tty
from pathlib import Path

LINE = "/dev/ttyS1"


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
    adopt_stencils()
    for job in json.loads(Path("/nested/jobs.json").read_text()):
        tell({"begin": job["name"]})
        tell(run(job))
    tell({"over": True})


if __name__ == "__main__":
    main()
