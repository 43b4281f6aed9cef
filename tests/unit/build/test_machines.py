"""Machines by name of their engine, and what their makers hear."""

import pytest

from trapgate.arch.models import DEFAULT_MODEL, ModelError
from trapgate.build import Hearing, default_cpu, load_guest, make_machine
from trapgate.errors import TrapgateError
from trapgate.machine import MachineConfig
from trapgate.memory import RamError
from trapgate.soft import borrowed
from trapgate.vcpu import EngineError


@pytest.mark.parametrize(
    ("config", "name", "kind"),
    [
        (MachineConfig(memory=1 << 20), "tcg", EngineError),
        (MachineConfig(memory=1 << 20, cpu="8086"), "soft", ModelError),
        (MachineConfig(memory=1000), "soft", RamError),
    ],
)
def test_what_cannot_be_is_an_error_of_the_library(config: MachineConfig, name: str, kind: type[TrapgateError]) -> None:
    with pytest.raises(TrapgateError) as error:
        make_machine(config, name)
    assert type(error.value) is kind
    assert "\n" not in str(error.value)


def test_an_image_that_is_none_leaves_the_machine_usable() -> None:
    machine = make_machine(MachineConfig(memory=1 << 20))
    with pytest.raises(TrapgateError, match="nowhere"):
        load_guest(machine, "/nowhere/image")
    machine.close()


def test_a_feature_that_the_host_lacks_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr(borrowed, "lacked", lambda model: ("sse4.2",))
    machine = make_machine(MachineConfig(memory=1 << 20), hearing=Hearing(note=notes.append))
    machine.close()
    assert notes == ["this host's CPU lacks sse4.2: the guest's does, too"]


def test_the_default_cpu_of_the_software_engine() -> None:
    assert default_cpu() == DEFAULT_MODEL
