"""Builds the guests that come with trapgate from their sources, the same bytes for the same compiler (`make guests`)."""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

GUESTS = Path(__file__).resolve().parent.parent / "src" / "trapgate" / "guests"
COMPILE = (
    "-c {machine} -march=x86-64 -O1 -g1 -gdwarf-4 -ffreestanding -fno-pie -mno-red-zone -mgeneral-regs-only {model} "
    "-fcf-protection=none -fno-stack-protector -fno-asynchronous-unwind-tables -Wall -Wextra -Werror"
)
MACHINES = {64: {"machine": "-m64", "model": "-mcmodel=small"}, 32: {"machine": "-m32", "model": ""}}  # gcc's, by width
EMULATIONS = {64: "elf_x86_64", 32: "elf_i386"}  # ld's
BUILDS = {"demo": ("demo", 64), "demo32": ("demo", 32), "init": ("init", 64)}  # sources and width of each image
LINK = "-static --build-id=none -z max-page-size=4096 -z noexecstack --no-warn-rwx-segments".split()


class BuildError(Exception):
    """The compiler is missing or refused the sources."""


def run(command: list[str], folder: Path) -> str:
    """What a tool prints; BuildError with its words when it fails or is missing."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{error.filename} is missing; install it with: sudo apt-get install gcc binutils") from error
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def sources(name: str) -> list[Path]:
    """Every file that an image is made of."""
    return sorted(path for path in (GUESTS / BUILDS[name][0]).iterdir() if path.suffix in (".S", ".c", ".h", ".ld"))


def origin(name: str) -> str:
    """What decides the bytes of an image, one line each: the digest of its sources, then the versions of gcc, as and ld."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources(name))).hexdigest()
    versions = [run([tool, "--version"], GUESTS).splitlines()[0] for tool in ("gcc", "as", "ld")]
    return "\n".join([f"sources {digest}", *versions, ""])


def build(name: str) -> bytes:
    """The ELF image of one of `BUILDS`, of *.S, *.c and *.ld; BuildError with the compiler's words when it cannot be made."""
    folder, width = GUESTS / BUILDS[name][0], BUILDS[name][1]
    options = COMPILE.format(**MACHINES[width]).split()
    with tempfile.TemporaryDirectory() as scratch:
        objects = []
        for path in sources(name):
            if path.suffix in (".S", ".c"):
                objects.append(f"{path.stem}-{path.suffix[1:].lower()}.o")  # its name ends up in the symbol table
                run(["gcc", *options, f"-ffile-prefix-map={folder}=.", "-o", f"{scratch}/{objects[-1]}", path.name], folder)
        run(["ld", *LINK, "-m", EMULATIONS[width], "-T", str(folder / f"{folder.name}.ld"), "-o", "image", *objects], Path(scratch))
        return (Path(scratch) / "image").read_bytes()


def main() -> None:
    """Rebuild every guest and note beside it what it was made of."""
    try:
        for name in BUILDS:
            image = build(name)
            (GUESTS / f"{name}.elf").write_bytes(image)
            (GUESTS / f"{name}.origin").write_text(origin(name))
            print(f"{name}.elf: {len(image)} bytes")
    except BuildError as error:
        sys.exit(f"build_guests: {error}")


if __name__ == "__main__":
    main()
