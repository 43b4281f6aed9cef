"""The sections of the benchmark: each can be measured alone, and has its own place in docs/performance.md."""

from collections.abc import Callable
from dataclasses import dataclass

from bench import compared, disks, kvm, ours, requests, shares, stub
from bench.measuring import Bench
from bench.report import Table
from bench.system import system


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the benchmark that can be measured alone."""

    what: str
    measure: Callable[[Bench], Table]
    apart: bool = False  # only when it is asked for


SECTIONS = {
    "loops": Section("loops and exceptions, beside QEMU", compared.loops),
    "linux-6.1": Section("Debian 6.1 to its init, first and second boot, beside QEMU", compared.debian_6_1),
    "linux-6.12": Section("Debian 6.12 to its init, second boot, beside QEMU", compared.debian_6_12),
    "system": Section("system instructions in every mode, beside QEMU", system),
    "watch": Section("accesses beside watchpoints and breakpoints, beside QEMU", compared.watch),
    "stub": Section("a debugger's requests over the remote protocol, beside QEMU", stub.stub),
    "shares": Section("a directory of the host in a guest, beside QEMU's virtiofsd", shares.shares),
    "disks": Section("disks and directories in a guest, in order, at random and by name, beside QEMU", disks.disks),
    "requests": Section("FUSE requests in the device, without a guest", requests.requests),
    "kvm": Section("the KVM engine beside QEMU on a KVM, by commands that you name", kvm.kvm, apart=True),
    "start": Section("from the start of the process to the first guest instruction; compiling the stencils", ours.start),
    "memory": Section("memory besides the guest's, Debian 6.1 at its init", ours.memory_at_init),
    "locks": Section("locked additions with bus-lock detection off and on", ours.locks),
    "traps": Section("bus-lock traps and INT3 to the guest's own handler", ours.traps),
    "devices": Section("port and memory-mapped accesses that a device answers", ours.devices),
    "code": Section("translation time and memory by the size of the code", ours.code),
    "ram": Section("start and memory by the size of RAM", ours.ram),
}
