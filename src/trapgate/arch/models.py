"""Defines CPU models: what a vCPU says it is and which features it has, chosen by name with `+feature` and `-feature`."""

from typing import Literal

from trapgate.arch import features
from trapgate.errors import TrapgateError
from trapgate.values import dataclass, replace

Vendor = Literal["intel", "amd"]

PHYSICAL_BITS = 40
VIRTUAL_BITS = 48


class ModelError(TrapgateError, ValueError):
    """A CPU or feature name that we do not know or cannot offer; the text is one line for the user."""


@dataclass(frozen=True, slots=True)
class CpuModel:
    """One kind of CPU, the same for every vCPU of a machine.

    `line_size` is the cache line in bytes (what makes a lock split), `tsc_hz` and `crystal_hz` are the rates of the TSC and of the
    local APIC timer before its divider, `microcode` is the revision that MSR 8Bh shows.
    """

    name: str
    vendor: Vendor
    brand: str
    signature: int  # CPUID.1:EAX
    microcode: int
    enabled: frozenset[str]
    available: frozenset[str]
    line_size: int = 64
    tsc_hz: int = 2_000_000_000
    crystal_hz: int = 25_000_000
    physical_bits: int = PHYSICAL_BITS
    virtual_bits: int = VIRTUAL_BITS

    @property
    def amd(self) -> bool:
        """Whether AMD's rules hold where the vendors differ."""
        return self.vendor == "amd"

    def has(self, feature: str) -> bool:
        """Whether a feature (canonical name) is on."""
        assert feature in features.FEATURES or feature in features.UNIMPLEMENTED, feature
        return feature in self.enabled

    def with_feature(self, name: str, on: bool) -> "CpuModel":
        """The model with one feature switched, and with those that rest on it off too; ModelError says why not."""
        feature = features.canonical_name(name)
        if feature in features.UNIMPLEMENTED:
            if on:
                raise ModelError(f"CPU feature '{name}' is not implemented; leave it out")
            return self
        if feature not in features.FEATURES:
            known = {*features.FEATURES, *features.ALIASES}
            raise ModelError(f"unknown CPU feature '{name}'{_hint(feature, known)}")
        if feature not in self.available:
            if on:
                raise ModelError(f"CPU {self.name} cannot have '{feature}': no {self.vendor.upper()} part has it")
            return self
        if not on:
            enabled = self.enabled - {feature}
            while lost := {one for one in enabled if one in features.NEEDS and features.NEEDS[one] not in enabled}:
                enabled -= lost
            return replace(self, enabled=enabled)
        needed = features.NEEDS.get(feature)
        if needed is not None and needed not in self.enabled:
            raise ModelError(f"CPU feature '{feature}' needs '{needed}', which is off; add +{needed} before it")
        return replace(self, enabled=self.enabled | {feature})

    @classmethod
    def parse(cls, text: str) -> "CpuModel":
        """A model from "NAME[,+feature][,-feature]...", applied from left to right; ModelError tells what is wrong with it."""
        name, *switches = (part.strip() for part in text.split(","))
        named = MODELS | LEVELS
        model = next((one for one in named.values() if one.name.lower() == name.lower()), None)
        if model is None:
            raise ModelError(f"unknown CPU '{name}'{_hint(name, set(named))}; known: {', '.join(named)}")
        for switch in switches:
            if switch[:1] not in ("+", "-") or not switch[1:]:
                raise ModelError(f"'{switch}' is no CPU feature switch; write +feature or -feature")
            model = model.with_feature(switch[1:], switch[0] == "+")
        return model


def _hint(name: str, known: set[str]) -> str:
    """'; did you mean ...?' when something known looks like `name`."""
    from difflib import get_close_matches  # only names that are wrong need it

    by_lower = {one.lower(): one for one in sorted(known)}
    near = [by_lower[one] for one in get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)]
    return f"; did you mean {' or '.join(near)}?" if near else ""


_INTEL = features.COMMON | (features.INTEL_ONLY - {"md-clear"})
_AMD = features.COMMON | features.AMD_ONLY
_OPTIONAL = frozenset({"pcid", "invpcid", "serialize", "md-clear"})

MODELS: dict[str, CpuModel] = {
    model.name: model
    for model in (
        # Family 1Ah, model 2, stepping 1. The microcode number is above every fix that a Linux guest asks for.
        CpuModel(
            name="EPYC-Turin",
            vendor="amd",
            brand="AMD EPYC-Turin Processor",
            signature=0x00B0_0F21,
            microcode=0x0B00_21FF,
            enabled=_AMD,
            available=(_AMD | _OPTIONAL) - features.INTEL_ONLY,
        ),
        # Family 6, model 143, stepping 8.
        CpuModel(
            name="SapphireRapids",
            vendor="intel",
            brand="Intel Xeon Processor (SapphireRapids)",
            signature=0x0008_06F8,
            microcode=0x2B00_0FFF,
            enabled=_INTEL - {"serialize"},
            available=_INTEL | _OPTIONAL,
        ),
    )
}
DEFAULT_MODEL = "EPYC-Turin"


def _level(name: str, without: frozenset[str]) -> CpuModel:
    """The default model, cut to a level of the x86-64 psABI: the instructions of that level, and no extensions beside it."""
    base = MODELS[DEFAULT_MODEL]
    brand = f"AMD Processor ({name})"
    return replace(base, name=name, brand=brand, enabled=base.enabled - without - features.BESIDE_LEVELS)


LEVELS: dict[str, CpuModel] = {
    "x86-64-v2": _level("x86-64-v2", features.LEVEL_3),
    "x86-64-v3": _level("x86-64-v3", frozenset()),
}
"""Names that are no CPU's; what they leave out may be switched on."""
