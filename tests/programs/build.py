"""Guest programs: assembled from one .S file each, run on the software CPU or on QEMU; they carry their expectation themselves."""

import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

HERE = Path(__file__).parent
TOOLS = ("as", "ld", "objcopy")


@dataclass(frozen=True)
class Program:
    """A source file and what its head says.

    `# cpu: MODEL`, `# end: KIND` (how the run must end), `# qemu: yes` (it passes there, too), `# kvm: no` (and why not),
    `# clock: host`.
    """

    name: str
    source: Path
    cpu: str
    end: str
    qemu: str
    kvm: str
    clock: str  # instructions, or host where time must pass inside an instruction

    @property
    def checks(self) -> int:
        """How many lines the program must print at least: the checks in its text."""
        words = ("check ", "faults ", "runs ", "verdict ")
        return sum(line.strip().startswith(words) for line in self.source.read_text().splitlines())


def _read(path: Path) -> Program:
    fields = {"cpu": "EPYC-Turin", "end": "exit_port", "qemu": "no", "kvm": "yes", "clock": "instructions"}
    for line in path.read_text().splitlines()[:12]:
        for key in fields:
            if line.startswith(f"# {key}: "):
                fields[key] = line.split(": ", 1)[1].strip()
    return Program(path.stem, path, fields["cpu"], fields["end"], fields["qemu"], fields["kvm"], fields["clock"])


@lru_cache
def programs() -> tuple[Program, ...]:
    """Every program of this directory."""
    return tuple(_read(path) for path in sorted(HERE.glob("*.S")))


def missing_tools() -> str:
    """Which of the assembler's programs are not there, or ''."""
    return ", ".join(tool for tool in TOOLS if shutil.which(tool) is None)


def assemble(program: Program, folder: Path) -> Path:
    """The program as a multiboot ELF32 image."""
    objects, wide, image = (folder / f"{program.name}{end}" for end in (".o", ".elf64", ".elf"))
    _tool("as", "--64", "-I", str(HERE), "-o", str(objects), str(program.source))
    layout = ("-z", "max-page-size=4096", "--no-warn-rwx-segments", "-T", str(HERE / "programs.ld"))
    _tool("ld", "-m", "elf_x86_64", *layout, "-o", str(wide), str(objects))
    _tool("objcopy", "-O", "elf32-i386", str(wide), str(image))
    return image


def _tool(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stderr[:2000]}"
