"""A guest that writes to the text screen alone: the debugger shows it, and who runs without one is told that."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cases import kit
from system.gdb_session import GuestUnderGdb

pytestmark = pytest.mark.skipif(bool(kit.LACKING), reason=kit.LACKING)
TRAPGATE = str(Path(sys.executable).with_name("trapgate"))
HINT = (
    "trapgate: the guest wrote to the text screen at B8000h, which is not shown; to see it: --gdb :1234, in gdb 'monitor screen'\n"
)


def run(image: str, *words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [TRAPGATE, "run", image, *words], capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
    )
    return done.returncode, done.stdout, done.stderr


def test_a_hint_where_nothing_else_was_seen(tmp_path: Path) -> None:
    assert run(kit.sector("text_screen", tmp_path)) == (33, "", HINT)
    assert run(kit.sector("text_screen", tmp_path, "-DAT_COM1")) == (33, "!", "")


@pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb")
def test_gdb_shows_it(tmp_path: Path) -> None:
    with GuestUnderGdb(path=kit.sector("text_screen", tmp_path)) as guest:
        text = guest.gdb("monitor screen", "watch *(short *)0xb8032", "continue", "monitor screen", symbols=False)
    assert "the text screen at b8000 is blank" in text
    assert "Hello from the text scree" in text, text
