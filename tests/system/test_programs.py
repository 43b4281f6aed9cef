"""Guest programs that carry their expectation: each must print no failure, however its code is cut into blocks."""

import shutil
import subprocess
from pathlib import Path

import pytest

from programs import build
from trapgate.build import load_guest, make_machine
from trapgate.machine import ClockKind, MachineConfig
from trapgate.soft.cpu import SoftVcpu

pytestmark = pytest.mark.skipif(bool(build.missing_tools()), reason=f"not installed: {build.missing_tools()}")
LIMIT = 20_000_000_000  # ns, or instructions: the longest program needs a fraction of it


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("programs")
    return {program.name: build.assemble(program, folder) for program in build.programs()}


def run(program: build.Program, image: Path, block_limit: int = 0, chaining: bool = True) -> tuple[tuple[int, bytes], str, str]:
    """((guest time, RAM) at the end, how it ended, what it wrote to port E9h)."""
    written: list[bytes] = []
    config = MachineConfig(memory=64 << 20, cpu=program.cpu, clock=ClockKind(program.clock), debugcon=written.append)
    machine = make_machine(config, "soft")
    load_guest(machine, str(image))
    assert isinstance(machine.vcpu, SoftVcpu)
    machine.vcpu.translator.configure(block_limit=block_limit, chaining=chaining)
    machine.clock.at(LIMIT, machine.pause)
    try:
        end = machine.run()
        left = machine.clock.now(), machine.ram.read(0, 64 << 20)
    finally:
        machine.close()
    return left, f"{end.kind.name.lower()}\n{end.story}", b"".join(written).decode()


def check(program: build.Program, image: Path, **options: object) -> None:
    _, end, text = run(program, image, **options)  # type: ignore[arg-type]
    lines = text.splitlines()
    assert [line for line in lines if not line.startswith(("ok ", "finished"))] == [], end
    assert len([line for line in lines if line.startswith("ok ")]) >= program.checks, "fewer checks than the source has"
    assert end.splitlines()[0] == program.end, end


@pytest.mark.parametrize("program", build.programs(), ids=lambda program: program.name)
def test_program(program: build.Program, images: dict[str, Path]) -> None:
    check(program, images[program.name])


@pytest.mark.parametrize("program", build.programs(), ids=lambda program: program.name)
def test_program_in_blocks_of_one_instruction(program: build.Program, images: dict[str, Path]) -> None:
    check(program, images[program.name], block_limit=1)


@pytest.mark.parametrize("program", build.programs(), ids=lambda program: program.name)
def test_program_without_chaining(program: build.Program, images: dict[str, Path]) -> None:
    check(program, images[program.name], chaining=False)


def test_two_runs_on_the_instruction_clock_are_the_same(images: dict[str, Path]) -> None:
    """Interrupts amid repeated string instructions come at the same iteration each time."""
    program = next(one for one in build.programs() if one.name == "long_rep_clock")
    assert len({run(program, images[program.name]) for _ in range(2)}) == 1


@pytest.mark.long
@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no QEMU for a second opinion")
@pytest.mark.parametrize("program", [p for p in build.programs() if p.qemu == "yes"], ids=lambda program: program.name)
def test_program_on_qemu(program: build.Program, images: dict[str, Path]) -> None:
    """The same expectation on another CPU; programs that QEMU is known to fail say so in their head."""
    command = [
        "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "64", "-display", "none", "-nodefaults", "-no-reboot",
        "-debugcon", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", str(images[program.name]),
    ]  # fmt: skip
    text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    assert [line for line in text.splitlines() if not line.startswith(("ok ", "finished"))] == []
    assert "finished" in text
