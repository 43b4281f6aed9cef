"""What each system instruction costs, beside QEMU: one guest measures them all by its TSC, whose rate its printed lines give."""

import statistics
import subprocess
import threading
import time
from pathlib import Path

from bench import engines as run
from bench.build import SYSTEM, BenchError, Guest, build
from bench.engines import EXIT_OK, Engine
from bench.measuring import Bench
from bench.report import Table, geometric_mean

MODES = ("64-bit", "compatibility", "32-bit", "16-bit", "real", "virtual-8086")
EMPTY_LOOP = "empty loop"
SMALLEST = 0.5  # ns: what is less was not measured
LIMIT, DEVICE_LIMIT = 3.0, 5.0
DEVICES = ("IN from an unmapped port",)  # what the host's side answers
PREFIX = "system: "

Operation = tuple[int, str]
"""Its mode, an index of MODES, and its name."""


def system(bench: Bench) -> Table:
    """Every operation on each engine; the median of the runs."""
    names = [engine.name for engine in bench.engines]
    task = bench.progress.add_task("system instructions", total=bench.runs * len(names))
    found: dict[str, list[dict[Operation, float]]] = {name: [] for name in names}
    for _ in range(bench.runs):
        for engine in bench.engines:
            bench.progress.update(task, description=f"system instructions on {engine.name}")
            found[engine.name].append(operations(engine, bench.timeout))
            bench.progress.advance(task)
    rows, ratios = list[tuple[str, ...]](), list[float]()
    for mode, name in found[names[0]][0]:
        times = [statistics.median(one[mode, name] for one in found[engine]) for engine in names]
        row = [MODES[mode], name, *(f"{ns:.1f}" for ns in times)]
        if len(times) == 2:
            ratios.append(times[1] / times[0])
            row += [f"{ratios[-1]:.2f}", f"{DEVICE_LIMIT if name in DEVICES else LIMIT}"]
        rows.append(tuple(row))
    heads = ["mode", "instructions", *(f"{name}, ns" for name in names)]
    heads += [f"{names[1]} / {names[0]}", "limit"] if len(names) == 2 else []
    last = ["geometric mean", "", "", "", f"{geometric_mean(ratios):.2f}", "1.0"] if ratios else None
    note = (
        f"A loop around each, less the empty loop of its mode; the fastest of many batches, the median of {bench.runs} runs. "
        f"Nothing counts as less than {SMALLEST} ns."
    )
    return Table("System instructions", heads, rows, last, note=note)


def operations(engine: Engine, timeout: float, guest: Guest = SYSTEM) -> dict[Operation, float]:
    """Nanoseconds of each operation on an engine, less its mode's empty loop; one run. BenchError."""
    lines = _lines(engine, build(guest), timeout)
    marks = {words[3]: (when, int(words[2], 16)) for when, words in lines if words[3] in ("begin", "end")}
    if len(marks) != 2:
        raise BenchError(f"{engine.name}: {guest.name} did not say when it began and ended")
    (begin, first), (end, last) = marks["begin"], marks["end"]
    tick = (end - begin) * 1e9 / (last - first)
    empty, found = dict[int, float](), dict[Operation, float]()
    for _, (mode_word, turns, ticks, name) in lines:
        mode, each = int(mode_word, 16), int(ticks, 16) * tick / max(int(turns, 16), 1)
        if name == EMPTY_LOOP:
            empty[mode] = each
        elif name not in marks:
            found[mode, name] = max(each - empty[mode], SMALLEST)
    return found


def _lines(engine: Engine, image: Path, timeout: float) -> list[tuple[float, list[str]]]:
    """(when it came, mode, turns or 0, ticks, name) of each line that the guest measures with."""
    command = run.filled(engine.image, image=str(image), memory=run.MEMORY)
    lines, last = list[tuple[float, list[str]]](), "nothing"
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        watchdog = threading.Timer(timeout, process.kill)
        watchdog.start()
        try:
            for line in process.stdout:
                last = line.strip() or last
                if line.startswith(PREFIX):
                    lines.append((time.perf_counter(), line[len(PREFIX) :].strip().split(" ", 3)))
            process.wait()
        finally:
            watchdog.cancel()
            process.kill()
    if process.returncode != EXIT_OK or not last.endswith(" ok"):
        raise BenchError(f"{engine.name}: {image.stem} failed with status {process.returncode}: {last}")
    return lines
