"""A software CPU that was let go of: other threads may still be about to kick it, and whoever closes it again does no harm."""

import gc
import weakref

from trapgate.build import make_machine
from trapgate.machine import MachineConfig
from trapgate.soft.cpu import SoftVcpu


def test_kicked_and_closed_again() -> None:
    machine = make_machine(MachineConfig(memory=1 << 20), "soft")
    vcpu = machine.vcpu
    machine.close()
    for _ in range(2):
        vcpu.kick()
        vcpu.close()


def test_its_memory_does_not_wait_for_the_garbage_collector() -> None:
    machine = make_machine(MachineConfig(memory=1 << 20), "soft")
    vcpu = machine.vcpu
    assert isinstance(vcpu, SoftVcpu)
    held = [weakref.ref(one) for one in (vcpu.code, vcpu.blocks, vcpu.translator, vcpu.translator.known_blocks)]
    gc.disable()
    try:
        machine.close()
        assert [one() for one in held] == [None] * 4
    finally:
        gc.enable()
