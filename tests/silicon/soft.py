"""Where the tests get the software CPU from: the one place that knows how it is made and started."""

from collections.abc import Callable

from trapgate.arch import xstate
from trapgate.arch.control import CR4_OSXSAVE
from trapgate.arch.models import DEFAULT_MODEL, CpuModel
from trapgate.clock import HostClock
from trapgate.memory import Ram
from trapgate.soft.blocks.translator import Translator
from trapgate.soft.cpu import SoftVcpu
from trapgate.soft.exact.segments import put_segment
from trapgate.stencil.cache import Cache
from trapgate.stencil.library import load_library

from . import guest_kernel as guest
from .processor import host_processor
from .soft_runner import SoftCpu

BATCH = 64
# Attribute words (descriptor bits 40-55) of the segments that the kernel starts with: as in its GDT.
CODE64, DATA, BUSY_TSS, UNUSABLE = 0xA09B, 0xC093, 0x8B, 1 << 16


def live_model() -> str:
    """The CPU model that the host CPU may judge: that of its vendor. Where there is none nobody judges (fixture `host`)."""
    return host_processor().guest_model or DEFAULT_MODEL


def start(vcpu: SoftVcpu, registers: dict[str, int]) -> None:
    """Bring a vCPU to the kernel's first instruction: 64-bit mode at CPL 0 with these register values."""
    state = vcpu.state
    if vcpu.model.has("xsave"):
        registers = {**registers, "cr4": registers["cr4"] | CR4_OSXSAVE, "xcr0": xstate.user_mask(vcpu.model.has)}
    vcpu.abandon()
    put_segment(vcpu, "cs", registers["cs"], 0, 0xFFFF_FFFF, CODE64)
    put_segment(vcpu, "ss", registers["ss"], 0, 0xFFFF_FFFF, DATA)
    put_segment(vcpu, "tr", registers["tr"], guest.UPPER + guest.TSS, 0x67, BUSY_TSS)
    for name in ("ds", "es", "fs", "gs", "ldtr"):
        put_segment(vcpu, name, 0, 0, 0, UNUSABLE)
    state.set_rflags(registers["rflags"])
    for name in registers.keys() - {"cs", "ss", "tr", "rflags"}:
        setattr(state, name, registers[name])
    vcpu.flush_all()
    vcpu.update_mode()


def make_soft_cpu(
    model: str | None = None,
    fx: bool = True,
    prepare: Callable[[Translator], None] = lambda translator: None,
    timeout: float = 5.0,
) -> SoftCpu[SoftVcpu]:
    """A runner on the software CPU, the model that the host CPU may judge unless told. `fx`: with x87 and SSE state, `prepare` may
    set the debug switches of its translator, `timeout` as `SoftCpu` has it."""
    ram = Ram(guest.memory_size(BATCH))
    vcpu = SoftVcpu(ram, CpuModel.parse(model or live_model()), load_library(Cache()), HostClock())
    prepare(vcpu.translator)
    return SoftCpu(vcpu, ram, start, batch=BATCH, timeout=timeout, fx=fx, upper=fx and vcpu.model.has("avx"))
