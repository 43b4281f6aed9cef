"""Descriptors and gates: raw bytes to fields and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.arch.segments import Descriptor, Gate, SystemType


def test_flat_code_64() -> None:
    code = Descriptor.from_bytes((0x00AF9B000000FFFF).to_bytes(8, "little"))
    assert (code.base, code.limit, code.byte_limit) == (0, 0xFFFFF, 0xFFFFFFFF)
    assert code.is_code
    assert code.readable
    assert code.long
    assert code.present
    assert code.granular
    assert not (code.db)
    assert not (code.writable)
    assert not (code.conforming)
    assert not (code.expand_down)
    assert code.dpl == 0
    assert code.attributes == 0xA09B


def test_user_data_32() -> None:
    data = Descriptor.from_bytes((0x12CFF3345678FFFF).to_bytes(8, "little"))
    assert data.base == 0x12345678
    assert data.dpl == 3
    assert data.is_data
    assert data.writable
    assert data.db


def test_tss_64_has_a_long_base() -> None:
    tss = Descriptor(base=0xFFFF_8000_1234_5678, limit=0x67, type=SystemType.TSS, s=False, present=True)
    raw = tss.to_bytes(16)
    assert raw.hex() == "6700785634890012" + "0080ffff00000000"
    assert Descriptor.from_bytes(raw) == tss
    assert Descriptor.from_bytes(raw[:8]).base == 0x12345678


@given(st.binary(min_size=8, max_size=8))
def test_every_descriptor_survives(raw: bytes) -> None:
    assert Descriptor.from_bytes(raw).to_bytes() == raw


@given(st.integers(0, (1 << 64) - 1), st.integers(0, 0xFFFF), st.sampled_from([14, 15]), st.integers(0, 3), st.integers(0, 7))
def test_long_gate_survives(offset: int, selector: int, kind: int, dpl: int, ist: int) -> None:
    gate = Gate(selector, offset, kind, dpl, True, ist)
    assert Gate.from_bytes(gate.to_bytes()) == gate


def test_gate_by_hand() -> None:
    gate = Gate.from_bytes(bytes.fromhex("5634 1000 03 8e 1200 01000000 00000000"))
    assert gate == Gate(selector=0x10, offset=0x1_0012_3456, type=14, dpl=0, present=True, ist=3)
    assert Gate.from_bytes(bytes.fromhex("5634 1000 00 ee 1200")) == Gate(0x10, 0x123456, 14, 3)


def test_limits() -> None:
    up = Descriptor(limit=0xFFF, type=2, present=True)
    assert up.contains(0xFFF, 1)
    assert not up.contains(0xFFF, 2)
    down = Descriptor(limit=0xFFF, type=6, present=True, db=False)
    assert not down.contains(0xFFF, 1)
    assert down.contains(0x1000, 4)
    assert not down.contains(0xFFFF, 2)


def test_accessed() -> None:
    assert Descriptor(type=2).accessed().type == 3
    assert Descriptor(type=SystemType.LDT, s=False).accessed().type == SystemType.LDT


@pytest.mark.parametrize("size", [0, 7, 12])
def test_wrong_sizes(size: int) -> None:
    with pytest.raises(ValueError):
        Descriptor.from_bytes(bytes(size))
    with pytest.raises(ValueError):
        Gate.from_bytes(bytes(size))
    with pytest.raises(ValueError):
        Gate(0, 0, 14).to_bytes(size)
