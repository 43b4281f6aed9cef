"""A machine on /dev/kvm: what the command line must see to for that engine."""

from functools import partial

from rich.console import Console

from trapgate.arch.models import DEFAULT_MODEL, ModelError
from trapgate.boot import CpuStart
from trapgate.cli.errors import Failure
from trapgate.debug import slots
from trapgate.debug.buslock import Mode
from trapgate.kvm.core import host_is_amd
from trapgate.kvm.cpu import KvmVcpu, make
from trapgate.kvm.cpuid import OF_THE_APIC
from trapgate.kvm.handles import System
from trapgate.kvm.ioctl import KvmError
from trapgate.machine import ClockKind, Machine, MachineConfig
from trapgate.memory import MemoryError_

INTEL_MODEL = "SapphireRapids"


def tell(line: str) -> None:
    """A line for the user, on standard error."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"trapgate: {line}", markup=False)


def default_cpu() -> str:
    """The model whose vendor is the host's: KVM cannot change how SYSCALL and debug exceptions of the other one behave."""
    try:
        return DEFAULT_MODEL if host_is_amd(System().supported_cpuid()) else INTEL_MODEL
    except KvmError as error:
        raise Failure(str(error)) from error


def make_machine(config: MachineConfig) -> Machine:
    """An empty machine; Failure says what the host or the options do not allow."""
    if config.clock is ClockKind.INSTRUCTIONS:
        raise Failure("--clock instructions needs --engine soft: KVM does not count instructions")
    wants_locks = config.bus_locks is not Mode.OFF
    try:
        machine = Machine(config, partial(make, plan=slots.plan, bus_locks=wants_locks, chips=True))
    except (ModelError, MemoryError_, KvmError) as error:
        raise Failure(str(error)) from error
    equip(machine)
    vcpu = machine.vcpu
    assert isinstance(vcpu, KvmVcpu)
    if wants_locks and not vcpu.bus_lock_exits:
        raise Failure("--bus-locks: this host's KVM or CPU has no bus-lock exits (KVM_CAP_X86_BUS_LOCK_EXIT); use --engine soft")
    lost = [name for name in vcpu.lost_features if name not in OF_THE_APIC]
    if lost:
        tell(f"CPU features that this host's KVM cannot give: {', '.join(lost)}")
    return machine


def equip(machine: Machine) -> None:
    """Connect a new vCPU with the machine's board and reports."""
    vcpu = machine.vcpu
    assert isinstance(vcpu, KvmVcpu)
    if vcpu.chips is not None:
        machine.board.interrupts.lead_to(vcpu.chips.drive)
    vcpu.note = machine.config.report


def start(vcpu: KvmVcpu, first: CpuStart) -> None:
    """Bring a vCPU from its reset state to the first registers that a loader chose, hidden parts of the segments included."""
    registers = vcpu.registers
    with registers.together():
        for name in ("gdt_base", "gdt_limit", "idt_base", "idt_limit", "cr3", "cr4", "efer", "cr0"):
            registers.set(name, getattr(first, name))
        for name, segment in first.segments.items():
            registers.put_segment(name, segment.selector, segment.base, segment.limit, segment.attributes)
    for name, value in first.registers():
        vcpu.set(name, value)
