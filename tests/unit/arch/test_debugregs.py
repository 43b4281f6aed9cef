"""DR6, DR7 and DEBUGCTL as MOV and WRMSR see them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.arch import debugregs as dr

halves = st.integers(0, 0xFFFFFFFF)


@pytest.mark.parametrize(
    ("amd", "bus_lock", "debugctl", "reads"),
    [
        (False, True, 0, 0xFFFF07F0),  # Intel: writable with the CPUID bit
        (False, False, 0, 0xFFFF0FF0),
        (True, True, 0, 0xFFFF0FF0),  # AMD: only while DEBUGCTL[2] is 1
        (True, True, 4, 0xFFFF07F0),
        (True, False, 4, 0xFFFF0FF0),
    ],
)
def test_writing_zero_to_dr6(amd: bool, bus_lock: bool, debugctl: int, reads: int) -> None:
    assert dr.store_dr6(0, amd=amd, bus_lock=bus_lock, debugctl=debugctl) == reads


def test_bld_reads_one_on_amd_once_the_trap_is_off() -> None:
    assert dr.read_dr6(0xFFFF07F0, amd=True, bus_lock=True, debugctl=4) == 0xFFFF07F0
    assert dr.read_dr6(0xFFFF07F0, amd=True, bus_lock=True, debugctl=0) == 0xFFFF0FF0
    assert dr.read_dr6(0xFFFF07F0, amd=False, bus_lock=True, debugctl=0) == 0xFFFF07F0


@given(halves)
def test_dr6_keeps_only_its_own_bits(value: int) -> None:
    stored = dr.store_dr6(value, amd=False, bus_lock=True, debugctl=0)
    assert stored & 0xE80F == value & 0xE80F
    assert stored & ~0xE80F == 0xFFFF07F0


@given(halves)
def test_dr7_reserved_bits(value: int) -> None:
    stored = dr.store_dr7(value)
    assert stored & 0xDC00 == 0x400  # bits 10 = 1; 11, 12, 14, 15 = 0
    assert stored & 0xFFFF23FF == value & 0xFFFF23FF


@pytest.mark.parametrize("high", [1 << 32, 1 << 63])
def test_upper_half_is_refused(high: int) -> None:
    with pytest.raises(ValueError):
        dr.store_dr6(high, amd=True, bus_lock=True, debugctl=0)
    with pytest.raises(ValueError):
        dr.store_dr7(high)


@given(st.integers(0, 3), st.integers(0, 3), st.sampled_from(dr.LENGTHS), st.booleans(), st.booleans())
def test_dr7_fields_round_trip(n: int, rw: int, length: int, local: bool, global_: bool) -> None:
    dr7 = dr.dr7_fields(n, rw, length, local=local, global_=global_)
    assert dr.slot(dr7, n) == dr.Slot(local, global_, rw, length)
    assert dr.enabled_mask(dr7) == (1 << n if local or global_ else 0)
    assert dr.store_dr7(dr7) == dr7 | 0x400


def test_dr7_by_hand() -> None:
    # DR1: write, 4 bytes, global; DR2: exec, local.
    dr7 = 0x00D00400 | 1 << 3 | 1 << 4
    assert dr.slot(dr7, 1) == dr.Slot(False, True, 1, 4)
    assert dr.slot(dr7, 2) == dr.Slot(True, False, 0, 1)
    assert dr.slot(1 << 28 | 2 << 30, 3).length == 8
    assert not dr.slot(dr7, 0).enabled


def test_length_that_dr7_cannot_hold() -> None:
    with pytest.raises(ValueError, match="not 3"):
        dr.dr7_fields(0, 1, 3)


def test_data_breakpoints_cover_their_aligned_block() -> None:
    assert dr.covered(0x1003, 4) == (0x1000, 0x1003)
    assert dr.covered(0x100F, 8) == (0x1008, 0x100F)
    assert dr.covered(0x1003, 1) == (0x1003, 0x1003)


def test_debugctl_mask() -> None:
    assert dr.debugctl_mask(True) == 7
    assert dr.debugctl_mask(False) == 3
