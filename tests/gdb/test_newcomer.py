"""Who is a debugger: whoever has sent one valid packet, and nobody before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.gdb.framing import PACKET_SIZE, frame
from trapgate.gdb.newcomer import Newcomer, Verdict, refusal

WORDS = frame(b"qSupported:swbreak+")


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        (b"", Verdict.UNKNOWN),
        (b"+-\x03", Verdict.UNKNOWN),
        (WORDS[:-1], Verdict.UNKNOWN),
        (b"$g#00", Verdict.UNKNOWN),
        (WORDS, Verdict.DEBUGGER),
        (b"+" + WORDS, Verdict.DEBUGGER),
        (b"$g#00" + WORDS, Verdict.DEBUGGER),
        (b"GET / HTTP/1.1\r\n\r\n", Verdict.OTHER),
        (b"+POST / HTTP/1.1\r\n" + WORDS, Verdict.OTHER),
        (b"\x16\x03\x01\0$k#6b", Verdict.OTHER),
        (b"$}#7d", Verdict.OTHER),
        (b"$" + b"x" * PACKET_SIZE, Verdict.OTHER),
    ],
)
def test_by_what_was_said(words: bytes, verdict: Verdict) -> None:
    assert Newcomer().receive(words) is verdict


@given(st.lists(st.sampled_from([b"+", b"$g#00", WORDS, b"x", b"-"]), max_size=6), st.integers(1, 9))
def test_in_whatever_pieces_it_is_said(words: list[bytes], size: int) -> None:
    said = b"".join(words)
    pieces, newcomer, verdict = [said[at : at + size] for at in range(0, len(said), size)], Newcomer(), Verdict.UNKNOWN
    for piece in pieces:
        verdict = newcomer.receive(piece)
        if verdict is not Verdict.UNKNOWN:
            break
    assert verdict is Newcomer().receive(said)


def test_what_a_debugger_said_first_is_handed_on_and_a_damaged_packet_asked_for_again() -> None:
    newcomer = Newcomer()
    assert newcomer.receive(b"+$g#00") is Verdict.UNKNOWN
    assert newcomer.answer == b"-"
    assert newcomer.receive(WORDS + b"\x03") is Verdict.DEBUGGER
    assert bytes(newcomer.data) == WORDS + b"\x03"


def test_what_is_held_has_a_bound() -> None:
    newcomer = Newcomer()
    for _ in range(3 * PACKET_SIZE // 0x800):
        if newcomer.receive(b"$" + b"y" * 0x7FF if not newcomer.data else b"y" * 0x800) is Verdict.OTHER:
            break
        assert len(newcomer.data) < PACKET_SIZE
    else:
        pytest.fail("it was never refused")


def test_a_refusal_is_an_error_with_words() -> None:
    assert refusal("one at a time") == b"+" + frame(b"E.one at a time")
