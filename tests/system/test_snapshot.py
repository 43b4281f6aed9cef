"""`trapgate run --save` and `--restore`: the guest goes on behind the OUT that ended the run, whatever time has passed."""

import subprocess
import sys
from pathlib import Path

import pytest

from kvm.guest import KVM
from trapgate.gdb.address import UnixAddress
from trapgate.gdb.client import Client
from trapgate.gdb.target import BreakKind

TRAPGATE = str(Path(sys.executable).with_name("trapgate"))
# mov al, 'A'; out 0xE9, al; mov al, 0; out 0xF4, al; the same with 'B'; hlt
GUEST = bytes.fromhex("b041 e6e9 b000 e6f4 b042 e6e9 b000 e6f4 f4")


def trapgate(*words: str) -> subprocess.CompletedProcess[str]:
    command = [TRAPGATE, "run", "--debugcon", "stdout", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("clock", ["host", "instructions"])
def test_it_goes_on_where_it_ended(clock: str, tmp_path: Path) -> None:
    image, file, later = tmp_path / "guest.bin", tmp_path / "saved", tmp_path / "later"
    image.write_bytes(GUEST)
    first = trapgate(str(image), "--clock", clock, "--memory", "16M", "--save", str(file))
    assert (first.stdout, first.returncode) == ("A", 1), first.stderr
    for _ in range(2):  # the file stays what it is
        second = trapgate("--restore", str(file), "--save", str(later))
        assert (second.stdout, second.returncode) == ("B", 1), second.stderr
    third = trapgate("--restore", str(later))
    assert (third.stdout, "halted" in third.stderr) == ("", True)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["guest.bin", "later", "saved"]


def test_a_debugger_goes_back_to_it(tmp_path: Path) -> None:
    image, file, socket = tmp_path / "guest.bin", tmp_path / "saved", tmp_path / "gdb"
    image.write_bytes(GUEST)
    command = [TRAPGATE, "run", str(image), "--memory", "16M", "--gdb", f"unix:{socket}", "--wait", "--save", str(file)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stderr is not None
        run.stderr.readline()  # it listens
        with Client(UnixAddress(str(socket)), timeout=60) as client:
            assert "it cannot be read" in client.monitor("snapshot load")
            client.step()
            before = client.registers()
            assert str(file) in client.monitor("snapshot save")
            client.insert(BreakKind.SOFTWARE, before["rip"] + 2)
            for _ in range(2):
                assert client.step() == client.step() != before
                assert str(file) in client.monitor("snapshot load")
                assert client.registers() == before
            client.kill()
        run.wait(60)
    kept = file.read_bytes()
    second = trapgate("--restore", str(file))
    assert (second.stdout, second.returncode, file.read_bytes()) == ("A", 1, kept), second.stderr


def test_what_does_not_go_together(tmp_path: Path) -> None:
    image = tmp_path / "guest.bin"
    image.write_bytes(GUEST)
    for words, story in (
        (("--restore", str(image)), "this is no machine that trapgate has saved"),
        (("--restore", str(image), "--memory", "1G"), "leave out"),
        ((), "Missing argument 'IMAGE'"),
        ((str(image), "--restore", str(image)), "leave out IMAGE"),
    ):
        done = trapgate(*words)
        assert done.returncode in (2, 1, 64, 65, 66), (words, done)
        assert story in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("engine", [pytest.param(name, marks=KVM) for name in ("soft", "kvm")])
def test_what_was_saved_on_kvm_goes_on_anywhere(engine: str, tmp_path: Path) -> None:
    image, file = tmp_path / "guest.bin", tmp_path / "saved"
    image.write_bytes(GUEST)
    first = trapgate(str(image), "--engine", "kvm", "--memory", "16M", "--save", str(file))
    assert (first.stdout, first.returncode) == ("A", 1), first.stderr
    second = trapgate("--restore", str(file), "--engine", engine)
    assert (second.stdout, second.returncode) == ("B", 1), second.stderr


@pytest.mark.parametrize("engine", [pytest.param("kvm", marks=KVM)])
def test_counted_instructions_stay_on_the_software_cpu(engine: str, tmp_path: Path) -> None:
    image, file = tmp_path / "guest.bin", tmp_path / "saved"
    image.write_bytes(GUEST)
    assert trapgate(str(image), "--memory", "16M", "--clock", "instructions", "--save", str(file)).returncode == 1
    done = trapgate("--restore", str(file), "--engine", engine)
    assert done.returncode == 2
    assert "--clock instructions needs --engine soft" in done.stderr


@pytest.mark.parametrize("engine", [pytest.param("kvm", marks=KVM)])
def test_what_a_host_lacks_of_the_cpu_is_named(engine: str, tmp_path: Path) -> None:
    image, file = tmp_path / "guest.bin", tmp_path / "saved"
    image.write_bytes(GUEST)
    assert trapgate(str(image), "--memory", "16M", "--save", str(file)).returncode == 1
    done = trapgate("--restore", str(file), "--engine", engine)
    if done.returncode == 1:
        pytest.skip("this host's KVM lacks nothing of the model")
    assert done.returncode == 2
    assert "differ in: " in done.stderr
