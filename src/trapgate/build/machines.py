"""Makes a machine from its configuration and the name of an engine; each engine is loaded only where it is used."""

from trapgate.arch.models import DEFAULT_MODEL
from trapgate.build.hearing import Hearing
from trapgate.engine import Engine
from trapgate.machine import Machine, MachineConfig
from trapgate.vcpu import EngineError

ENGINES = ("soft", "kvm")
_QUIET = Hearing()


def make_machine(config: MachineConfig, engine: str = "soft", hearing: Hearing = _QUIET) -> Machine:
    """An empty machine with one of `ENGINES`. A TrapgateError says what host or configuration do not allow.

    ModelError: an unknown CPU; RamError: a size that RAM cannot have; EngineError: what the engine cannot do; CacheError: a
    cache that others may write to; HostError, KvmError: what the host refused.
    """
    return Machine(config, _engine(engine, hearing))


def default_cpu(engine: str = "soft") -> str:
    """The CPU model of a guest whose owner names none. KvmError when the host has no usable KVM to ask."""
    if engine != "kvm":
        return DEFAULT_MODEL
    from trapgate.build.kvm import default_cpu as of_the_host

    return of_the_host()


def _engine(name: str, hearing: Hearing) -> Engine:
    match name:
        case "soft":
            from trapgate.build.soft import SoftEngine

            return SoftEngine(hearing)
        case "kvm":
            from trapgate.build.kvm import KvmEngine

            return KvmEngine(hearing)
        case _:
            raise EngineError(f"unknown engine {name!r}; there are {', '.join(ENGINES)}")
