"""Cases of public reports as guest images: `program` builds a bare-metal ELF of C, `sector` a flat binary for 7C00h."""

import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
COMMON = HERE / "common"  # start-up code, exception stubs and output of the programs in C
FLAGS = (
    "-g -O1 -ffreestanding -nostdlib -static -no-pie -fno-pie -mno-red-zone -mgeneral-regs-only -fno-stack-protector "
    "-fcf-protection=none -fno-asynchronous-unwind-tables -fno-omit-frame-pointer -Wl,--build-id=none "
    "-Wl,-z,max-page-size=4096 -Wl,-z,noexecstack"
).split()
LACKING = next((f"no {tool}" for tool in ("gcc", "ld", "objcopy") if shutil.which(tool) is None), "")
"""Why nothing can be built here; empty when all is there."""


def program(name: str, folder: Path, *flags: str) -> str:
    """The path of an ELF64 multiboot image of `name`.c, with more flags for gcc if needed."""
    made = folder / f"{name}.elf"
    sources = [str(COMMON / "rt.S"), str(COMMON / "rt.c"), str(HERE / f"{name}.c")]
    _run("gcc", *FLAGS, f"-I{COMMON}", "-T", str(COMMON / "link.ld"), "-o", str(made), *sources, *flags)
    return str(made)


def sector(name: str, folder: Path, *flags: str) -> str:
    """The path of a flat image of `name`.S, linked at 7C00h, with more flags for gcc if needed."""
    part, linked, made = folder / f"{name}.o", folder / f"{name}.elf", folder / f"{name}.img"
    _run("gcc", "-m32", "-c", "-o", str(part), str(HERE / f"{name}.S"), *flags)
    _run("ld", "-m", "elf_i386", "-Ttext=0x7C00", "-e", "start", "-o", str(linked), str(part))
    _run("objcopy", "-O", "binary", "-j", ".text", str(linked), str(made))
    return str(made)


def linked(name: str, folder: Path, *flags: str) -> str:
    """The path of an ELF file of `name`.S alone, with flags for gcc that say how it is linked."""
    made = folder / f"{name}.elf"
    _run("gcc", "-nostdlib", "-static", "-Wl,--build-id=none", *flags, "-o", str(made), str(HERE / f"{name}.S"))
    return str(made)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stderr[:2000]}"
