"""Devices serve a guest on KVM as on the software CPU: timers, serial port, interrupt controllers (ours or the kernel's)."""

import pytest

from kvm.guest import ENGINES, KVM, LOG, PD, Loaded
from trapgate.stops import ExitKind, MachineExit

pytestmark = KVM

APIC = 0x200000  # where the guest sees FEE00000h
WAIT = f"2: cmp qword ptr [{LOG}], {LOG + 64}\nje 2b\ncli"
ENABLE = f"mov dword ptr [{APIC + 0xF0}], 0x1FF"
EOI = f"mov dword ptr [{APIC + 0xB0}], 0"
TIMER = (
    f"{ENABLE}\nmov dword ptr [{APIC + 0x3E0}], 0xB\nmov dword ptr [{APIC + 0x320}], 0x40\nmov dword ptr [{APIC + 0x380}], 100000"
)
PIT = (
    "mov al, 0x11\nout 0x20, al\nmov al, 0x40\nout 0x21, al\nmov al, 4\nout 0x21, al\n"
    "mov al, 1\nout 0x21, al\nmov al, 0xFE\nout 0x21, al\n"
    "mov al, 0x30\nout 0x43, al\nmov al, 0x10\nout 0x40, al\nmov al, 1\nout 0x40, al"
)
PRINT = "mov dx, 0x3F8\nmov al, 'h'\nout dx, al\nmov al, 'i'\nout dx, al\nadd edx, 5\nin al, dx\nmovzx ebx, al"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("wait", ["sti\n" + WAIT, "sti\nhlt\ncli"], ids=["busy", "halted"])
@pytest.mark.parametrize("source", [TIMER, PIT], ids=["local APIC timer", "PIT through the 8259"])
def test_timer_interrupts_arrive(source: str, wait: str, engine: str) -> None:
    guest = Loaded(f"{source}\n{wait}\n{EOI}", engine)
    guest.machine.ram.write_int(PD + 8, 8, 0xFEE00087)
    end = guest.machine.resume()
    assert isinstance(end, MachineExit)
    assert end.kind is ExitKind.EXIT_PORT
    assert [one.vector for one in guest.log] == [0x40]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_serial_port_takes_and_tells(engine: str) -> None:
    sent: list[bytes] = []
    guest = Loaded(PRINT, engine, serial=sent.append)
    assert isinstance(guest.machine.resume(), MachineExit)
    assert b"".join(sent) == b"hi"
    assert guest.machine.vcpu.get("rbx") == 0x60  # the transmitter is empty


def test_a_local_apic_that_the_guest_switches_off_is_off() -> None:
    guest = Loaded("mov ecx, 0x1B\nrdmsr\nand eax, 0xFFFFF7FF\nwrmsr\nrdmsr\nmov ebx, eax", "kvm")
    assert guest.machine.lapic.enabled
    assert isinstance(guest.machine.resume(), MachineExit)
    assert guest.machine.vcpu.get("rbx") == 0xFEE00100
    assert not guest.machine.lapic.enabled
