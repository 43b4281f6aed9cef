"""Blocks by their guest bytes: one that is met again, in this run or in a later one, is copied instead of translated.

Packed, they are an index and the pieces it points to; a piece is unpacked when it is first asked for. So a run pays for
what it uses, and what it never asked for is what goes when there is too much.
"""

import marshal

from trapgate.soft.composer import BlockTemplate

PREFIX = 8  # blocks are found by their first guest bytes
MOST_KEPT = 100_000  # pieces packed: past that only those that this run has used
Key = tuple[int, bytes]  # (what besides the bytes decides translation, the first guest bytes)


class KnownBlocks:
    """Every block translated so far."""

    def __init__(self) -> None:
        self.added = 0
        self._found: dict[Key, list[BlockTemplate]] = {}
        self._index: dict[Key, tuple[int, int]] = {}  # pieces not unpacked yet: (offset, length)
        self._packed = memoryview(b"")

    def find(self, space: int, data: bytes) -> BlockTemplate | None:
        """The longest known block that some guest bytes begin with. `space`: the mode and whatever else decides translation."""
        for template in self._piece((space, data[:PREFIX])):
            if data.startswith(template[0]):
                return template
        for length in range(min(PREFIX, len(data)) - 1, 0, -1):
            for template in self._piece((space, data[:length])):
                if len(template[0]) == length:
                    return template
        return None

    def add(self, space: int, template: BlockTemplate) -> None:
        """Keep a block."""
        key = (space, template[0][:PREFIX])
        piece = self._found[key] = [*self._piece(key), template]
        piece.sort(key=lambda one: -len(one[0]))
        self.added += 1

    def _piece(self, key: Key) -> list[BlockTemplate]:
        found = self._found.get(key)
        if found is not None:
            return found
        place = self._index.pop(key, None)
        if place is None:
            return []
        at, length = place
        piece: list[BlockTemplate] = marshal.loads(self._packed[at : at + length])
        self._found[key] = piece
        return piece

    def pack(self) -> bytes:
        """All of them as bytes."""
        pieces = {key: marshal.dumps(found) for key, found in self._found.items()}
        if len(pieces) + len(self._index) <= MOST_KEPT:
            pieces |= {key: bytes(self._packed[at : at + length]) for key, (at, length) in self._index.items()}
        index, at = dict[Key, tuple[int, int]](), 0
        for key, piece in pieces.items():
            index[key] = at, len(piece)
            at += len(piece)
        head = marshal.dumps(index)
        return len(head).to_bytes(8, "little") + head + b"".join(pieces.values())

    def unpack(self, data: bytes) -> None:
        """Know what `pack` gave, besides what is known already."""
        start = 8 + int.from_bytes(data[:8], "little")
        index: dict[Key, tuple[int, int]] = marshal.loads(data[8:start])
        self._packed = memoryview(data)[start:]
        self._index = {key: place for key, place in index.items() if key not in self._found}
