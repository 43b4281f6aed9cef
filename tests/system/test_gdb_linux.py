"""gdb on Debian's kernel: a hardware breakpoint on its system-call entry, steps in it, and a boot that goes on once gdb is gone."""

import re
import shutil
import time
from pathlib import Path

import pytest

from system.gdb_session import GuestUnderGdb

GUESTS = Path(__file__).parents[2] / "build" / "guests"
pytestmark = [
    pytest.mark.linux,
    pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb"),
    pytest.mark.skipif(not (GUESTS / "vmlinuz-6.1").exists(), reason="needs the Linux guests: make guests"),
]
LSTAR = 0xC0000082
SYSENTER_EIP = 0x176
PATIENT = ("set remotetimeout 60",)  # on a busy host the names take more than the 2 s that gdb waits
RUN = "console=ttyS0 quiet panic=-1 trapgate.run=true"


def wait_for(guest: GuestUnderGdb, seconds: float, msr: int = LSTAR) -> int:
    """Until the kernel has told the CPU where system calls go, and that address."""
    end = time.monotonic() + seconds
    while not (address := guest.machine.vcpu.read_msr(msr)):
        assert time.monotonic() < end, "the kernel does not come up"
        assert guest.thread.is_alive(), guest.end
        time.sleep(0.1)
    return address


@pytest.mark.timeout(300)
def test_a_breakpoint_on_the_system_call_entry() -> None:
    kernel, initrd = str(GUESTS / "vmlinuz-6.1"), str(GUESTS / "initramfs.cpio.gz")
    with GuestUnderGdb(wait=False, path=kernel, append=RUN, memory=512, initrd=initrd) as guest:
        entry = wait_for(guest, 100)
        text = guest.gdb(
            "file target:/vmlinux", f"hbreak *{entry:#x}", "continue", "p/x $pc", "p $cs & 3", "bt 2", "x/2i $pc", "stepi", "stepi",
            'printf "gs %lx\\n", $gs_base',
            "continue", "p/x $pc", "p $rcx > 0", "delete", "stepi", "info registers eflags", "detach",
            symbols=False, timeout=100, first=PATIENT,
        )  # fmt: skip
        assert text.count(f"= {entry:#x}\n") == 2, text
        assert "swapgs" in text
        assert re.search("gs ffff[0-9a-f]{12}\n", text)  # SWAPGS has been stepped over: the kernel's own GS base
        assert "TF" not in text
        assert re.search(r"#0 +0xffffffff[0-9a-f]+ in entry_SYSCALL_64 \(\)", text)  # by the kernel's own names
        guest.thread.join(100)
        assert not guest.thread.is_alive(), "the guest did not come to its end"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("series", ["6.1", "6.12", "backports"])
def test_names_without_a_debug_package(series: str) -> None:
    """KASLR on, no vmlinux: gdb takes the kernel's own symbols, breaks by name and walks the stack by them."""
    kernel, initrd = GUESTS / f"vmlinuz-{series}", str(GUESTS / "initramfs.cpio.gz")
    if not kernel.exists():
        pytest.skip(f"needs the kernel {series}: make linux-guests")
    with GuestUnderGdb(wait=False, path=str(kernel), append=RUN, memory=512, initrd=initrd) as guest:
        wait_for(guest, 100)
        text = guest.gdb(
            "file target:/vmlinux", "break do_sys_openat2", "continue", "info symbol $pc", "bt", "monitor kernel",
            "x/s &linux_banner", "monitor ps", "info threads",
            "delete", "detach",
            symbols=False, timeout=100, first=PATIENT,
        )  # fmt: skip
        assert re.search(r"Breakpoint 1, 0xffffffff[0-9a-f]+ in do_sys_openat2 \(\)", text), text
        assert re.search(r"#\d+ .* in (do_filp_open|do_syscall_64|kernel_init|__x64_sys_openat) \(\)", text), text
        assert text.count("Linux version") == 2 and "KASLR" in text, text
        assert re.search(r"^ +0 +0 +0 . +- +\[swapper/0\]$", text, re.M), text
        assert re.search(r"^ +2 +2 +0 . +- +\[kthreadd\]$", text, re.M), text
        assert re.search(r'vCPU 0" \(long mode, CPL 0, \S+ \(\d+\)\)', text), text
        guest.thread.join(100)
        assert not guest.thread.is_alive(), "the guest did not come to its end"


@pytest.mark.timeout(300)
def test_names_of_a_32_bit_kernel() -> None:
    kernel, initrd = GUESTS / "vmlinuz-686-pae", GUESTS / "initramfs-i386.cpio.gz"
    if not kernel.exists() or not initrd.exists():
        pytest.skip("needs the kernel 686-pae: make linux-guests")
    with GuestUnderGdb(wait=False, path=str(kernel), append=RUN, memory=512, initrd=str(initrd)) as guest:
        wait_for(guest, 200, SYSENTER_EIP)
        text = guest.gdb(
            "file target:/vmlinux", "break do_sys_openat2", "continue", "bt", "monitor kernel", "monitor ps", "delete", "detach",
            symbols=False, timeout=100, first=PATIENT,
        )  # fmt: skip
        assert re.search(r"Breakpoint 1, 0x[0-9a-f]{8} in do_sys_openat2 \(\)", text), text
        assert "686" in text
        assert "the kernel's symbols do not say where its page tables are" in text, text
        guest.thread.join(100)
        assert not guest.thread.is_alive(), "the guest did not come to its end"
