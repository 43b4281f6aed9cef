"""The page of a report in a browser: its picture of the line is where the bytes are."""

import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from trapgate.finder.findings import Report, Run
from trapgate.finder.formats.registry import renderer
from unit.finder.told import example

MARK = bytes.fromhex("e8590c")  # of locked bytes, in page.css
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def pixels(file: Path) -> list[bytes]:
    """The rows of a PNG of 8-bit colours, 3 bytes a pixel (W3C PNG, 9)."""
    data, at, parts = file.read_bytes(), 8, b""
    width = height = channels = 0
    while at < len(data):
        (length,), kind = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack_from(">IIBB", data, at + 8)
            assert (depth, colour) in ((8, 2), (8, 6))
            channels = 3 if colour == 2 else 4
        elif kind == b"IDAT":
            parts += data[at + 8 : at + 8 + length]
        at += 12 + length
    raw, size, rows, above = zlib.decompress(parts), width * channels, [], bytearray(width * channels)
    for number in range(height):
        filtered, row = raw[number * (size + 1)], bytearray(raw[number * (size + 1) + 1 : (number + 1) * (size + 1)])
        for n in range(size):
            left, corner = (row[n - channels], above[n - channels]) if n >= channels else (0, 0)
            row[n] = row[n] + _predicted(filtered, left, above[n], corner) & 0xFF
        rows.append(b"".join(row[n : n + 3] for n in range(0, size, channels)))
        above = row
    return rows


def _predicted(kind: int, left: int, above: int, corner: int) -> int:
    guess = left + above - corner
    nearest = min((abs(guess - one), n) for n, one in enumerate((left, above, corner)))[1]
    return (0, left, above, (left + above) // 2, (left, above, corner)[nearest])[kind]


@pytest.mark.long
def test_a_browser_shows_the_bytes_that_are_locked(tmp_path: Path) -> None:
    browser = next((found for one in BROWSERS if (found := shutil.which(one))), None)
    if browser is None:
        pytest.skip("a browser looks at the page: apt-get install chromium")
    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    page.write_text("\n".join(renderer("html").render(Report((Run(("program",)),), (example(),)))))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--window-size=1200,1200"]
    command = [browser, *options, f"--screenshot={picture}", f"{page.as_uri()}#finding-1"]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    rows = [[n // 3 for n in range(0, len(row), 3) if row[n : n + 3] == MARK] for row in pixels(picture)]
    drawn = max(rows, key=len)
    groups = [[drawn[0]]]
    for column in drawn[1:]:
        if column > groups[-1][-1] + 1:
            groups.append([])
        groups[-1].append(column)
    assert len(groups) == 4, groups  # two bytes at the end of a line, two at the beginning of the next
    box = groups[1][0] - groups[0][0]
    assert abs(groups[3][0] - groups[2][0] - box) <= 1
    assert groups[2][0] - groups[1][0] > box + 5
