"""The sections of the benchmark that measure trapgate alone: start, memory, what traps and devices cost, growth."""

import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.build import BUS_LOCK, BUS_LOCK_DR6, DETECTION, DEVICES, IMAGES, INT3, PAUSE, Guest, build
from bench.engines import filled, run_linux
from bench.growth import grow
from bench.measuring import APPEND, Bench, times_of
from bench.observe import MIB, Memory, Seen, observe
from bench.report import Sample, Table
from tools import linux_guest

# What the first version has to reach.
START_LIMIT, STENCILS_LIMIT, MEMORY_LIMIT, LOCKS_LIMIT, TRAP_LIMIT, ACCESS_LIMIT = 0.5, 60, 400, 1.03, 1.5, 3
FIRST = bytes.fromhex("baf803 b021 ee b000 e6f4 f4")  # mov dx, 3F8h; mov al, '!'; out dx, al; leave by the exit port
CODE_SIZES = (1, 10, 30)  # MiB
RAM_SIZES = ("64M", "512M", "2G", "8G")


def start(bench: Bench) -> Table:
    """The first thing that a guest of three instructions does is a byte on the serial port."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    image = IMAGES / "first.bin"
    image.write_bytes(FIRST.ljust(510, b"\0") + b"\x55\xaa")
    command = filled(bench.ours.image, image=str(image), memory="64M")
    task = bench.progress.add_task("start", total=2 * bench.runs + 1)

    def once(cache: str | None = None) -> float:
        bench.progress.advance(task)
        more = None if cache is None else os.environ | {"TRAPGATE_CACHE": cache}
        return observe(command, ["!"], bench.timeout, more)[0].seconds

    once()
    cached = [once() for _ in range(bench.runs)]
    fresh = []
    for _ in range(bench.runs):
        with tempfile.TemporaryDirectory() as empty:
            fresh.append(once(str(Path(empty) / "cache")))
    ready = statistics.median(cached)
    rows = [
        ("to the first guest instruction", "stencils cached", *_seconds(Sample(tuple(cached))), f"{START_LIMIT} s"),
        (
            "compiling all stencils",
            "an empty cache, less the time above",
            *_seconds(Sample(tuple(fresh), ready)),
            f"{STENCILS_LIMIT} s",
        ),
    ]
    note = f"Median of {bench.runs}, from the start of the process; compiling is less a start with all of them cached."
    return Table("Start", ("what", "with", "trapgate, s", "spread", "limit"), rows, note=note)


def _seconds(sample: Sample) -> tuple[str, str]:
    return f"{sample.median:.2f}", f"±{sample.spread:.0%}"


def memory_at_init(bench: Bench) -> Table:
    """Debian's 6.1 at its init, translations cached."""
    kernel, initrd = linux_guest.kernel("6.1"), linux_guest.initramfs()
    task = bench.progress.add_task("memory", total=bench.runs + 1)
    run_linux(bench.ours, kernel, initrd, APPEND, linux_guest.READY, bench.timeout)  # to its end: what it translated is kept
    bench.progress.advance(task)
    command = filled(bench.ours.linux, kernel=str(kernel), initrd=str(initrd), append=APPEND)
    seen: list[Memory] = []
    for _ in range(bench.runs):
        seen.append(observe(command, [linux_guest.READY], bench.timeout, ram=512 * MIB)[0].memory)
        bench.progress.advance(task)
    middle = sorted(seen, key=lambda one: one.besides)[len(seen) // 2]
    rows = [
        ("the guest's RAM, touched pages", "", f"{middle.guest / MIB:.0f}", ""),
        ("all else", "resident pages of all mappings", f"{middle.besides / MIB:.0f}", f"{MEMORY_LIMIT}"),
        (
            "all else",
            "host code, which is mapped twice, counted once",
            f"{(middle.shared_once - middle.guest) / MIB:.0f}",
            "",
        ),
    ]
    note = f"512 MiB of RAM, translations cached; the run in the middle of {bench.runs}."
    return Table("Memory, Debian 6.1 at its init", ("what", "how counted", "MiB", "limit"), rows, note=note)


def locks(bench: Bench) -> Table:
    """Detection may cost nothing where no bus is locked."""
    off, on = _ours(bench, DETECTION)
    rows = [
        (guest.work, f"x {guest.rounds:,}", f"{one.median:.3f}", f"±{one.spread:.0%}", f"{one.median / off.median:.2f}", limit)
        for guest, one, limit in ((DETECTION[0], off, ""), (DETECTION[1], on, f"{LOCKS_LIMIT}"))
    ]
    heads = ("one round", "rounds", "trapgate, s", "spread", "on / off", "limit")
    return Table(f"Bus Lock Detect where no bus is locked, {_how(bench)}", heads, rows)


def traps(bench: Bench) -> Table:
    """Per trap: there and back, the loop around it included."""
    guests = (INT3, BUS_LOCK, BUS_LOCK_DR6)
    samples = _ours(bench, guests)
    rows = []
    for guest, one, limit in zip(guests, samples, ("", f"{TRAP_LIMIT}", f"{TRAP_LIMIT}"), strict=True):
        each, ratio = one.median / guest.rounds * 1e6, one.median / guest.rounds / (samples[0].median / INT3.rounds)
        rows.append((guest.work, f"x {guest.rounds:,}", f"{each:.0f}", f"±{one.spread:.0%}", f"{ratio:.2f}", limit))
    heads = ("one round", "rounds", "each, ns", "spread", "/ INT3", "limit")
    return Table(f"Traps from ring 3 to the guest's own handler, {_how(bench)}", heads, rows)


def devices(bench: Bench) -> Table:
    """Per access, the loop around it and the device included."""
    rows = []
    for guest, one in zip(DEVICES, _ours(bench, DEVICES), strict=True):
        each = one.median / guest.rounds * 1e3
        rows.append((guest.work, f"x {guest.rounds:,}", f"{each:.2f}", f"±{one.spread:.0%}", f"{ACCESS_LIMIT}"))
    heads = ("one round", "rounds", "each, us", "spread", "limit")
    return Table(f"Accesses that a device written in Python answers, {_how(bench)}", heads, rows)


def _how(bench: Bench) -> str:
    return f"CPU time, median of {bench.runs} less start-up"


def _ours(bench: Bench, guests: Sequence[Guest]) -> list[Sample]:
    samples = times_of(bench, [bench.ours], guests, busy=True)
    return [samples[guest.name, bench.ours.name] for guest in guests]


def code(bench: Bench) -> Table:
    """Every instruction of a generated kernel once, nothing cached."""
    task = bench.progress.add_task("code", total=len(CODE_SIZES))
    rows = []
    for size in CODE_SIZES:
        bench.progress.update(task, description=f"{size} MiB of code")
        grown = grow(size)
        command = filled(bench.ours.image, image=str(build(grown.guest)), memory="512M")
        with tempfile.TemporaryDirectory() as empty:
            more = os.environ | {"TRAPGATE_CACHE": str(Path(empty) / "cache")}
            before, behind = observe(
                command, ["bench: before", "bench: behind"], bench.timeout * max(1, size // 5), more, 512 * MIB
            )
        rows.append(_grown_row(grown.instructions, grown.blocks, size, before, behind))
        bench.progress.advance(task)
    heads = ("code", "instructions", "blocks", "CPU s", "us a block", "us an instruction", "memory, MiB", "bytes an instruction")
    note = (
        "Generated code in which no two blocks are the same, executed once, nothing cached, one run; memory is what the process "
        "gained. Translations are forgotten, all at once, when there are too many: memory has an end."
    )
    return Table("Growth with the code", heads, rows, words=1, note=note)


def _grown_row(instructions: int, blocks: int, size: int, before: Seen, behind: Seen) -> tuple[str, ...]:
    seconds = behind.busy - before.busy
    gained = max(0, behind.memory.shared_once - behind.memory.guest - (before.memory.shared_once - before.memory.guest))
    return (
        f"{size} MiB", f"{instructions:,}", f"{blocks:,}", f"{seconds:.1f}", f"{seconds / blocks * 1e6:.1f}",
        f"{seconds / instructions * 1e6:.2f}", f"{gained / MIB:.0f}", f"{gained / instructions:.0f}",
    )  # fmt: skip


def ram(bench: Bench) -> Table:
    """RAM costs what is touched of it."""
    task = bench.progress.add_task("RAM", total=len(RAM_SIZES) * bench.runs)
    rows = []
    for size in RAM_SIZES:
        command = filled(bench.ours.image, image=str(build(PAUSE)), memory=size)
        seen = []
        for _ in range(bench.runs):
            bench.progress.update(task, description=f"{size} of RAM", advance=1)
            seen.append(observe(command, ["bench: there"], bench.timeout)[0])
        seconds = statistics.median(one.seconds for one in seen)
        resident = statistics.median(one.memory.resident for one in seen)
        rows.append((size, f"{seconds:.2f}", f"{resident / MIB:.0f}"))
    note = f"A guest that touches a few pages, from the start of the process to its first line; median of {bench.runs}."
    return Table(
        "Growth with RAM", ("RAM", "to the first line, s", "resident memory of the process, MiB"), rows, words=1, note=note
    )
