"""Frames: what the pure parser makes of good, bad and unfinished bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.gdb import framing
from trapgate.gdb.framing import Ack, Damaged, Interrupt, Junk, Nack, Packet, Reader, Refused, frame, parse


@pytest.mark.parametrize(
    ("data", "event", "used"),
    [
        (b"", None, 0),
        (b"+$?#3f", Ack(), 1),
        (b"-", Nack(), 1),
        (b"\x03", Interrupt(), 1),
        (b"$?#3f+", Packet(b"?"), 5),
        (b"$#00", Packet(b""), 4),
        (b"$?#3", None, 0),
        (b"$?", None, 0),
        (b"$?#3e", Damaged("wrong checksum"), 5),
        (b"$?#zz", Damaged("wrong checksum"), 5),
        (b"$a}\x03b#fe", Damaged("wrong checksum"), 8),
        (b"$a}\x03b#" + b"%02x" % (sum(b"a}\x03b") & 255), Packet(b"a#b"), 8),
        (b"$a}#" + b"%02x" % (sum(b"a}") & 255), Refused("escape at the end of a packet"), 6),
        (b"GET / HTTP/1.1\r\n", Junk(b"GET / HTTP/1.1\r\n"), 16),
        (b"$m0,$?#3f", Junk(b"$m0,"), 4),
    ],
)
def test_events(data: bytes, event: framing.Event | None, used: int) -> None:
    assert parse(data) == (event, used)


def test_a_star_in_a_request_is_a_star() -> None:
    assert parse(frame(b"X0,2:a") + b"") == (Packet(b"X0,2:a"), 10)
    raw = b"m0* "
    assert parse(b"$" + raw + b"#%02x" % (sum(raw) & 255)) == (Packet(raw), len(raw) + 4)


@pytest.mark.parametrize("raw", [b"* ", b"a*", b"a*\x1f", b"a*\x05", b"a*\x7f", b"a*\xff", b"a* * *"])
def test_bad_run_lengths(raw: bytes) -> None:
    event, used = parse(b"$" + raw + b"#%02x" % (sum(raw) & 255), runs=True)
    assert isinstance(event, Refused)
    assert used == len(raw) + 4


def test_runs_cannot_expand_without_bound() -> None:
    with pytest.raises(framing.BadCoding, match="limit"):
        framing.expand_runs(b"a" + b"*~" * 100_000)


@pytest.mark.parametrize("count", range(3, 98))
def test_runs_are_expanded(count: int) -> None:
    assert framing.expand_runs(b"a0*%cb" % (count + 29)) == b"a0" + b"0" * count + b"b"


@given(st.binary(max_size=400), st.booleans())
def test_round_trip(payload: bytes, runs: bool) -> None:
    wire = frame(payload)
    assert parse(wire, runs=runs) == (Packet(payload), len(wire))
    assert not set(wire[1:-3]) & set(b"#$*")


@given(st.lists(st.binary(max_size=40), max_size=6), st.integers(1, 7))
def test_reader_does_not_care_how_bytes_arrive(payloads: list[bytes], piece: int) -> None:
    wire = b"".join(b"+" + frame(payload) for payload in payloads)
    reader = Reader()
    events = [event for at in range(0, len(wire), piece) for event in reader.feed(wire[at : at + piece])]
    assert [event.payload for event in events if isinstance(event, Packet)] == payloads
    assert not any(isinstance(event, Junk) for event in events)


@given(st.binary(max_size=300))
def test_reader_takes_anything(data: bytes) -> None:
    Reader(limit=64).feed(data)
    Reader(limit=64, runs=True).feed(data)


def test_longest_packet_is_the_advertised_one() -> None:
    longest = frame(b"a" * framing.PAYLOAD_SIZE)
    assert len(longest) == framing.PACKET_SIZE
    assert Reader().feed(longest) == [Packet(b"a" * framing.PAYLOAD_SIZE)]


@pytest.mark.parametrize("excess", [1, 2, 3, 4, 5, 100_000])
def test_too_long_is_refused_at_once_and_then_skipped(excess: int) -> None:
    reader = Reader()
    data = frame(b"\x03" * (framing.PAYLOAD_SIZE + excess))
    events = reader.feed(data[: framing.PACKET_SIZE])
    assert [type(event) for event in events] == [Refused]
    assert reader.feed(data[framing.PACKET_SIZE :]) == []
    assert reader.feed(b"$?#3f") == [Packet(b"?")]


def test_too_long_without_an_end_does_not_fill_memory() -> None:
    reader = Reader(limit=100)
    events = [event for _ in range(50) for event in reader.feed(b"$" + b"a" * 1000)]
    assert len(reader._data) < 3
    assert all(isinstance(event, Refused | Junk) for event in events)


@pytest.mark.parametrize("before", [b"$abc#", b"$abc#0", b"$" + b"a" * 40 + b"#", b"$" + b"a" * 40 + b"#0"])
@pytest.mark.parametrize("piece", [1, 2, 3, 100])
def test_a_dollar_where_a_checksum_should_be_begins_a_frame(before: bytes, piece: int) -> None:
    reader, events = Reader(limit=20), []
    for at in range(0, len(before) + 5, piece):
        events += reader.feed((before + b"$g#67")[at : at + piece])
    assert events[-1] == Packet(b"g")
