"""The guests that come with trapgate are what their sources make."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trapgate import guests

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.parametrize("shipped", [guests.DEMO, guests.DEMO32, guests.INIT], ids=["demo", "demo32", "init"])
def test_shipped_image_equals_a_rebuild(shipped: Path) -> None:
    name = shipped.stem
    code = f"import tools.build_guests as b, sys; sys.stdout.buffer.write(b.origin({name!r}).encode() + b'\\0' + b.build({name!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    origin, _, image = done.stdout.partition(b"\0")
    noted = shipped.with_suffix(".origin").read_bytes()
    assert origin.splitlines()[0] == noted.splitlines()[0], "the sources were changed: run `make guests`"
    assert image.startswith(b"\x7fELF")
    if origin == noted:  # the same compiler makes the same bytes
        assert image == shipped.read_bytes()
