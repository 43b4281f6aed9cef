"""The rules of other VMMs, against what was measured on a /dev/kvm with a guest's handler reading DR6."""

import pytest

from trapgate.cli.demo_others import BD, BLD, BS, VMMS, kvm_payload, qemu_kvm, qemu_kvm_patched
from trapgate.cli.demo_table import FATES


@pytest.mark.parametrize(
    ("payload", "dr6"), [(0x800, 0xFFFF07F0), (0x4000, 0xFFFF4FF0), (0x4801, 0xFFFF47F1), (0xFFFF4FF0, 0x00004000)]
)
def test_payload_as_measured(payload: int, dr6: int) -> None:
    assert kvm_payload(payload) == dr6


def test_a_single_step_becomes_a_bus_lock() -> None:
    assert qemu_kvm(BS) == "00004000, false BLD"


def test_a_bus_lock_is_hidden() -> None:
    assert qemu_kvm(BLD) == "00000800, no BLD"


def test_the_patch_adds_only_the_merged_bus_lock() -> None:
    every = [bits | one for bits in (0, BS, BLD, BD, BLD | BS) for one in (0, 1)]
    assert [causes for causes in every if qemu_kvm(causes) != qemu_kvm_patched(causes)] == [BLD | 1]


def test_nobody_else_gets_everything_right() -> None:
    for rule in VMMS.values():
        assert "lost" in rule(1) or "#BP" in rule(1)


def test_every_fate_but_right_has_exactly_one_heading() -> None:
    for rule in VMMS.values():
        for bits in range(16):
            causes = sum(bit for n, bit in enumerate((1, BLD, BD, BS)) if bits >> n & 1)
            assert sum(word in rule(causes) for word in FATES.values()) == 1, rule(causes)
