"""Answers CPUID: what each leaf returns for a model and a vCPU's state (SDM vol. 2, CPUID; APM vol. 3, appendix E)."""

from collections.abc import Callable

from trapgate.arch import xstate
from trapgate.arch.features import FEATURES
from trapgate.arch.models import CpuModel
from trapgate.values import dataclass

Leaf = tuple[int, int, int, int]

NOTHING: Leaf = (0, 0, 0, 0)
VENDORS = {"intel": b"GenuineIntel", "amd": b"AuthenticAMD"}
HYPERVISOR = b"TrapgateVMM "
HYPERVISOR_BASE = 0x40000000
MAX_BASIC = {"intel": 0x16, "amd": 0xD}
MAX_EXTENDED = {"intel": 0x80000008, "amd": 0x80000021}
REGISTERS = ("eax", "ebx", "ecx", "edx")


@dataclass(frozen=True, slots=True)
class Dynamic:
    """What CPUID shows of the vCPU that executes it. `cpus` is how many vCPUs the machine has, each a core of one package."""

    apic_id: int = 0
    cpus: int = 1
    osxsave: bool = False  # CR4.OSXSAVE
    apic_enabled: bool = True  # IA32_APIC_BASE[11]
    xcr0: int = 1


def leaf(model: CpuModel, number: int, subleaf: int, dynamic: Dynamic) -> Leaf:
    """(eax, ebx, ecx, edx) of a leaf; each 32 bits.

    Above the highest leaf Intel repeats the highest basic one and AMD returns zeros; unused hypervisor leaves are zero.
    """
    number &= 0xFFFFFFFF
    subleaf &= 0xFFFFFFFF
    if number >> 16 == HYPERVISOR_BASE >> 16:
        return _hypervisor(model, number)
    highest = MAX_EXTENDED[model.vendor] if number >> 31 else MAX_BASIC[model.vendor]
    if number > highest:
        if model.amd:
            return NOTHING
        number = MAX_BASIC["intel"]
    return _LEAVES[number](model, subleaf, dynamic) if number in _LEAVES else _feature_bits(model, number, subleaf)


def core_bits(cpus: int) -> int:
    """How many bits of the APIC id number the cores of the package."""
    return (cpus - 1).bit_length()


def _feature_bits(model: CpuModel, number: int, subleaf: int) -> Leaf:
    """The bits of the features that are on, for any leaf."""
    values = dict.fromkeys(REGISTERS, 0)
    for name in model.enabled:
        where = FEATURES[name]
        if (where.leaf, where.subleaf) == (number, subleaf):
            values[where.register] |= 1 << where.bit
    return values["eax"], values["ebx"], values["ecx"], values["edx"]


def _text(data: bytes) -> tuple[int, ...]:
    """ASCII as the little-endian words that CPUID returns."""
    return tuple(int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4))


def _hypervisor(model: CpuModel, number: int) -> Leaf:
    if not model.has("hypervisor") or number != HYPERVISOR_BASE:
        return NOTHING
    b, c, d = _text(HYPERVISOR)
    return HYPERVISOR_BASE, b, c, d


def _vendor(model: CpuModel, subleaf: int, dynamic: Dynamic) -> Leaf:
    b, d, c = _text(VENDORS[model.vendor])
    return MAX_BASIC[model.vendor], b, c, d


def _version(model: CpuModel, subleaf: int, dynamic: Dynamic) -> Leaf:
    _, _, ecx, edx = _feature_bits(model, 1, 0)
    if dynamic.osxsave and model.has("xsave"):
        ecx |= 1 << 27
    if not dynamic.apic_enabled:
        edx &= ~(1 << 9)
    if dynamic.cpus > 1:
        edx |= 1 << 28  # HTT: EBX[23:16] is valid
    ebx = (dynamic.apic_id & 0xFF) << 24 | min(1 << core_bits(dynamic.cpus), 255) << 16 | model.line_size // 8 << 8
    return model.signature, ebx, ecx, edx


def _descriptors(model: CpuModel, subleaf: int, dynamic: Dynamic) -> Leaf:
    """Leaf 2, Intel: FFh says that leaf 4 describes the caches, FEh that no TLB is described, F0h 64-byte prefetch."""
    return NOTHING if model.amd else (0x00FEFF01, 0xF0, 0, 0)


# (type: 1 data, 2 instruction, 3 unified; level; KiB; ways; shared by the package)
_CACHES = {
    "intel": ((1, 1, 48, 12, False), (2, 1, 32, 8, False), (3, 2, 2048, 16, False), (3, 3, 16384, 16, True)),
    "amd": ((1, 1, 48, 12, False), (2, 1, 32, 8, False), (3, 2, 1024, 16, False), (3, 3, 32768, 16, True)),
}


def _cache(model: CpuModel, subleaf: int, dynamic: Dynamic) -> Leaf:
    """Deterministic cache parameters: leaf 4 (Intel) and 8000001Dh (AMD) share a format."""
    caches = _CACHES[model.vendor]
    if subleaf >= len(caches):
        return NOTHING
    kind, level, kilobytes, ways, shared = caches[subleaf]
    cores = 1 << core_bits(dynamic.cpus)
    eax = kind | level << 5 | 1 << 8 | (min(cores - 1, 0xFFF) << 14 if shared else 0)
    if not model.amd:
        eax |= min(cores - 1, 0x3F) << 26
    sets = (kilobytes << 10) // (ways * model.line_size)
    return eax, (ways - 1) << 22 | model.line_size - 1, sets - 1, 0


def _intel_cache(model: CpuModel, subleaf: int, dynamic: Dynamic) -> Leaf:
    return NOTHING if model.amd else _cache(model, subleaf, dynamic)


def _amd_cache(model: CpuModel, subleaf: int, dynamic: Dynamic) -> Leaf:
    return _cache(model, subleaf, dynamic) if model.has("topoext") else NOTHING


def _topology(model: CpuModel, subleaf: int, dynamic: Dynamic) -> Leaf:
    """Leaf 0Bh: one thread a core, every core in one package; EDX is the x2APIC id."""
    if subleaf == 0:
        return 0, 1, 1 << 8, dynamic.apic_id
    if subleaf == 1:
        return core_bits(dynamic.cpus), dynamic.cpus, 2 << 8 | 1, dynamic.apic_id
    return 0, 0, subleaf & 0xFF, dynamic.apic_id


def _xsave(model: CpuModel, subleaf: int, dynamic: Dynamic) -> Leaf:
    if not model.has("xsave"):
        return NOTHING
    supported = xstate.user_mask(model.has)
    if subleaf == 0:
        return supported, xstate.standard_size(dynamic.xcr0), xstate.standard_size(supported), 0
    if subleaf == 1:
        eax, *_ = _feature_bits(model, 0xD, 1)
        # EBX is the size of the compacted area of XCR0 | IA32_XSS, where XSAVEC exists; ECX and EDX: no bit of IA32_XSS is there.
        return eax, xstate.compacted_size(dynamic.xcr0) if model.has("xsavec") else 0, 0, 0
    for one in xstate.COMPONENTS:
        if one.number == subleaf and one.bit & supported:
            return one.size, one.offset, one.supervisor | one.aligned << 1, 0
    return NOTHING


def _tsc(model: CpuModel, subleaf: int, dynamic: Dynamic) -> Leaf:
    """Leaf 15h, Intel: TSC = crystal * EBX / EAX, so that a guest need not calibrate."""
    return 1, model.tsc_hz // model.crystal_hz, model.crystal_hz, 0


def _frequency(model: CpuModel, subleaf: int, dynamic: Dynamic) -> Leaf:
    """Leaf 16h, Intel: base, maximum and bus frequency in MHz."""
    return model.tsc_hz // 1_000_000, model.tsc_hz // 1_000_000, 100, 0


def _extended(model: CpuModel, subleaf: int, dynamic: Dynamic) -> Leaf:
    if not model.amd:
        return MAX_EXTENDED["intel"], 0, 0, 0
    b, d, c = _text(VENDORS["amd"])
    return MAX_EXTENDED["amd"], b, c, d


def _extended_version(model: CpuModel, subleaf: int, dynamic: Dynamic) -> Leaf:
    _, _, ecx, edx = _feature_bits(model, 0x80000001, 0)
    if not model.amd:
        return 0, 0, ecx, edx
    # AMD repeats leaf 1's EDX bits 0-17 (less SEP and 10), 23 and 24.
    return model.signature, 0, ecx, edx | _version(model, 0, dynamic)[3] & 0x0183_F3FF


def _brand(part: int, model: CpuModel) -> Leaf:
    a, b, c, d = _text(model.brand.encode().ljust(48, b"\0")[16 * part : 16 * part + 16])
    return a, b, c, d


def _l1(model: CpuModel, subleaf: int, dynamic: Dynamic) -> Leaf:
    """80000005h, AMD: TLBs in EAX and EBX, L1 data and instruction caches in ECX and EDX: KiB, ways, lines a tag, line size."""
    if not model.amd:
        return NOTHING
    data, code = (kib << 24 | ways << 16 | 1 << 8 | model.line_size for _, _, kib, ways, _ in _CACHES["amd"][:2])
    return 0xFF40FF40, 0xFF40FF40, data, code


def _l2(model: CpuModel, subleaf: int, dynamic: Dynamic) -> Leaf:
    """80000006h: L2 in ECX (KiB, associativity code 8 = 16 ways, line size); AMD adds L3 in EDX (512 KiB units, by 8000001Dh)."""
    kilobytes = _CACHES[model.vendor][2][2]
    ecx = kilobytes << 16 | 8 << 12 | model.line_size
    if not model.amd:
        return 0, 0, ecx, 0
    return 0x48006400, 0x68006400, ecx | 1 << 8, _CACHES["amd"][3][2] // 512 << 18 | 9 << 12 | 1 << 8 | model.line_size


def _sizes(model: CpuModel, subleaf: int, dynamic: Dynamic) -> Leaf:
    _, ebx, _, _ = _feature_bits(model, 0x80000008, 0)
    ecx = core_bits(dynamic.cpus) << 12 | min(dynamic.cpus - 1, 0xFF) if model.amd else 0
    return model.physical_bits | model.virtual_bits << 8, ebx, ecx, 0


def _amd_topology(model: CpuModel, subleaf: int, dynamic: Dynamic) -> Leaf:
    """8000001Eh: extended APIC id, core id, node 0 of 1."""
    return (dynamic.apic_id, dynamic.apic_id & 0xFF, 0, 0) if model.has("topoext") else NOTHING


_LEAVES: dict[int, Callable[[CpuModel, int, Dynamic], Leaf]] = {
    0: _vendor,
    1: _version,
    2: _descriptors,
    4: _intel_cache,
    0xB: _topology,
    0xD: _xsave,
    0x15: _tsc,
    0x16: _frequency,
    0x80000000: _extended,
    0x80000001: _extended_version,
    0x80000002: lambda model, subleaf, dynamic: _brand(0, model),
    0x80000003: lambda model, subleaf, dynamic: _brand(1, model),
    0x80000004: lambda model, subleaf, dynamic: _brand(2, model),
    0x80000005: _l1,
    0x80000006: _l2,
    0x80000008: _sizes,
    0x8000001D: _amd_cache,
    0x8000001E: _amd_topology,
}
