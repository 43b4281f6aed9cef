"""SeaBIOS starts what a disk holds: boot sectors, GRUB with Debian's kernel; gdb follows from the reset vector on."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cases import kit
from kvm.guest import KVM
from tools import linux_guest
from tools.guests import grub
from trapgate import ClockKind, Machine, MachineConfig
from trapgate.boot.firmware import PLACES
from trapgate.cli import main

TRAPGATE = str(Path(sys.executable).with_name("trapgate"))
FIRMWARE = pytest.mark.skipif(not any(Path(place).is_file() for place in PLACES), reason="needs the package seabios")
TOOLS = pytest.mark.skipif(bool(kit.LACKING), reason=kit.LACKING)
BANNER = "Booting from Hard Disk"


def trapgate(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [TRAPGATE, *arguments], capture_output=True, text=True, timeout=240, check=False, stdin=subprocess.DEVNULL
    )


@FIRMWARE
@TOOLS
@pytest.mark.parametrize("engine", ["soft", pytest.param("kvm", marks=KVM)])
def test_a_boot_sector_reads_its_second_sector(engine: str, tmp_path: Path) -> None:
    """Of a disk of two sectors, by int 13h; what it reads says K and leaves by the exit port."""
    done = trapgate("run", "--disk", f"{kit.sector('g06_disk_sector2', tmp_path)},ro", "-m", "16M", "--engine", engine)
    if "cannot emulate an instruction" in done.stderr and "(unmapped)" not in done.stderr:  # where firmware is, KVM must find it
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0x21
    assert engine == "kvm" or not done.stderr  # which CPU features this KVM cannot give
    assert BANNER in done.stdout
    assert done.stdout.endswith("K")


@FIRMWARE
@pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb")
@TOOLS
@pytest.mark.long
def test_gdb_follows_from_the_reset_vector_into_the_second_sector(tmp_path: Path) -> None:
    image = kit.sector("g06_disk_sector2", tmp_path)
    run = f"{TRAPGATE} run --disk {image},snapshot -m 16M --gdb stdio"
    commands = (
        "set confirm off", "set architecture i8086", f"target remote | {run}", "p/x $pc", "x/i $pc", "stepi", "p/x $pc",
        "hbreak *0x7c00", "continue", "x/i $pc", "hbreak *0x500", "continue", "x/i $pc", "continue",
    )  # fmt: skip
    words = [word for command in commands for word in ("-ex", command)]
    done = subprocess.run(["gdb", "-q", "-nx", "-batch", *words], capture_output=True, text=True, timeout=120, check=False)
    text = done.stdout
    assert "$1 = 0xfffffff0" in text, text
    assert re.search(r"=> 0xfffffff0:\s+ljmp +\$0xf000,\$0xe05b", text), text
    assert "$2 = 0xfe05b" in text
    assert re.search(r"=> 0x7c00:\s+cli", text)
    assert re.search(r"=> 0x500:\s+mov +\$0x3f8,%dx", text)
    assert "exited with code 041" in text


@FIRMWARE
def test_firmware_repeats_and_is_put_back(tmp_path: Path) -> None:
    """With the instruction clock, saved amid its work: what comes then is what it was."""

    def machine() -> Machine:
        return Machine(MachineConfig(memory=16 << 20, clock=ClockKind.INSTRUCTIONS))

    with machine() as one:
        one.load_firmware()
        one.run(instructions=120_000)
        one.save(tmp_path / "saved")
        one.run(instructions=50_000)
        registers, low = dict(one.cpu), one.ram.read(0, 1 << 20)
    with machine() as other:
        other.restore(tmp_path / "saved")
        other.run(instructions=50_000)
        assert dict(other.cpu) == registers
        assert other.ram.read(0, 1 << 20) == low


@FIRMWARE
@pytest.mark.linux
def test_grub_starts_debian_from_a_disk(tmp_path: Path) -> None:
    kernel, initrd = linux_guest.cached_kernel("6.12"), linux_guest.cached("initramfs.cpio.gz")
    if kernel is None or initrd is None or linux_guest.cached(grub.NAME) is None:
        pytest.skip("no guests in build/guests: run `make linux-guests`")
    line = f"{linux_guest.CONSOLE} trapgate.run=cat,/proc/cmdline"
    disk = grub.disk(tmp_path / "disk.img", linux_guest.CACHE, kernel, initrd, line)
    done = trapgate("run", "--disk", f"{disk},ro")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert f"BOOT_IMAGE=(hd0,msdos1)/vmlinuz {line}" in done.stdout
    assert "trapgate: exit status 0" in done.stdout


def test_words_about_firmware(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(510) + b"\x55\xaa")
    for arguments, words in (
        ((), "Missing argument 'IMAGE', or a --disk or --cdrom for firmware to start"),
        ((str(image), "--firmware", str(image)), "leave out one of them"),
        (("--firmware", str(image), "--append", "quiet"), "go with an IMAGE"),
        (("--firmware", str(image), "--no-sandbox"), "64 or 128 KiB"),
        (("--firmware", str(tmp_path / "none"), "--no-sandbox"), "does not exist"),
    ):
        assert main.status_of(["run", *arguments]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1


@FIRMWARE
def test_a_disc_that_starts_nothing_is_told_before_firmware_looks(tmp_path: Path) -> None:
    blank = tmp_path / "blank.iso"
    blank.write_bytes(bytes(40 << 10))
    command = [TRAPGATE, "run", "--cdrom", str(blank)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        told = any("no El Torito boot record" in line for line in run.stderr)  # up to that line
        run.terminate()
    assert told
