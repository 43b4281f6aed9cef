"""Which judges this host has for the tests, told in one line at the start of a run."""

import re
import shutil
import subprocess
from functools import cache

from silicon import recording
from silicon.processor import host_processor
from trapgate.kvm import probe
from trapgate.kvm.ioctl import KvmError

VERSION = re.compile(r"\d+\.\d[\w.]*")
PROGRAMS = {"gdb": "gdb", "QEMU": "qemu-system-x86_64", "Bochs": "bochs"}


@cache
def kvm_trouble() -> str:
    """Why /dev/kvm is no judge here, from a guest of a few instructions; empty where it is one."""
    try:
        first = next(probe.abilities())
    except KvmError as error:
        return str(error)
    return "" if first.holds else f"{first.name}: {first.seen}"


def _silicon() -> str:
    """The live host, and the CPU model that it judges."""
    try:
        processor = host_processor()
    except ValueError as error:
        return f"no host CPU: {error}"
    if processor.guest_model is None:
        return f"host CPU {processor}, of a vendor without a CPU model here"
    return f"host CPU {processor} for {processor.guest_model}"


def _recordings() -> str:
    """The recordings by name."""
    names = sorted(path.name.removesuffix(recording.SUFFIX) for path in recording.FOLDER.glob(f"*{recording.SUFFIX}"))
    return f"recordings {', '.join(names)}" if names else "no recordings"


def _program(name: str, command: str) -> str:
    """A program's version, or that it is not there."""
    path = shutil.which(command)
    if path is None:
        return f"no {name}"
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no {name}: {error}"
    found = VERSION.search(done.stdout)
    return f"{name} {found[0]}" if found else name


def line() -> str:
    """The line: the live host, recordings, KVM, programs."""
    trouble = kvm_trouble()
    kvm = f"no KVM ({trouble})" if trouble else "KVM"
    return "judges: " + "; ".join(
        [_silicon(), _recordings(), kvm, *(_program(name, command) for name, command in PROGRAMS.items())]
    )
