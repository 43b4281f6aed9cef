"""Builds the guests that come with trapgate from their sources, the same bytes for the same compiler (`make guests`)."""

import subprocess
import sys
import tempfile
from pathlib import Path

GUESTS = Path(__file__).resolve().parent.parent / "src" / "trapgate" / "guests"
FLAGS = (
    "-m64 -march=x86-64 -O1 -g1 -gdwarf-4 -ffreestanding -nostdlib -static -no-pie -fno-pie -mno-red-zone -mgeneral-regs-only -mcmodel=small "
    "-fcf-protection=none -fno-stack-protector -fno-asynchronous-unwind-tables -Wall -Wextra -Werror "
    "-Wl,--build-id=none -Wl,-z,max-page-size=4096 -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments"
).split()


class BuildError(Exception):
    """The compiler is missing or refused the sources."""


def toolchain() -> str:
    """The versions that decide the bytes of an image, one line each: gcc, as, ld."""
    try:
        lines = [subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout for tool in ("gcc", "as", "ld")]
    except OSError as error:
        raise BuildError(f"{error.filename} is missing; install it with: sudo apt-get install gcc binutils") from error
    return "".join(line.splitlines()[0] + "\n" for line in lines)


def build(name: str) -> bytes:
    """The ELF image made of guests/NAME/*.S, *.c and NAME.ld; BuildError with the compiler's words when it cannot be made."""
    sources = sorted(path.name for pattern in ("*.S", "*.c") for path in (GUESTS / name).glob(pattern))
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "image"
        command = ["gcc", *FLAGS, f"-ffile-prefix-map={GUESTS / name}=.", "-Wl,-T," + f"{name}.ld", "-o", str(target), *sources]
        try:
            done = subprocess.run(command, cwd=GUESTS / name, capture_output=True, text=True, check=False)
        except OSError as error:
            raise BuildError(f"{error.filename} is missing; install it with: sudo apt-get install gcc binutils") from error
        if done.returncode:
            raise BuildError(f"cannot build the guest {name}:\n{done.stderr}")
        return target.read_bytes()


def main() -> None:
    """Rebuild every guest and note the toolchain beside it."""
    try:
        for folder in sorted(path for path in GUESTS.iterdir() if (path / f"{path.name}.ld").exists()):
            image = build(folder.name)
            (GUESTS / f"{folder.name}.elf").write_bytes(image)
            (GUESTS / f"{folder.name}.toolchain").write_text(toolchain())
            print(f"{folder.name}.elf: {len(image)} bytes")
    except BuildError as error:
        sys.exit(f"build_guests: {error}")


if __name__ == "__main__":
    main()
