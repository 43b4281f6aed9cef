"""Guests that reset the machine: it begins again in place, breakpoints kept, or ends; the power button."""

import os
import pty
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from system.test_run import TRAPGATE, TRIPLE_FAULT, boot_sector, trapgate, wait_for
from tools import linux_guest
from trapgate import ExitKind, Machine, MachineConfig, MachineExit

SAY = bytes.fromhex("baf803b041ee")  # mov dx, 3F8h; mov al, 'A'; out dx, al
WAYS = {
    "keyboard controller": bytes.fromhex("b0fee664ebfe"),  # mov al, FEh; out 64h, al; jmp .
    "its output port": bytes.fromhex("b0d1e664b0fee660ebfe"),  # command D1h, then FEh at 60h
    "reset register": bytes.fromhex("baf90cb006eeebfe"),  # mov dx, CF9h; mov al, 6; out dx, al
    "port 92h": bytes.fromhex("e4920c01e692ebfe"),  # in al, 92h; or al, 1; out 92h, al
}
BUTTON = SAY + bytes.fromhex("ba0006edf6c40174fab010e6f4")  # mov dx, 600h; 1: in ax, dx; test ah, 1; jz 1b; out F4h, 10h


def until(image: str, text: bytes, *words: str) -> tuple[int, bytes]:
    """Run until the guest has said something, then end it; status and standard error."""
    with subprocess.Popen(
        [TRAPGATE, "run", image, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        wait_for(process.stdout.fileno(), text)
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        return process.wait(60), process.stderr.read()


@pytest.mark.parametrize("way", [pytest.param(way, marks=pytest.mark.long) if at else way for at, way in enumerate(WAYS)])
def test_a_reset_begins_anew_or_ends(way: str, tmp_path: Path) -> None:
    image = boot_sector(tmp_path, SAY + WAYS[way])
    assert until(image, b"AAA", "-m", "4M") == (128 + signal.SIGTERM, b"")
    done = trapgate("run", image, "-m", "4M", "--no-reboot")
    assert (done.returncode, done.stdout) == (0, "A")
    assert done.stderr == "trapgate: the guest asked for a reset; the machine ends here\n"


@pytest.mark.long
def test_a_triple_fault_begins_anew_where_that_is_wanted(tmp_path: Path) -> None:
    image = boot_sector(tmp_path, TRIPLE_FAULT)
    with subprocess.Popen(
        [TRAPGATE, "run", image, "-m", "4M", "--on-triple-fault", "reset"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        said = wait_for(process.stderr.fileno(), b"begins again")
        said += wait_for(process.stderr.fileno(), b"begins again")
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert b"exception #DF" in said
    both = trapgate("run", image, "--on-triple-fault", "reset", "--no-reboot")
    assert (both.returncode, both.stderr.count("\n")) == (2, 1)


def test_a_program_begins_it_again_itself(tmp_path: Path) -> None:
    said = bytearray()
    with Machine(MachineConfig(memory=4 << 20, serial=said.extend)) as machine:
        machine.load(boot_sector(tmp_path, SAY + WAYS["reset register"]))
        for _ in range(3):
            assert machine.run() == MachineExit(ExitKind.RESET)
            machine.reset()
    assert said == b"AAA"


@pytest.mark.long
@pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb")
def test_breakpoints_are_kept_and_a_step_crosses_the_reset(tmp_path: Path) -> None:
    image = boot_sector(tmp_path, SAY + WAYS["keyboard controller"])
    commands = (
        "set confirm off", "set architecture i8086", f"target remote | {TRAPGATE} run {image} -m 4M --gdb stdio",
        "hbreak *0x7c05", "continue", "continue", "x/i $pc", "delete", "break *0x7c06", "continue", "x/i $pc",
        "stepi", "stepi", "x/i $pc", "monitor power-button", "kill",
    )  # fmt: skip
    words = [word for command in commands for word in ("-ex", command)]
    done = subprocess.run(["gdb", "-q", "-nx", "-batch", *words], capture_output=True, text=True, timeout=120, check=False)
    text = done.stdout
    assert len(re.findall(r"Breakpoint 1, 0x0*7c05", text)) == 2, text
    assert re.search(r"=> 0x7c06:\s+mov +\$0xfe,%al", text), text
    assert re.search(r"=> 0x7c00:\s+mov +\$0x3f8,%dx", text), text
    assert "the power button is pressed" in done.stderr


def test_the_power_button_is_a_signal(tmp_path: Path) -> None:
    with subprocess.Popen(
        [TRAPGATE, "run", boot_sector(tmp_path, BUTTON), "-m", "4M"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        wait_for(process.stdout.fileno(), b"A")
        process.send_signal(signal.SIGUSR2)
        assert process.wait(60) == 33


@pytest.mark.long
def test_the_power_button_is_a_key(tmp_path: Path) -> None:
    command = [TRAPGATE, "run", boot_sector(tmp_path, BUTTON), "-m", "4M"]
    process, terminal = pty.fork()
    if not process:
        os.execv(command[0], command)
    wait_for(terminal, b"A")
    os.write(terminal, b"\x01p")
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 33
    os.close(terminal)


@pytest.mark.linux
def test_linux_reboots_and_hears_the_power_button(tmp_path: Path) -> None:
    """By its own ways: a reboot, in place; the button as an input event, upon which it powers off."""
    kernel = linux_guest.cached_kernel("6.12")
    if kernel is None or linux_guest.cached("initramfs.cpio.gz") is None:
        pytest.skip("no guests in build/guests: run `make linux-guests`")
    script = b"echo listening; head -c 24 /dev/input/event0 | od -A n -t x2; poweroff -f\n"
    image = tmp_path / "initrd"
    image.write_bytes(linux_guest.with_drivers("6.12", script, ("button", "evdev")))
    line = f"{linux_guest.CONSOLE} quiet trapgate.run=sh,/m/test.sh"
    with subprocess.Popen(
        [TRAPGATE, "run", str(kernel), "--initrd", str(image), "--append", line], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        wait_for(process.stdout.fileno(), b"listening")
        time.sleep(1)
        process.send_signal(signal.SIGUSR2)
        assert process.wait(120) == 0
    initramfs = str(linux_guest.initramfs())
    words = ("--initrd", initramfs, "--append", f"{linux_guest.CONSOLE} quiet trapgate.run=reboot,-f")
    ready = linux_guest.READY.encode()
    with subprocess.Popen([TRAPGATE, "run", str(kernel), *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(2):
            wait_for(process.stdout.fileno(), ready)
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(60) == 128 + signal.SIGTERM
