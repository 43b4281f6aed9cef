"""Debian's unmodified 6.1 kernel on KVM: to its end, or as far as the host executes it; and to a shell, with a debugger at it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from kvm.guest import SLOWER
from kvm.linux_session import PATIENCE, Session
from tools import linux_guest
from tools.guests.console import PROMPT, Console, ConsoleError
from tools.guests.needs import COMPILER, lacking
from tools.guests.sources import GuestError
from trapgate.build import default_cpu, load_guest, make_machine
from trapgate.gdb.address import UnixAddress
from trapgate.gdb.client import Client
from trapgate.kvm.ioctl import KvmError
from trapgate.machine import MachineConfig
from trapgate.stops import ExitKind, MachineExit

pytestmark = [pytest.mark.kvm, pytest.mark.linux, pytest.mark.timeout(1800, method="signal")]
GAVE_UP = "this host's KVM gave up"  # what a host that emulates says of an instruction that it does not know
LIMIT = 1_500_000_000_000  # ns: a host that emulates takes minutes to unpack the kernel


def files() -> tuple[Path, Path]:
    """Kernel and initial RAM disk; where nothing can be compiled those that somebody has left."""
    try:
        left = linux_guest.cached("initramfs.cpio.gz") if lacking(COMPILER) else None
        return linux_guest.kernel("6.1"), left or linux_guest.initramfs()
    except (GuestError, OSError) as error:
        pytest.skip(f"no Linux guest: {error}")


def test_debians_kernel_runs_a_program_and_powers_off() -> None:
    kernel, initramfs = files()
    sent: list[bytes] = []
    machine = make_machine(MachineConfig(memory=512 << 20, cpu=default_cpu("kvm"), serial=sent.append), "kvm")
    load_guest(machine, str(kernel), "console=ttyS0 earlyprintk=ttyS0,115200 panic=-1 trapgate.run=splitlock,2", str(initramfs))
    machine.clock.at(LIMIT, machine.pause)
    gave_up = ""
    try:
        end = machine.resume()
    except KvmError as error:
        gave_up = str(error)
    finally:
        machine.close()
    text = b"".join(sent).decode(errors="replace")
    assert "Linux version 6.1" in text, gave_up or text
    assert "Hypervisor detected: KVM" in text
    assert "kvm-clock: Using msrs" in text
    if gave_up:
        pytest.skip(f"{gave_up}; the kernel's last line: {text.splitlines()[-1]}")
    assert "splitlock: 2 split locks done, counter 2" in text
    assert isinstance(end, MachineExit)
    assert end.kind is ExitKind.POWER_OFF


def test_a_debugger_on_its_shell(tmp_path: Path) -> None:
    """Breaks, steps through SYSCALL, page faults, interrupts and IRET, detaches; then gdb does; and the shell knows of nothing."""
    kernel, initramfs = files()
    socket = tmp_path / "gdb"
    words = ("--engine", "kvm", "--memory", "256M", "--gdb", f"unix:{socket}")
    line = "console=ttyS0 panic=-1 quiet"
    with Console([str(kernel), "--initrd", str(initramfs), "--append", line, *words]) as console:
        try:
            console.wait_for(PROMPT, 600)
        except ConsoleError as error:
            if GAVE_UP not in str(error):
                raise
            pytest.skip(str(error).splitlines()[-1])
        with Client(UnixAddress(str(socket)), timeout=PATIENCE) as client:
            session = Session.begin(client, console)
            for show in (session.system_call, session.interrupt, session.page_fault):
                assert show() == [], show.__name__
            client.detach()
        console.send("echo $((6 * 7))\n")
        console.wait_for("\n42\n")
        if shutil.which("gdb"):
            console.send("while :; do sleep 1; done\n")  # gdb comes when it comes
            text = under_gdb(
                socket, f"hbreak *{session.syscall:#x}", "continue", "x/i $pc", "stepi", "info registers eflags", "delete", "detach"
            )
            assert "swapgs" in text
            assert "TF" not in text
            console.send("\x03")
        console.send("echo $((7 * 7)); exit\n")
        console.wait_for("\n49\n")
        assert console.finish() == 0
        trouble = [word for word in ("BUG:", "WARNING:", "Oops", "Call Trace") if word in console.output]
    assert not trouble, console.output


def test_what_was_saved_at_its_shell_goes_on_there_and_on_the_software_cpu(tmp_path: Path) -> None:
    """Without KVM's own clock, which the software CPU has not."""
    kernel, initramfs = files()
    socket, kept = tmp_path / "gdb", tmp_path / "kept"
    words = ("--engine", "kvm", "--cpu", f"{default_cpu('kvm')},-hypervisor", "--memory", "256M")
    asked = ("--append", "console=ttyS0 panic=-1 quiet", "--gdb", f"unix:{socket}", "--save", str(kept))
    with Console([str(kernel), "--initrd", str(initramfs), *words, *asked]) as console:
        try:
            console.wait_for(PROMPT, 600)
        except ConsoleError as error:
            if GAVE_UP not in str(error):
                raise
            pytest.skip(str(error).splitlines()[-1])
        console.send("n=6\n")
        console.wait_for(PROMPT, 600)
        with Client(UnixAddress(str(socket)), timeout=PATIENCE) as client:
            assert str(kept) in client.monitor("snapshot save")
            client.kill()
    for engine in ("kvm", "soft"):
        with Console(["--restore", str(kept), "--engine", engine]) as console:
            console.send("cat /proc/interrupts; sleep 1; echo $((n * 7)); exit\n")
            console.wait_for("\n42\n", 600)
            assert console.finish() == 0
            trouble = [word for word in ("BUG:", "WARNING:", "Oops", "Call Trace", "clocksource") if word in console.output]
        assert not trouble, console.output


def under_gdb(socket: Path, *commands: str) -> str:
    """What gdb says to its commands."""
    options = ("set architecture i386:x86-64", "set confirm off", "set remotetimeout 100", f"target remote {socket}")
    arguments = [part for command in (*options, *commands) for part in ("-ex", command)]
    done = subprocess.run(
        ["gdb", "-nx", "-batch", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE * SLOWER,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout + done.stderr
