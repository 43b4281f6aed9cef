"""Debian's unmodified kernels on our CPU: every claim of the scenarios, and one short boot in the fast tier."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the tools are no part of the package

from tools import linux_guest
from tools.guests.others import OTHER_GUESTS
from tools.guests.recipes import KERNELS
from tools.guests.scenarios import SCENARIOS, Check, Guest, Scenario, warned
from tools.guests.sources import GuestError

TRAPGATE = str(Path(sys.executable).with_name("trapgate"))
# Prints the TSC's low byte and the PIT's count over COM1, sleeps to the next timer interrupt, 64 times; then the exit port.
TIMES = """
    cli; xor %ax,%ax; mov %ax,%ds; mov %ax,%ss; mov $0x7000,%sp; mov $64,%cx; mov $0x3F8,%dx
again: rdtsc; mov $0x3F8,%dx; out %al,%dx; mov %ah,%al; out %al,%dx
    mov $0,%al; out %al,$0x43; in $0x40,%al; out %al,%dx; in $0x40,%al; out %al,%dx
    .byte 0x0F,0xC7,0xF0; mov $0x3F8,%dx; out %al,%dx
    mov $1000,%bx
spin: dec %bx; jnz spin
    dec %cx; jnz again
    out %al,$0xF4
"""


def guest(series: str) -> Guest:
    """The files of a kernel; the test is skipped where they cannot be had."""
    try:
        return Guest(linux_guest.kernel(series), linux_guest.initramfs(architecture=KERNELS[series].architecture))
    except (GuestError, OSError) as error:
        pytest.skip(f"no Linux guest: {error}")


def expect(checks: list[Check]) -> None:
    assert checks
    failed = [check for check in checks if not check.passed]
    assert not failed, "\n".join(f"{check.claim}: {check.shown}" for check in failed)


@pytest.mark.timeout(300)
def test_five_split_locks_are_five_traps_in_linux() -> None:
    expect(warned(guest("6.1"), "SapphireRapids"))


@pytest.mark.linux
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("series", "scenario"),
    [
        pytest.param(series, scenario, id=f"{series}, {scenario.name}, {scenario.cpu}")
        for series in KERNELS
        for scenario in SCENARIOS
        if series in scenario.kernels
    ],
)
def test_linux(series: str, scenario: Scenario) -> None:
    expect(scenario.run(guest(series), scenario.cpu))


@pytest.mark.linux
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("name", OTHER_GUESTS)
def test_other_guests(name: str) -> None:
    other = OTHER_GUESTS[name]
    missing = [file for file in other.needs if not linux_guest.made(file)]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: `make linux-guests` gets it")
    expect(other.run(linux_guest.files(other.needs), other.cpu))


@pytest.mark.skipif(shutil.which("as") is None, reason="binutils is not installed")
def test_by_the_instruction_clock_a_guest_repeats_byte_for_byte(tmp_path: Path) -> None:
    source, plain, image = tmp_path / "times.o", tmp_path / "times.bin", tmp_path / "image"
    subprocess.run(["as", "--32", "-o", str(source)], input=".code16\n" + TIMES, text=True, check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", str(source), str(plain)], check=True)
    image.write_bytes(plain.read_bytes().ljust(510, b"\0") + b"\x55\xaa")

    def output(clock: str) -> bytes:
        command = [TRAPGATE, "run", "--no-reboot", str(image), "--clock", clock]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
        assert done.returncode & 1, done
        return done.stdout

    first = output("instructions")
    assert len(first) == 64 * 5
    assert first == output("instructions")
    assert first != output("host")
