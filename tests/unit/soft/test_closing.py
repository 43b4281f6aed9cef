"""A software CPU that was let go of: other threads may still be about to kick it, and whoever closes it again does no harm."""

from trapgate.build import make_machine
from trapgate.machine import MachineConfig


def test_kicked_and_closed_again() -> None:
    machine = make_machine(MachineConfig(memory=1 << 20), "soft")
    vcpu = machine.vcpu
    machine.close()
    for _ in range(2):
        vcpu.kick()
        vcpu.close()
