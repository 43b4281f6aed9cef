"""A kernel developer's hour: real gdb on an unmodified Debian 6.12 with KASLR and two CPUs, as a new user would try it."""

import re
import shutil
from pathlib import Path

import pytest

from system.gdb_session import GuestUnderGdb
from system.test_gdb_linux import GUESTS, PATIENT, wait_for
from system.test_gdb_soft import CTRL_C

KERNEL, FILES = GUESTS / "vmlinuz-6.12", GUESTS / "initramfs.cpio.gz"
pytestmark = [
    pytest.mark.linux,
    pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb"),
    pytest.mark.skipif(not KERNEL.exists(), reason="needs the kernel 6.12: make linux-guests"),
]
ROUND = "console=ttyS0 quiet panic=-1 trapgate.run=while,true;do,/bin/cat,/etc/none;done"
NONE = int.from_bytes(b"/etc/non", "little")  # the name of the file that the guest opens in vain, again and again


def running(file: Path) -> GuestUnderGdb:
    return GuestUnderGdb(wait=False, path=str(KERNEL), append=ROUND, memory=256, initrd=str(FILES), cpus=2, save=str(file))


@pytest.mark.timeout(400)
def test_a_kernel_developers_hour(tmp_path: Path) -> None:
    opened = f"break do_sys_openat2 if *(long *)$rsi == {NONE}"
    with running(tmp_path / "machine") as guest:
        wait_for(guest, 200)
        first = guest.gdb(
            "file target:/vmlinux", "monitor break-process cat", "continue", "p $cs & 3", "set $entry = $pc",
            "set breakpoint condition-evaluation target", opened, "continue", "bt", "monitor backtrace",
            "monitor ps", "info threads", "x/s $rsi",
            "monitor last 3", "thread 2", "p $pc > 0", "thread 1", "delete",
            "break do_sys_openat2 if 0", CTRL_C, "continue", "detach",
            symbols=False, timeout=100, first=PATIENT,
        )  # fmt: skip
        assert re.search(r"^the process cat \(\d+\) begins$", first, re.M), first
        assert "$1 = 3\n" in first
        assert re.search(r"hit Breakpoint 1, 0xffffffff[0-9a-f]+ in do_sys_openat2 \(\)", first), first
        frames = re.findall(r"^#\d+ +0x[0-9a-f]{16}  (\w+)", first, re.M)
        assert frames[0] == "do_sys_openat2" and "do_syscall_64" in frames, first
        assert re.search(r"^ +\d+ +\d+ +\d+ R +[0-9a-f]+  cat$", first, re.M), first
        assert '"/etc/none"' in first
        assert "SIGINT" in first, first
        second = guest.gdb(
            "file target:/vmlinux", "monitor break-process cat", "continue", "set $entry = $pc", "monitor snapshot save",
            "monitor stop-on call 101", "continue", "printf \"at %lx, flags %lx\\n\", $pc, $eflags & 0x200", *["stepi"] * 8,
            "printf \"then at %lx, flags %lx\\n\", $pc, $eflags & 0x200", "monitor stop-on nothing",
            "monitor snapshot load", "maintenance flush register-cache", "p $pc == $entry", "detach",
            symbols=False, timeout=100, first=PATIENT,
        )  # fmt: skip
        assert re.search(r"^at ffffffff[0-9a-f]+, flags 0$", second, re.M), second  # behind SYSCALL interrupts are off
        assert re.search(r"^then at ffffffff[0-9a-f]+, flags 0$", second, re.M), second
        assert "the machine is what it was" in second, second
        assert "$1 = 1\n" in second, second
        guest.host.post(guest.host.target.kill)
