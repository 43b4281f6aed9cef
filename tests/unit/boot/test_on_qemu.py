"""Plans that QEMU carries out: guests of each protocol start, find what they were promised, and power off by our ACPI tables."""

import shutil
import subprocess
from pathlib import Path

import pytest

from trapgate.boot import BootOptions, BootPlan, Image, plan_boot, read_image
from unit.boot import trampoline
from unit.boot.images import MIB

GUESTS = Path(__file__).parents[3] / "build" / "guests"
MISSING = [name for name in ("qemu-system-x86_64", "gcc") if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

# Writes the string that ESI points to to COM1, then leaves through the exit port with 0.
PRINT_AND_EXIT = """
1:  lodsb
    testb %al, %al
    jz 2f
    movw $0x3F8, %dx
    outb %al, %dx
    jmp 1b
2:  xorl %eax, %eax
    outl %eax, $0xF4
    hlt
"""
MULTIBOOT = """
    .code32
    .long 0x1BADB002, 0, -0x1BADB002
    .globl start
start:
    cmpl $0x2BADB002, %eax
    jne 3f
    movl $0x400000, %esp
    pushl %eax
    movl 16(%ebx), %esi
"""
PVH = """
    .section .note.pvh, "a", @note
    .long 4, 4, 18
    .asciz "Xen"
    .long start
    .text
    .code32
    .globl start
start:
    cmpl $0x336EC578, (%ebx)
    jne 3f
    movl 24(%ebx), %esi
"""


def run(plan: BootPlan, folder: Path, timeout: float) -> tuple[int, str]:
    """QEMU's exit status and what came over the serial port."""
    command = trampoline.qemu(trampoline.build(plan, folder))
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False)
    return done.returncode, done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")


@pytest.mark.parametrize(("protocol", "source"), [("multiboot", MULTIBOOT), ("PVH", PVH)])
def test_a_small_guest_gets_its_command_line(protocol: str, source: str, tmp_path: Path) -> None:
    (tmp_path / "guest.S").write_text(source + PRINT_AND_EXIT + "3: movb $1, %al; outb %al, $0xF4; hlt\n")
    image = tmp_path / "guest.elf"
    options = ["-m32", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,-Ttext-segment=0x200000", "-Wl,-e,start"]
    options += ["-Wl,-z,max-page-size=4096", "-Wl,-z,noexecstack"]
    subprocess.run(["gcc", *options, "-o", str(image), str(tmp_path / "guest.S")], check=True, capture_output=True)
    plan = plan_boot(Image(image.read_bytes(), "guest"), BootOptions(((0, 64 * MIB),), "hello from the loader"))
    assert plan.kind == protocol
    status, output = run(plan, tmp_path, 30)
    assert "hello from the loader" in output
    assert status == 1


@pytest.mark.linux
@pytest.mark.parametrize(("series", "bits"), [("6.1", 64), ("6.12", 64), ("6.1", 32)])
def test_linux_boots_and_powers_off_by_our_tables(series: str, bits: int, tmp_path: Path) -> None:
    kernel, initrd = GUESTS / f"vmlinuz-{series}", GUESTS / "initramfs.cpio.gz"
    if not (kernel.is_file() and initrd.is_file()):
        pytest.skip("no Linux guests in build/guests: run `make linux-guests`")
    line = "console=ttyS0 panic=-1 trapgate.run=cat,/proc/cmdline"
    image = bytearray(read_image(kernel).data)
    if bits == 32:
        image[0x236] &= ~1  # xloadflags: as if there were no 64-bit entry
    plan = plan_boot(Image(image, "vmlinuz"), BootOptions(((0, 256 * MIB),), line, read_image(initrd)))
    assert plan.start.mode == {32: "protected32", 64: "long64"}[bits]
    status, output = run(plan, tmp_path, 100)
    assert "ACPI: RSDP 0x00000000000E0000" in output
    assert "(v06 TRAPGT TRAPGATE" in output
    assert "ACPI BIOS Error" not in output
    assert output.count(line) >= 2  # the kernel's own message, and what the guest's command printed
    assert "trapgate: exit status 0" in output
    assert "reboot: Power down" in output
    assert status == 0
