"""What a worker tells its driver, through a file in memory that outlives it: how far it is, and the input under way."""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from fuzz.mutate import LONGEST

_HEAD = struct.Struct("<QQQQ")  # runs, branches reached, inputs kept, bytes of the input
SIZE = _HEAD.size + 16 * LONGEST


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a worker is; `data` is the input that it runs, or ran last."""

    runs: int = 0
    reached: int = 0
    kept: int = 0
    data: bytes = b""


class Place:
    """The file, mapped by both."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), SIZE)

    @staticmethod
    def make(path: Path) -> "Place":
        """A new one, all zero."""
        path.write_bytes(bytes(SIZE))
        return Place(path)

    def put(self, progress: Progress) -> None:
        """Tell."""
        data = progress.data[: SIZE - _HEAD.size]
        self._memory[_HEAD.size : _HEAD.size + len(data)] = data
        _HEAD.pack_into(self._memory, 0, progress.runs, progress.reached, progress.kept, len(data))

    def get(self) -> Progress:
        """What was told last; of an input that changes meanwhile, anything."""
        runs, reached, kept, length = _HEAD.unpack_from(self._memory, 0)
        return Progress(runs, reached, kept, self._memory[_HEAD.size : _HEAD.size + length])
