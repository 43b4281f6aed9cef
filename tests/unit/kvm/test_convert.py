"""DR6 of both vendors, payloads, segments: pure conversions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.arch import dr6
from trapgate.arch.debugregs import DR6_BLD, DR6_BS
from trapgate.kvm import abi, convert
from trapgate.kvm.convert import DebugMeaning, Situation

NONE = 0xFFFF0FF0
CAUSES = st.sampled_from([0, DR6_BLD, DR6_BS, DR6_BS | DR6_BLD, dr6.CAUSES])


@pytest.mark.parametrize(
    ("raw", "amd", "intel"),
    [
        (0xFFFF4FF0, (DR6_BS, 0), (DR6_BS, 0)),
        (0xFFFF07F0, (DR6_BLD, 0), (0, 0)),
        (0xFFFF47F1, (DR6_BS | DR6_BLD, 1), (DR6_BS, 1)),
        (0xFFFF0FF2, (0, 2), (0, 2)),
    ],
)
def test_what_a_raw_dr6_means_by_vendor(raw: int, amd: tuple[int, int], intel: tuple[int, int]) -> None:
    for amd_host, (causes, matched) in ((True, amd), (False, intel)):
        icebp = amd_host and not causes and not matched
        assert convert.debug_meaning(raw, Situation(amd_host, 0, 3, lambda: 0x90)) == DebugMeaning(causes, matched, icebp)


@pytest.mark.parametrize("byte", [None, 0x90])
def test_no_cause_and_no_int1_at_rip(byte: int | None) -> None:
    """AMD hides nothing, so it was INT1, and RIP is behind it; on Intel it was a bus lock, if the guest asked for those."""
    assert convert.debug_meaning(NONE, Situation(True, 4, 3, lambda: byte)) == DebugMeaning(0, 0, icebp=True)
    assert convert.debug_meaning(NONE, Situation(False, 4, 3, lambda: byte)) == DebugMeaning(DR6_BLD, 0)
    assert convert.debug_meaning(NONE, Situation(False, 4, 0, lambda: byte)) == DebugMeaning(0, 0)


@pytest.mark.parametrize("amd_host", [True, False])
def test_int1_at_rip(amd_host: bool) -> None:
    assert convert.debug_meaning(NONE, Situation(amd_host, 4, 3, lambda: 0xF1)) == DebugMeaning(0, 0, icebp=True, on_it=True)


def test_measured_deliveries() -> None:
    """What guests' handlers were seen to read, by payload."""
    assert [convert.delivered_dr6(NONE, value) for value in (0x800, 0x4000, 0x4801)] == [0xFFFF07F0, 0xFFFF4FF0, 0xFFFF47F1]


def test_a_raw_dr6_as_payload_would_turn_a_step_into_a_bus_lock() -> None:
    assert convert.delivered_dr6(NONE, 0xFFFF4FF0) == 0x00004000


@given(CAUSES, st.integers(0, 15))
def test_the_payload_carries_every_cause(causes: int, hits: int) -> None:
    events = abi.VcpuEvents()
    convert.inject_debug(events, causes, hits, payload=True)
    assert dr6.from_raw(convert.delivered_dr6(NONE, events.exception_payload)) == (causes, hits)
    assert events.exception_payload == dr6.to_raw(causes, hits) ^ NONE


@given(st.integers(0, 0xFFFF), st.integers(0, (1 << 64) - 1), st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFF))
def test_segments_there_and_back(selector: int, base: int, limit: int, raw: int) -> None:
    word = raw & 0xF0FF
    one = convert.segment(selector, base, limit, word)
    unusable = 0 if word & 0x80 else convert.UNUSABLE
    assert (one.selector, one.base, one.limit, convert.attributes(one)) == (selector, base, limit, word | unusable)
