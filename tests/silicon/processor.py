"""Which processor a host has: vendor, family, model, stepping, microcode, features; and the CPU model that it can judge."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from iced_x86 import CpuidFeature, Instruction, Mnemonic

VENDORS = {"GenuineIntel": "intel", "AuthenticAMD": "amd"}
# The CPU model of each vendor that stands for all of its models in the tests: where vendors differ, its rules are its vendor's.
MODELS = {"intel": "SapphireRapids", "amd": "EPYC-Turin"}


@dataclass(frozen=True)
class Processor:
    """A processor as CPUID and the kernel tell it. `vendor` is "intel", "amd" or what CPUID leaf 0 says; `features` are named as in
    /proc/cpuinfo, `hypervisor` among them where the host is a virtual machine; `microcode` is "unknown" where it is hidden."""

    vendor: str
    family: int
    model: int
    stepping: int
    name: str
    microcode: str
    features: tuple[str, ...]

    @property
    def slug(self) -> str:
        """A short name for files: vendor-family-model-stepping."""
        return f"{self.vendor}-{self.family}-{self.model}-{self.stepping}"

    @property
    def guest_model(self) -> str | None:
        """The CPU model of the same vendor; None when there is none of that vendor."""
        return MODELS.get(self.vendor)

    def judges(self, instruction: Instruction, faults: bool) -> bool:
        """Whether the model of its vendor is held to what it does: where MASKMOVQ faults, some of AMD's have entered MMX state."""
        return not (self.vendor == "amd" and faults and instruction.mnemonic == Mnemonic.MASKMOVQ)

    def __str__(self) -> str:
        where = ", virtual" if "hypervisor" in self.features else ""
        return f"{self.name} ({self.vendor} family {self.family} model {self.model} stepping {self.stepping}{where})"


def parse(cpuinfo: str) -> Processor:
    """The first processor of a text like /proc/cpuinfo; ValueError when that tells of no x86 processor."""
    first = cpuinfo.strip().split("\n\n")[0]
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}
    try:
        vendor = fields["vendor_id"]
        return Processor(
            VENDORS.get(vendor, vendor),
            int(fields["cpu family"]),
            int(fields["model"]),
            int(fields.get("stepping", "0").replace("unknown", "0")),
            fields.get("model name", "unknown"),
            fields.get("microcode", "unknown"),
            tuple(sorted(fields["flags"].split())),
        )
    except (KeyError, ValueError) as error:
        raise ValueError(f"/proc/cpuinfo tells of no x86 processor: {error}") from None


@cache
def host_processor() -> Processor:
    """The processor that runs this; ValueError when it is no x86 processor under Linux."""
    try:
        return parse(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise ValueError(f"/proc/cpuinfo cannot be read: {os.strerror(error.errno or 0)}") from None


# Extensions that not every server has: the kernel's name of each, by iced-x86's `CpuidFeature`.
_EXTENSIONS = {
    CpuidFeature.ADX: "adx",
    CpuidFeature.AES: "aes",
    CpuidFeature.AVX: "avx",
    CpuidFeature.AVX2: "avx2",
    CpuidFeature.BMI1: "bmi1",
    CpuidFeature.BMI2: "bmi2",
    CpuidFeature.F16C: "f16c",
    CpuidFeature.FMA: "fma",
    CpuidFeature.FSGSBASE: "fsgsbase",
    CpuidFeature.LZCNT: "abm",
    CpuidFeature.MOVBE: "movbe",
    CpuidFeature.PCLMULQDQ: "pclmulqdq",
    CpuidFeature.SHA: "sha_ni",
}


def lacking(processor: Processor, instruction: Instruction) -> tuple[str, ...]:
    """The extensions that an instruction needs and the processor does not have, by the kernel's names."""
    needed = (_EXTENSIONS.get(feature) for feature in instruction.cpuid_features())
    return tuple(name for name in needed if name is not None and name not in processor.features)
