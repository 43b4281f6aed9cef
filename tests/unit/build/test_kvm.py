"""What `--engine kvm` refuses, and what it says when the host refuses."""

import os
from pathlib import Path

import pytest

from trapgate import Machine, SoftwareHit
from trapgate.build import default_cpu, load_guest, make_machine
from trapgate.cli.main import status_of
from trapgate.debug.buslock import Mode
from trapgate.kvm import abi, handles
from trapgate.kvm.ioctl import KvmError
from trapgate.machine import ClockKind, MachineConfig
from trapgate.profile import Profile
from trapgate.stops import ExitKind
from trapgate.vcpu import EngineError

LEAVE = bytes.fromhex("b003 e6f4 f4")  # MOV AL, 3; OUT F4h, AL; HLT


def no_device(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def refuse(path: str, flags: int) -> int:
        raise error

    monkeypatch.setattr(os, "open", refuse)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(2, ""), r"open /dev/kvm: No such file or directory; .*--engine soft"),
        (PermissionError(13, ""), r"open /dev/kvm: Permission denied; join the group kvm"),
        (OSError(19, ""), r"open /dev/kvm: No such device; .*switch it on"),
    ],
)
def test_a_host_without_kvm_is_one_line_with_a_remedy(error: OSError, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    no_device(monkeypatch, error)
    with pytest.raises(KvmError, match=words):
        make_machine(MachineConfig(memory=1 << 20), "kvm")
    with pytest.raises(KvmError, match=words):
        default_cpu("kvm")


def test_bus_locks_where_the_host_cannot_see_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fcntl")
    try:
        lacking = not handles.System().capability(abi.CAP_BUS_LOCK_EXIT)
    except KvmError as error:
        pytest.skip(str(error))
    if not lacking:
        pytest.skip("this host has bus-lock exits")
    with pytest.raises(EngineError, match="no bus-lock exits"):
        make_machine(MachineConfig(memory=1 << 20, bus_locks=Mode.REPORT), "kvm")


@pytest.mark.kvm
def test_an_image_runs_to_its_status(tmp_path: Path) -> None:
    image = tmp_path / "flat"
    image.write_bytes(LEAVE)
    machine = make_machine(MachineConfig(memory=1 << 20), "kvm")
    load_guest(machine, str(image))
    end = machine.run()
    machine.close()
    assert (end.kind, end.status) == (ExitKind.EXIT_PORT, 7)


def test_a_kvm_that_gives_up_amid_a_run_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def give_up(request: object) -> int:
        raise KvmError("KVM_RUN: this host's KVM gave up at RIP 0x10", 0, "run this guest with --engine soft")

    monkeypatch.setattr("trapgate.cli.run.run", give_up)
    assert status_of(["run", "--engine", "kvm", "image"]) == 1
    told = capsys.readouterr().err
    assert told == "trapgate: error: KVM_RUN: this host's KVM gave up at RIP 0x10; run this guest with --engine soft\n"


@pytest.mark.kvm
def test_no_instruction_clock() -> None:
    with pytest.raises(EngineError, match="KVM does not count instructions"):
        make_machine(MachineConfig(memory=1 << 20, clock=ClockKind.INSTRUCTIONS), "kvm")


@pytest.mark.kvm
def test_what_its_vcpu_does_not_tell() -> None:
    machine = make_machine(MachineConfig(memory=1 << 20), "kvm")
    with pytest.raises(EngineError, match="use the engine 'soft'"):
        Profile([machine.vcpu])
    with pytest.raises(EngineError, match="use the engine 'soft'"):
        machine.catch(frozenset({14}))
    machine.catch(frozenset())
    machine.close()


@pytest.mark.kvm
def test_the_library_on_kvm(tmp_path: Path) -> None:
    """Bare code, hooks on code and ports, registers, a device, a reset, a close."""
    with Machine(MachineConfig(memory=4 << 20), "kvm") as machine:
        machine.load_code(bytes.fromhex("b807000000 e680 e4b0 90 f4"))  # mov eax, 7; out 80h, al; in al, b0h; nop; hlt
        ports: list[int] = []
        machine.on_port(0x80, call=lambda access: ports.append(access.value))
        machine.on_code(0x1009)
        for _ in range(2):
            assert machine.run() == SoftwareHit(0x1009)
            assert machine.cpu["rax"] == 0xFF
            machine.reset()
        assert ports == [7, 7]
        with pytest.raises(EngineError, match="single addresses"):
            machine.on_code(0x1000, 0x1009)
        with pytest.raises(EngineError):
            machine.on_exception(6)
        assert machine.run() == SoftwareHit(0x1009)  # what could not be has left nothing
