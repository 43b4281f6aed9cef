"""Computes CPUID for a guest on KVM: what the model has, less what this host cannot give; pure."""

from collections.abc import Iterable, Iterator

from trapgate.arch import features
from trapgate.arch.cpuid import MAX_BASIC, MAX_EXTENDED, Dynamic, leaf
from trapgate.arch.models import CpuModel
from trapgate.kvm import abi

WITH_INDEX = {4: 4, 7: 2, 0xB: 2, 0xD: 3, 0x8000001D: 5}  # leaves that differ by ECX, and how many of theirs we give
OURS = frozenset({"hypervisor"})  # bits that a host need not announce
# Without a local APIC in the kernel KVM has no x2APIC registers and no deadline timer: both stay off, the rest of our local APIC
# answers in user space.
DEADLINE = "tsc-deadline"  # KVM_GET_SUPPORTED_CPUID leaves it out: a capability tells (Linux, Documentation/virt/kvm/api.rst, 4.46)
OF_THE_APIC = frozenset({"x2apic", DEADLINE})
# KVM's own leaves (Linux, Documentation/virt/kvm/x86/cpuid.rst): of its features a guest gets the clock.
KVM_BASE, KVM_FEATURES = 0x40000000, 0x40000001
SIGNATURE = b"KVMKVMKVM\0\0\0"
CLOCK, CLOCK_STABLE = 1 << 3, 1 << 24
_BIT = {name: (one.leaf, one.subleaf, one.register, one.bit) for name, one in features.FEATURES.items()}


def _host_has(name: str, host: dict[tuple[int, int], dict[str, int]]) -> bool:
    leaf, subleaf, register, bit = _BIT[name]
    return bool(host.get((leaf, subleaf), {}).get(register, 0) >> bit & 1)


def filter_model(
    model: CpuModel, supported: Iterable[abi.CpuidEntry], *, apic: bool, deadline: bool = False
) -> tuple[CpuModel, tuple[str, ...]]:
    """The model as this host can run it, and the features it had to lose, sorted.

    `apic`: the local APIC is the kernel's. `deadline`: KVM_CAP_TSC_DEADLINE_TIMER.
    """
    host = {
        (one.function, one.index): {name: int(getattr(one, name)) for name in ("eax", "ebx", "ecx", "edx")} for one in supported
    }
    never = frozenset() if apic else OF_THE_APIC
    given = OURS | {DEADLINE} if deadline else OURS
    lost = sorted(name for name in model.enabled if name in never or not (name in given or _host_has(name, host)))
    for name in lost:
        model = model.with_feature(name, False)
    return model, tuple(lost)


def _one(model: CpuModel, number: int, subleaf: int, indexed: bool, dynamic: Dynamic) -> abi.CpuidEntry:
    eax, ebx, ecx, edx = leaf(model, number, subleaf, dynamic)
    return abi.CpuidEntry(number, subleaf, abi.CPUID_SIGNIFICANT_INDEX if indexed else 0, eax, ebx, ecx, edx)


def clock_features(supported: Iterable[abi.CpuidEntry]) -> int:
    """The bits of leaf 40000001h that announce kvmclock on this host; 0 when it has none."""
    bits = next((int(one.eax) for one in supported if one.function == KVM_FEATURES), 0)
    return bits & (CLOCK | CLOCK_STABLE) if bits & CLOCK else 0


def _paravirtual(features: int) -> Iterator[abi.CpuidEntry]:
    words = (int.from_bytes(SIGNATURE[at : at + 4], "little") for at in (0, 4, 8))
    yield abi.CpuidEntry(KVM_BASE, 0, 0, KVM_FEATURES, *words)
    yield abi.CpuidEntry(KVM_FEATURES, 0, 0, features)


def entries(model: CpuModel, dynamic: Dynamic, tsc_known: bool, clock: int = 0) -> Iterator[abi.CpuidEntry]:
    """Every leaf for KVM_SET_CPUID2. Unless the TSC runs at the model's rate (`tsc_known`) leaf 15h is left out.

    `clock`: what `clock_features` gave; with it KVM signs the hypervisor leaves instead of us.
    """
    numbers = [*range(MAX_BASIC[model.vendor] + 1), *range(0x80000000, MAX_EXTENDED[model.vendor] + 1)]
    if clock and model.has("hypervisor"):
        yield from _paravirtual(clock)
    else:
        numbers.append(KVM_BASE)
    for number in numbers:
        if number in (0x15, 0x16) and not tsc_known:
            continue
        if number in WITH_INDEX:
            for subleaf in range(WITH_INDEX[number]):
                yield _one(model, number, subleaf, True, dynamic)
        else:
            yield _one(model, number, 0, False, dynamic)
