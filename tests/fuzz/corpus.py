"""Inputs that served, as one text file a target: a line an input, `#` before what is said about the next ones.

A line is a Python bytes literal where that is short, else base 85 of zlib's deflate. `found/` has those that once showed a fault:
they stay whatever the code becomes.
"""

import ast
import base64
import zlib
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).with_name("corpus")
FOUND = HERE / "found"


def line_of(data: bytes) -> str:
    """An input as a line."""
    plain, packed = repr(data), base64.b85encode(zlib.compress(data, 9)).decode()
    return plain if len(plain) <= 2 * len(packed) else packed


def data_of(line: str) -> bytes:
    """The input of a line; ValueError when it is none."""
    if line.startswith(("b'", 'b"')):
        data = ast.literal_eval(line)
        assert isinstance(data, bytes)
        return data
    return zlib.decompress(base64.b85decode(line))


def read(path: Path) -> list[bytes]:
    """The inputs of a file; none where there is no file."""
    if not path.exists():
        return []
    return [data_of(line) for line in path.read_text().splitlines() if line and not line.startswith("#")]


def of(target: str) -> list[bytes]:
    """Everything that is kept for a target, what once showed a fault first."""
    return [*read(FOUND / f"{target}.txt"), *read(HERE / f"{target}.txt")]


def write(target: str, inputs: Iterable[bytes]) -> None:
    """Replace what is kept for a target, but for what once showed a fault."""
    HERE.mkdir(exist_ok=True)
    text = "".join(f"{line_of(data)}\n" for data in sorted(inputs, key=lambda data: (len(data), data)))
    (HERE / f"{target}.txt").write_text(text)
