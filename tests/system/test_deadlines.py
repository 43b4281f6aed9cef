"""A timer that the guest moves to an earlier moment amid a run: the machine, which waits for the later one, hears of it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from trapgate.build import load_guest, make_machine
from trapgate.machine import ClockKind, MachineConfig
from trapgate.stops import ExitKind

# x2APIC by MSRs alone. A deadline 2^36 ticks away is left to the machine (the IN asks for a fresh look); then one 2^21 ticks away,
# and a loop of 2^31 instructions without any exit. Exit values: 1 the interrupt came in the loop, 2 it did not.
PROGRAM = """
    cli; xor %ax,%ax; mov %ax,%ds; mov %ax,%ss; mov $0x7000,%sp
    movw $timer,0x100; movw $0,0x102
    mov $0x1B,%ecx; mov $0xFEE00D00,%eax; xor %edx,%edx; wrmsr
    mov $0x80F,%ecx; mov $0x1FF,%eax; wrmsr
    mov $0x832,%ecx; mov $0x40040,%eax; wrmsr
    mov $0x6E0,%ecx; rdtsc; add $16,%edx; wrmsr
    in $0xE0,%al
    sti
    rdtsc; add $0x200000,%eax; adc $0,%edx; wrmsr
    mov $0x40000000,%ebx
again: dec %ebx; jnz again
    mov $2,%al; out %al,$0xF4
timer: mov $1,%al; out %al,$0xF4
"""


@pytest.mark.skipif(shutil.which("as") is None, reason="binutils is not installed")
@pytest.mark.parametrize("clock", list(ClockKind))
def test_an_earlier_deadline_is_kept(clock: ClockKind, tmp_path: Path) -> None:
    made, plain, image = tmp_path / "made.o", tmp_path / "plain", tmp_path / "image"
    source = ".code16\n.org 0x7C00\n" + PROGRAM
    subprocess.run(["as", "--32", "-o", str(made)], input=source, text=True, check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", str(made), str(plain)], check=True)
    image.write_bytes(plain.read_bytes()[0x7C00:].ljust(510, b"\0") + b"\x55\xaa")
    machine = make_machine(MachineConfig(memory=2 << 20, cpu="SapphireRapids", clock=clock), "soft")
    try:
        load_guest(machine, str(image))
        stop = machine.run()
    finally:
        machine.close()
    assert (stop.kind, stop.status) == (ExitKind.EXIT_PORT, 3)
