"""The behaviour image on each CPU: the software CPU, KVM, QEMU, Bochs; and what it wrote, read."""

import os
import re
import select
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from behaviour.image import disk as make_disk
from behaviour.image import only
from trapgate.build import load_guest, make_machine
from trapgate.kvm.ioctl import KvmError
from trapgate.machine import ClockKind, MachineConfig

LIMIT = 2_000_000_000  # instructions: far more than all rows need; on KVM, ten times that in ns
RIGHT, WRONG, SKIPPED, DIED = ".", "F", "-", "X"
Run = Callable[[Path], str]  # an image in, what it wrote to port E9h out


@dataclass
class Outcome:
    """What became of the rows in turn: RIGHT, WRONG, SKIPPED (this CPU lacks a feature), DIED (the run ended or hung there)."""

    marks: str = ""
    texts: dict[int, str] = field(default_factory=dict)  # of rows that are WRONG: what was found and what was expected
    finished: bool = False

    def rows(self, mark: str) -> list[int]:
        """The rows that have this mark."""
        return [n for n, one in enumerate(self.marks) if one == mark]


def read(text: str, first: int = 0) -> Outcome:
    """The output of an image that began with row `first`; `marks` begins there, too."""
    outcome = Outcome()
    body, end, _ = text.partition("\nfinished")
    outcome.finished = bool(end)
    for line in body.split("\n"):
        if line.startswith("FAIL "):
            number, _, rest = line.removeprefix("FAIL ").partition(": ")
            if int(number, 16) != first + len(outcome.marks):
                break  # garbled: the row died while it was being reported
            outcome.texts[int(number, 16)] = rest
            outcome.marks += WRONG
        else:
            outcome.marks += "".join(mark for mark in line if mark in ".-")
    return outcome


def judge(image: Path, count: int, run: Run, folder: Path) -> Outcome:
    """All rows of an image; where a run dies, the next one goes on behind the row that killed it. `folder` takes files."""
    whole = Outcome()
    while len(whole.marks) < count:
        assert not whole.marks.endswith(30 * DIED), "the image does not run here"
        first = len(whole.marks)
        part = read(run(only(image, first, count, folder / "part.elf")), first)
        whole.marks += part.marks
        whole.texts |= part.texts
        if not part.finished and len(whole.marks) < count:
            whole.marks += DIED
    whole.finished = True
    return whole


def on_trapgate(image: Path, engine: str, cpu: str, *, block_limit: int = 0, chaining: bool = True) -> tuple[str, str]:
    """(what the image wrote, how the run ended) on one of our own engines."""
    written: list[bytes] = []
    clock = ClockKind.INSTRUCTIONS if engine == "soft" else ClockKind.HOST
    machine = make_machine(MachineConfig(memory=64 << 20, cpu=cpu, clock=clock, debugcon=written.append), engine)
    load_guest(machine, str(image))
    if engine == "soft":
        translator = machine.vcpu.translator  # type: ignore[attr-defined]
        translator.block_limit, translator.chaining = block_limit or translator.block_limit, chaining
    machine.clock.at(LIMIT if engine == "soft" else 10 * LIMIT, machine.pause)
    try:
        end = str(machine.resume())
    except KvmError as error:
        end = str(error)
    finally:
        machine.close()
    return b"".join(written).decode(errors="replace"), end


# --- other people's CPUs


def _bounded(command: list[str], stall: float) -> str:
    """What a program writes until it ends, or writes nothing for `stall` seconds."""
    written = b""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        pipe = process.stdout.fileno()
        while select.select([pipe], [], [], stall)[0] and (data := os.read(pipe, 1 << 16)):
            written += data
        process.kill()
    return written.decode(errors="replace")


def on_qemu(image: Path, cpu: str, stall: float = 3) -> str:
    """What the image writes on QEMU's TCG."""
    command = [
        "qemu-system-x86_64", "-accel", "tcg", "-cpu", cpu, "-m", "64", "-display", "none", "-nodefaults", "-no-reboot",
        "-debugcon", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", str(image),
    ]  # fmt: skip
    return _bounded(command, stall)


BIOS = Path("/usr/share/seabios/bios.bin")
VIDEO_BIOS = BIOS.with_name("vgabios-stdvga.bin")
_BOCHSRC = """\
config_interface: textconfig
display_library: rfb, options="timeout=0"
cpu: model={cpu}, count=1, ips=50000000, reset_on_triple_fault=0, ignore_bad_msrs=0
memory: guest=64, host=64
romimage: file={bios}
vgaromimage: file={video}
ata0: enabled=1
ata0-master: type=disk, path={disk}, mode=flat, cylinders=20, heads=16, spt=63
boot: disk
port_e9_hack: enabled=1
sound: driver=dummy
log: {folder}/bochs.log
panic: action=fatal
"""


def on_bochs(image: Path, folder: Path, cpu: str, stall: float = 15) -> str:
    """What the image writes on Bochs with SeaBIOS, from a disk with a boot sector of our own; `folder` takes its files."""
    disk = make_disk(image, folder / "behaviour.img")
    (folder / "bochsrc").write_text(_BOCHSRC.format(cpu=cpu, disk=disk, folder=folder, bios=BIOS, video=VIDEO_BIOS))
    disk.with_suffix(".img.lock").unlink(missing_ok=True)  # of a run that was killed
    (folder / "bochs.rc").write_text("continue\n")  # the debugger that Debian builds in stops before the first instruction
    text = _bounded(["bochs", "-q", "-rc", str(folder / "bochs.rc"), "-f", str(folder / "bochsrc")], stall)
    return text.partition("(unk. ctxt)")[2].partition("\n")[2].replace("<bochs:1> ", "")


def have_qemu() -> bool:
    """Whether QEMU is installed."""
    return shutil.which("qemu-system-x86_64") is not None


def have_bochs() -> bool:
    """Whether Bochs and the firmware it boots with are installed."""
    return shutil.which("bochs") is not None and BIOS.exists() and VIDEO_BIOS.exists()


def version(program: str) -> str:
    """What QEMU or Bochs says it is."""
    if program == "qemu":
        return _bounded(["qemu-system-x86_64", "--version"], 10).split("\n")[0].removeprefix("QEMU emulator version ").split()[0]
    found = re.search(r"Bochs x86 Emulator ([\d.]+)", _bounded(["bochs", "-n", "--help"], 10))
    return found[1] if found else "?"
