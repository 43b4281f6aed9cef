"""The escape key: no byte meant for the guest is lost or changed, and none meant for trapgate reaches the guest."""

from hypothesis import given
from hypothesis import strategies as st

from trapgate.cli.keys import Escape, Key


def test_quit_between_bytes() -> None:
    assert Escape().feed(b"ab\x01xcd") == [b"ab", Key.QUIT, b"cd"]


def test_help_and_capitals() -> None:
    assert Escape().feed(b"\x01h\x01X") == [Key.HELP, Key.QUIT]


def test_escape_twice_sends_one() -> None:
    assert Escape().feed(b"a\x01\x01b") == [b"a\x01b"]


def test_unknown_letter_is_dropped() -> None:
    assert Escape().feed(b"a\x01zb") == [b"ab"]


def test_escape_across_reads() -> None:
    escape = Escape()
    assert escape.feed(b"a\x01") == [b"a"]
    assert escape.feed(b"xb") == [Key.QUIT, b"b"]


def test_control_c_is_the_guests() -> None:
    assert Escape().feed(b"\x03\x1a\x1c") == [b"\x03\x1a\x1c"]


@given(st.lists(st.binary(max_size=8)))
def test_doubling_the_escape_sends_anything(parts: list[bytes]) -> None:
    escape = Escape()
    got = [piece for part in parts for piece in escape.feed(part.replace(b"\x01", b"\x01\x01"))]
    assert all(isinstance(piece, bytes) for piece in got)
    assert b"".join(piece for piece in got if isinstance(piece, bytes)) == b"".join(parts)
