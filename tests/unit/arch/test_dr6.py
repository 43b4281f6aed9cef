"""DR6: raw, active high, payload, and what a delivery leaves there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.arch import debugregs as dr
from trapgate.arch import dr6

BLD, BD, BS, BT = dr.DR6_BLD, dr.DR6_BD, dr.DR6_BS, dr.DR6_BT
a_cause = st.lists(st.sampled_from([BLD, BD, BS, BT])).map(lambda bits: sum(set(bits)))
some_hits = st.integers(0, 15)


@pytest.mark.parametrize(
    ("causes", "hits", "raw"),
    [
        (BLD, 0, 0xFFFF07F0),
        (BLD | BS, 0, 0xFFFF47F0),
        (BLD, 4, 0xFFFF07F4),
        (BS, 0, 0xFFFF4FF0),
        (BS | BLD, 1, 0xFFFF47F1),
        (BD, 0, 0xFFFF2FF0),
        (BT, 0, 0xFFFF8FF0),
        (0, 0, 0xFFFF0FF0),
    ],
)
def test_delivery_from_reset_reads_as_the_manuals_say(causes: int, hits: int, raw: int) -> None:
    assert dr6.deliver(dr.DR6_INIT, causes, hits) == raw
    assert dr6.to_raw(causes, hits) == raw
    assert dr6.from_raw(raw) == (causes, hits)


@pytest.mark.parametrize(("payload", "raw"), [(0x800, 0xFFFF07F0), (0x4000, 0xFFFF4FF0), (0x4801, 0xFFFF47F1)])
def test_payloads_measured_on_a_kvm(payload: int, raw: int) -> None:
    assert dr6.deliver(dr.DR6_INIT, *dr6.from_payload(payload)) == raw
    assert dr6.payload(*dr6.from_raw(raw)) == payload == raw ^ 0xFFFF0FF0


@given(a_cause, some_hits)
def test_payload_round_trip(causes: int, hits: int) -> None:
    assert dr6.from_payload(dr6.payload(causes, hits)) == (causes, hits)
    assert dr6.from_raw(dr6.to_raw(causes, hits)) == (causes, hits)


@given(a_cause, some_hits, a_cause, some_hits)
def test_sticky_causes_and_fresh_hits(first: int, first_hits: int, second: int, second_hits: int) -> None:
    after = dr6.deliver(dr6.deliver(dr.DR6_INIT, first, first_hits), second, second_hits)
    assert dr6.from_raw(after) == (first | second, second_hits)
    assert after & dr.DR6_FIXED_1 == dr.DR6_FIXED_1
    assert not after & 1 << 12


def test_stale_bld_makes_the_next_step_look_like_a_bus_lock() -> None:
    assert dr6.deliver(0xFFFF07F0, BS, 0) == 0xFFFF47F0


def test_icebp_keeps_breakpoint_bits_on_amd_only() -> None:
    before = dr6.to_raw(BS, 0b101)
    assert dr6.deliver(before, 0, 0, icebp=True, amd=True) == before
    assert dr6.deliver(before, 0, 0, icebp=True, amd=False) == dr6.to_raw(BS, 0)


def test_breakpoint_bits_are_no_cause() -> None:
    with pytest.raises(AssertionError):
        dr6.deliver(dr.DR6_INIT, 1, 0)
