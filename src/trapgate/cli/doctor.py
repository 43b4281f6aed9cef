"""`trapgate doctor` tells what this host offers, one line each, and what to do about what is missing."""

import mmap
import os
import platform
import subprocess
from collections.abc import Iterator
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.filesize import decimal
from rich.text import Text

from trapgate import hostcpu
from trapgate.arch.models import DEFAULT_MODEL, MODELS
from trapgate.cli import errors, hostkvm
from trapgate.cli.cache import KINDS, entries
from trapgate.cli.demo_debugger import find_gdb
from trapgate.cli.screen import Screen
from trapgate.kvm import probe
from trapgate.kvm.ioctl import KvmError
from trapgate.sandbox import confine
from trapgate.soft import borrowed
from trapgate.stencil.cache import Cache, CacheError
from trapgate.values import dataclass


class Verdict(Enum):
    """GOOD, LACKING (guests run, but something is less), MISSING (guests cannot run)."""

    GOOD = "green"
    LACKING = "yellow"
    MISSING = "red"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    subject: str
    verdict: Verdict
    text: str


def host_cpu() -> Finding:
    """The host's CPU: translated code runs on x86-64 only."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return Finding("CPU", Verdict.MISSING, f"{platform.machine()}: the software CPU makes x86-64 code; use an x86-64 host")
    flags = hostcpu.features() or frozenset()
    own = [name for name in ("bus_lock_detect", "split_lock_detect") if name in flags]
    text = f"{hostcpu.fields().get('model name', 'x86-64')} ({', '.join(own) or 'no bus-lock detection of its own'})"
    if lacked := borrowed.lacked(MODELS[DEFAULT_MODEL]):
        return Finding("CPU", Verdict.LACKING, f"{text}; guests get no {', '.join(lacked)}")
    return Finding("CPU", Verdict.GOOD, text)


def packages() -> Iterator[Finding]:
    """The libraries that the software CPU needs."""
    for subject, name in (("LLVM", "llvmlite"), ("decoder", "iced-x86")):
        try:
            yield Finding(subject, Verdict.GOOD, f"{name} {version(name)}")
        except PackageNotFoundError:
            yield Finding(subject, Verdict.MISSING, f"{name} is not installed; install trapgate again")


def executable_memory() -> Finding:
    """Whether the host lets a process execute what it wrote, through two views of one memfd."""
    try:
        handle = os.memfd_create("trapgate-doctor", os.MFD_CLOEXEC)
        try:
            os.ftruncate(handle, mmap.PAGESIZE)
            mmap.mmap(handle, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE).close()
            mmap.mmap(handle, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()
        finally:
            os.close(handle)
    except OSError as error:
        text = f"denied ({error.strerror}); allow it for this process (SELinux execmem, MemoryDenyWriteExecute)"
        return Finding("executable memory", Verdict.MISSING, text)
    return Finding("executable memory", Verdict.GOOD, "two views of one memfd, writable and executable")


def sandbox() -> Finding:
    """What keeps a run from the rest of the host."""
    found = confine.offered()
    have = (f"Landlock ABI {found.landlock}",) * bool(found.landlock) + ("seccomp",) * found.filters
    if not found.reasons:
        return Finding("sandbox", Verdict.GOOD, ", ".join(have))
    less = [] if found.filters else ["may make any system call"]
    less += [] if found.landlock else ["may open any file of yours"]
    text = (
        f"{', '.join(have) or 'none'} ({'; '.join(found.reasons)}): a run {' and '.join(less)}; let the kernel or container have it"
    )
    return Finding("sandbox", Verdict.LACKING, text)


def gdb() -> Finding:
    """The debugger that `trapgate demo` uses."""
    path = find_gdb()
    if path is None:
        text = "none that knows x86-64; install it with: sudo apt-get install gdb (the demo uses its own client meanwhile)"
        return Finding("gdb", Verdict.LACKING, text)
    done = subprocess.run([path, "--version"], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    return Finding("gdb", Verdict.GOOD, f"{path}: {(done.stdout.splitlines() or ['version unknown'])[0]}")


def kvm() -> Finding:
    """/dev/kvm and what it can do."""
    try:
        found = hostkvm.capabilities()
    except FileNotFoundError:
        return Finding("/dev/kvm", Verdict.LACKING, "not there; the software CPU does not need it")
    except PermissionError:
        return Finding("/dev/kvm", Verdict.LACKING, "no permission; join the group kvm: sudo usermod -aG kvm $USER")
    except OSError as error:
        return Finding("/dev/kvm", Verdict.LACKING, f"cannot be used: {error.strerror}")
    have, lack = ([name for name, on in found.items() if on is wanted] for wanted in (True, False))
    text = "; ".join(part for part in (", ".join(have), "lacks " + ", ".join(lack) if lack else "") if part)
    return Finding("/dev/kvm", Verdict.LACKING if lack else Verdict.GOOD, text)


def kvm_abilities() -> Iterator[Finding]:
    """What KVM was seen to do with a guest of a few instructions; nothing where it cannot be used, as `kvm` says."""
    try:
        for one in probe.abilities():
            yield Finding(f"- {one.name}", Verdict.GOOD if one.holds else Verdict.LACKING, one.seen)
    except KvmError as error:
        if Path("/dev/kvm").exists() and os.access("/dev/kvm", os.R_OK | os.W_OK):
            yield Finding("- guests", Verdict.LACKING, str(error))


def caches() -> Finding:
    """Whether what is compiled once can be kept."""
    try:
        cache = Cache()
    except CacheError as error:
        return Finding("cache", Verdict.MISSING, str(error))
    if cache.notes:
        return Finding("cache", Verdict.LACKING, cache.notes[0])
    try:
        sizes = {kind: sum(entry.size for entry in entries(kind, cache.directory)) for kind in KINDS}
    except CacheError as error:
        return Finding("cache", Verdict.LACKING, str(error))
    text = ", ".join(f"{kind} {decimal(size)}" for kind, size in sizes.items())
    return Finding("cache", Verdict.GOOD, f"{cache.directory}: {text}")


def findings() -> Iterator[Finding]:
    """Everything, in the order it is shown."""
    yield host_cpu()
    yield from packages()
    yield executable_memory()
    yield sandbox()
    yield gdb()
    yield kvm()
    yield from kvm_abilities()
    yield caches()


def run() -> int:
    """Print the report; the status says whether guests can run here."""
    console = Screen(highlight=False)
    worst = errors.OK
    for finding in findings():
        mark = {Verdict.GOOD: "ok", Verdict.LACKING: "--", Verdict.MISSING: "!!"}[finding.verdict]
        line = Text.assemble((f"{mark} ", finding.verdict.value), f"{finding.subject:<18} ", finding.text)
        console.print(line, soft_wrap=True)
        if finding.verdict is Verdict.MISSING:
            worst = errors.GUEST_FAILURE
    return worst
