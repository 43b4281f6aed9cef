"""The guest of the target `debugger` is what its source says."""

import shutil
import subprocess
from pathlib import Path

import pytest

from fuzz.guest import CODE, SOURCE


@pytest.mark.skipif(shutil.which("as") is None, reason="binutils is not installed")
def test_the_guest_is_what_its_source_says(tmp_path: Path) -> None:
    made, linked = tmp_path / "made.o", tmp_path / "linked"
    subprocess.run(["as", "--32", "-o", str(made)], input=SOURCE, text=True, check=True)
    linker = ["ld", "-m", "elf_i386", "-Ttext", "0x7c00", "-e", "0x7c00", "--oformat", "binary", "-o", str(linked), str(made)]
    subprocess.run(linker, check=True)
    assert linked.read_bytes() == CODE
