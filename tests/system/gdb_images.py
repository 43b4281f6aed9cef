"""Guests of 16 and 32 bits for a debugger, built at test time: what is run, and the ELF file with its symbols."""

import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

CASES = Path(__file__).parent.parent / "cases"
FLAGS = (
    "-m32 -g -O1 -ffreestanding -nostdlib -static -no-pie "
    "-fno-pie -fno-stack-protector -fcf-protection=none "
    "-fno-omit-frame-pointer -fno-asynchronous-unwind-tables "
    "-Wl,-Ttext=0x100000,--build-id=none,-z,noexecstack,--no-warn-rwx-segments"
)


@dataclass(frozen=True, slots=True)
class Built:
    """A guest: `image` is run, `file` has symbols, by name in `symbols`."""

    image: str
    file: str
    symbols: dict[str, int]


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, timeout=60, capture_output=True, text=True).stdout


def _built(image: Path, file: Path) -> Built:
    lines = (line.split() for line in _run("nm", str(file)).splitlines())
    return Built(str(image), str(file), {name: int(value, 16) for value, _, name in lines})


@cache
def sector(name: str = "modes.S") -> Built:
    """A boot sector of `tests/cases`."""
    folder = Path(mkdtemp())
    parts = [folder / f"sector.{kind}" for kind in ("o", "elf", "img")]
    made, file, image = map(str, parts)
    _run("gcc", "-m32", "-g", "-c", "-o", made, str(CASES / name))
    _run("ld", "-m", "elf_i386", "-Ttext=0x7C00", "-e", "start", "-o", file, made)
    _run("objcopy", "-O", "binary", "-j", ".text", file, image)
    return _built(parts[2], parts[1])


@cache
def guest32() -> Built:
    """The 32-bit multiboot kernel of `tests/cases`."""
    out = Path(mkdtemp()) / "guest32.elf"
    _run("gcc", *FLAGS.split(), "-o", str(out), str(CASES / "guest32_entry.S"), str(CASES / "guest32.c"))
    return _built(out, out)
