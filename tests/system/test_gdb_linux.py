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
RUN = "console=ttyS0 quiet panic=-1 trapgate.run=true"


def wait_for(guest: GuestUnderGdb, seconds: float) -> int:
    """Until the kernel has told the CPU where system calls go, and that address."""
    end = time.monotonic() + seconds
    while not (address := guest.machine.vcpu.read_msr(LSTAR)):
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
            f"hbreak *{entry:#x}", "continue", "p/x $pc", "p $cs & 3", "bt 2", "x/2i $pc", "stepi", "stepi",
            'printf "gs %lx\\n", $gs_base',
            "continue", "p/x $pc", "p $rcx > 0", "delete", "stepi", "info registers eflags", "detach",
            symbols=False, timeout=100,
        )  # fmt: skip
        assert text.count(f"= {entry:#x}\n") == 2, text
        assert "swapgs" in text
        assert re.search("gs ffff[0-9a-f]{12}\n", text)  # SWAPGS has been stepped over: the kernel's own GS base
        assert "TF" not in text
        assert re.search(r"#0 +0xffffffff[0-9a-f]+ in \?\? \(\)", text)
        guest.thread.join(100)
        assert not guest.thread.is_alive(), "the guest did not come to its end"
