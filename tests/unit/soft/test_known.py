"""Blocks kept by their guest bytes: found again, packed, unpacked piece by piece, forgotten when nobody asks."""

from trapgate.soft import known
from trapgate.soft.composer import BlockTemplate
from trapgate.soft.known import KnownBlocks


def block(guest: bytes) -> BlockTemplate:
    return guest, b"code of " + guest, ((8, 1),), ((20, 30, -2),), ((12, b"\x0f\xa2"),)


LONG, LONGER, SHORT, OTHER = b"ABCDEFGHIJ", b"ABCDEFGHIJKL", b"AB", b"zzzzzzzzzz"


def filled() -> KnownBlocks:
    blocks = KnownBlocks()
    for guest in (LONG, SHORT, LONGER):
        blocks.add(2, block(guest))
    blocks.add(1, block(OTHER))
    return blocks


def test_the_longest_block_that_fits_is_found() -> None:
    blocks = filled()
    assert blocks.find(2, LONGER + b"more") == block(LONGER)
    assert blocks.find(2, LONG + b"x") == block(LONG)
    assert blocks.find(2, b"ABxxxxxxxxxx") == block(SHORT)
    assert blocks.find(2, b"AB") == block(SHORT)
    assert blocks.find(2, b"A") is None


def test_modes_do_not_share_blocks() -> None:
    assert filled().find(1, LONG) is None
    assert filled().find(2, OTHER) is None


def test_packed_and_unpacked_they_are_the_same() -> None:
    blocks = KnownBlocks()
    blocks.unpack(filled().pack())
    assert blocks.added == 0
    assert blocks.find(2, LONGER) == block(LONGER)
    assert blocks.find(1, OTHER) == block(OTHER)
    blocks.add(2, block(b"ABCDEFGHZ"))  # the same prefix as a packed piece
    assert blocks.find(2, LONG) == block(LONG)
    again = KnownBlocks()
    again.unpack(blocks.pack())
    assert again.find(2, b"ABCDEFGHZ") == block(b"ABCDEFGHZ")
    assert again.find(2, LONGER) == block(LONGER)


def test_what_a_run_has_made_itself_wins_over_what_was_packed() -> None:
    blocks = KnownBlocks()
    mine = (LONG, b"mine", (), (), ())
    blocks.add(2, mine)
    blocks.unpack(filled().pack())
    assert blocks.find(2, LONG) == mine


def test_past_the_limit_only_what_was_asked_for_is_kept() -> None:
    blocks = KnownBlocks()
    blocks.unpack(filled().pack())
    blocks.find(1, OTHER)
    before, known.MOST_KEPT = known.MOST_KEPT, 1
    try:
        packed = blocks.pack()
    finally:
        known.MOST_KEPT = before
    again = KnownBlocks()
    again.unpack(packed)
    assert again.find(1, OTHER) == block(OTHER)
    assert again.find(2, LONG) is None
