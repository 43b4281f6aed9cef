"""Makes the engine on /dev/kvm: the host's CPU, as far as its KVM goes."""

from trapgate.arch.models import DEFAULT_MODEL
from trapgate.build.hearing import Hearing
from trapgate.build.kvm_chips import KernelInterrupts, KernelPit
from trapgate.debug import slots
from trapgate.engine import Surroundings
from trapgate.kvm.core import host_is_amd
from trapgate.kvm.cpu import KvmVcpu, make
from trapgate.kvm.cpuid import OF_THE_APIC
from trapgate.kvm.handles import System
from trapgate.vcpu import EngineError

INTEL_MODEL = "SapphireRapids"


def default_cpu() -> str:
    """The model whose vendor is the host's: KVM cannot change how SYSCALL and debug exceptions of the other one behave."""
    return DEFAULT_MODEL if host_is_amd(System().supported_cpuid()) else INTEL_MODEL


class KvmEngine:
    """Makes `KvmVcpu`s. `hearing` is told which features the host's KVM cannot give.

    With `chips`, interrupt controllers and PIT are the kernel's, where it has them.
    """

    most_cpus = 1
    breaks_anywhere = False  # they are INT3s in guest memory
    has_room = False

    def __init__(self, hearing: Hearing, chips: bool = True) -> None:
        self._hearing, self._chips = hearing, chips

    def make(self, around: Surroundings) -> KvmVcpu:
        """A vCPU of the host's KVM. KvmError when the host does not let us."""
        if around.counting:
            raise EngineError("--clock instructions needs --engine soft: KVM does not count instructions")
        vcpu = make(
            around.ram,
            model=around.model,
            clock=around.clock,
            lapic=around.lapic,
            plan=slots.plan,
            bus_locks=around.bus_locks,
            chips=self._chips,
        )
        vcpu.devices = around.devices
        if around.bus_locks and not vcpu.bus_lock_exits:
            vcpu.close()
            raise EngineError(
                "--bus-locks: this host's KVM or CPU has no bus-lock exits (KVM_CAP_X86_BUS_LOCK_EXIT); use --engine soft"
            )
        if vcpu.chips is not None:
            around.interrupts.lead_to(KernelInterrupts(vcpu, vcpu.chips, around.clock))
            around.pit.elsewhere = KernelPit(vcpu.chips, around.clock)
        if lost := [name for name in vcpu.lost_features if name not in OF_THE_APIC]:
            self._hearing.note(f"CPU features that this host's KVM cannot give: {', '.join(lost)}")
        vcpu.note = around.report
        return vcpu

    def catch_crashes(self, terminal: bytes | None) -> None:
        """Nothing: no code of ours runs in place of the guest's."""

    def keep(self) -> None:
        """Nothing: KVM translates nothing."""
