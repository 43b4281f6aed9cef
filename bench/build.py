"""The benchmark guests: which there are, how many rounds each does, and how they are made from bench/guests/ into build/bench/."""

import hashlib
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "guests"
IMAGES = Path(__file__).resolve().parent.parent / "build" / "bench"
COMMON = ("start.S", "bench.c", "bench.h", "ring3.h", "link.ld")
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
    """A benchmark guest. `rounds` is tuned for 0.5 to 1 second in QEMU's TCG; `work` says what one round is.

    `sources` are its files (by default the C file of its name), `defines` what they are compiled with.
    """

    name: str
    rounds: int
    work: str
    sources: tuple[str, ...] = ()
    defines: tuple[str, ...] = ()

    def files(self) -> list[Path]:
        """Its own files."""
        return [SOURCES / name for name in self.sources or (f"{self.name}.c",)]


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
LOCKS = ("locks.c", "ring3.c")
TRAPS = ("traps.c", "ring3.c")
DETECTION = (
    Guest("locks-off", 600_000, "1024 locked additions, Bus Lock Detect off", LOCKS, ("-DDETECT=0",)),
    Guest("locks-on", 600_000, "1024 locked additions, Bus Lock Detect on", LOCKS, ("-DDETECT=1",)),
)
INT3 = Guest("trap-int3", 5_000, "1000 INT3 in ring 3, the handler counts", TRAPS, ("-DTRAP=3",))
BUS_LOCK = Guest("trap-bus-lock", 5_000, "1000 bus locks in ring 3, the handler counts", TRAPS, ("-DTRAP=1",))
BUS_LOCK_DR6 = Guest("trap-bus-lock-dr6", 5_000, "the same, the handler reads DR6 and puts it back", TRAPS, ("-DTRAP=2",))
_WATCHED, _BREAKPOINT = "0x2000800UL", "(u64)run"
_WRITES, _ACCESSES, _EXECUTION = 0xD0402, 0xF0402, 0x402  # DR7: breakpoint 0, 8 bytes, what it matches


def _beside(name: str, rounds: int, what: str, work: int, dr7: int = 0, where: str = _WATCHED, pages: int = 1) -> Guest:
    defines = f"-DWORK={work}", f"-DDR7={dr7}UL", f"-DWHERE={where}", f"-DPAGES={pages}"
    return Guest(f"watch-{name}", rounds, what, ("watch.c",), defines)


WATCHED = (
    _beside("load", 200_000, "a load, a write watchpoint beside it", 1, _WRITES),
    _beside("load-access", 100_000, "a load, an access watchpoint beside it", 1, _ACCESSES),
    _beside("store", 100_000, "a store, a write watchpoint beside it", 2, _WRITES),
    _beside("stack", 100_000, "a push or a pop, a write watchpoint on the same page", 3, _WRITES, "(u64)&causes & ~0xFFFUL"),
    _beside("run", 5_000, "a load, an execution breakpoint in its code's page", 1, _EXECUTION, _BREAKPOINT),
)
WATCHED_PAGES, WATCHED_IN_EACH = 100, 10
WATCHED_OUTSIDE = (
    _beside("many-load", 200_000, "a load, 1,000 write watchpoints of a debugger in 100 pages", 1, pages=WATCHED_PAGES),
    _beside("many-store", 2_000, "a store, the same", 2, pages=WATCHED_PAGES),
)
SYSTEM = Guest("system", 1, "each system instruction", ("system.c", "system.S"))
PAUSE = Guest("pause", 1, "does nothing, for ever")
PORT_WRITES = Guest("port-writes", 10, "1000 OUT to COM1's scratch register", ("devices.c",), ("-DACCESS=2",))
DEVICES = tuple(
    Guest(f"device-{name}", 500, work, ("devices.c",), (f"-DACCESS={number}",))
    for number, (name, work) in enumerate(
        (
            ("in", "1000 IN from COM1's line status"),
            ("out", "1000 OUT to COM1's scratch register"),
            ("load", "1000 loads from the I/O APIC's window"),
            ("store", "1000 stores to the I/O APIC's index"),
        ),
        start=1,
    )
)


def build(guest: Guest, folder: Path = IMAGES, rounds: int | None = None) -> Path:
    """The image of a guest, made when there is none for these sources and this number of rounds. BenchError when gcc cannot."""
    rounds = guest.rounds if rounds is None else rounds
    files = [*guest.files(), *(SOURCES / name for name in COMMON)]
    digest = hashlib.sha256(" ".join((*OPTIONS, *guest.defines, str(rounds))).encode())
    for path in files:
        digest.update(path.read_bytes())
    target = folder / f"{guest.name}-{digest.hexdigest()[:12]}.elf"
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / "image.elf"
        defines = (f"-DITERATIONS={rounds}UL", f'-DNAME="{guest.name}"', f"-I{SOURCES}")
        inputs = (str(SOURCES / "start.S"), str(SOURCES / "bench.c"), *map(str, guest.files()))
        command = ["gcc", *OPTIONS, *defines, *guest.defines, f"-Wl,-T,{SOURCES / 'link.ld'}", "-o", str(made), *inputs]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise BenchError("gcc is not installed: the benchmark guests are built with gcc and binutils") from None
        if done.returncode:
            raise BenchError(f"gcc could not build {guest.name}: {done.stderr.strip()}")
        os.replace(made, target)
    return target
