"""The benchmark guests: which there are, how many rounds each does, and how they are made from bench/guests/ into build/bench/."""

import hashlib
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "guests"
IMAGES = Path(__file__).resolve().parent.parent / "build" / "bench"
COMMON = ("start.S", "bench.c", "bench.h", "link.ld")
OPTIONS = (
    *("-m64", "-march=x86-64", "-O2", "-fno-tree-vectorize", "-ffreestanding", "-fno-builtin", "-Wall", "-Wextra", "-Werror"),
    *("-fno-pie", "-no-pie", "-mno-red-zone", "-mcmodel=small", "-fcf-protection=none", "-fno-stack-protector"),
    *("-fno-asynchronous-unwind-tables", "-nostdlib", "-static", "-Wl,--build-id=none", "-Wl,-z,max-page-size=4096"),
    *("-Wl,-z,noexecstack", "-Wl,--no-warn-rwx-segments"),
)


class BenchError(Exception):
    """A measurement that cannot be made; the text says what is missing or what went wrong."""


@dataclass(frozen=True, slots=True)
class Guest:
    """A benchmark guest. `rounds` is tuned for 0.5 to 1 second in QEMU's TCG; `work` says what one round is."""

    name: str
    rounds: int
    work: str


EMPTY = Guest("empty", 1, "start and end")
GUESTS = (
    Guest("sum", 60_000, "4096 loads and additions"),
    Guest("recursion", 1_500, "57,313 calls"),
    Guest("sieve", 80, "primes below 2^20"),
    Guest("crc", 2_000, "CRC-32 of 64 KiB"),
    Guest("indirect", 20_000, "1024 indirect calls"),
    Guest("branches", 40_000, "1024 unpredictable decisions"),
    Guest("doubles", 9_000, "1024 steps of scalar and packed doubles"),
    Guest("movsb", 3_000, "64 KiB by REP MOVSB"),
    Guest("int3", 1_200, "1024 breakpoints through the IDT"),
    Guest("faults", 700, "512 page faults and INVLPG"),
    Guest("syscalls", 2_500, "1024 SYSCALL and SYSRET"),
)


def build(guest: Guest, folder: Path = IMAGES, rounds: int | None = None) -> Path:
    """The image of a guest, made when there is none for these sources and this number of rounds. BenchError when gcc cannot."""
    rounds = guest.rounds if rounds is None else rounds
    source = SOURCES / f"{guest.name}.c"
    files = [SOURCES / name for name in COMMON]
    digest = hashlib.sha256(" ".join((*OPTIONS, str(rounds))).encode())
    for path in (source, *files):
        digest.update(path.read_bytes())
    target = folder / f"{guest.name}-{digest.hexdigest()[:12]}.elf"
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / "image.elf"
        defines = (f"-DITERATIONS={rounds}UL", f'-DNAME="{guest.name}"', f"-I{SOURCES}")
        inputs = (str(SOURCES / "start.S"), str(SOURCES / "bench.c"), str(source))
        command = ["gcc", *OPTIONS, *defines, f"-Wl,-T,{SOURCES / 'link.ld'}", "-o", str(made), *inputs]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise BenchError("gcc is not installed: the benchmark guests are built with gcc and binutils") from None
        if done.returncode:
            raise BenchError(f"gcc could not build {guest.name}: {done.stderr.strip()}")
        os.replace(made, target)
    return target
