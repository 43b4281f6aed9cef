"""The sections of the benchmark that compare two engines: loops, and Linux boots."""

from bench import engines as run
from bench.build import EMPTY
from bench.measuring import APPEND, Bench, times_of
from bench.report import Row, Sample, Table, compare
from tools import linux_guest


def loops(bench: Bench) -> Table:
    """The CPU loops."""
    names = [engine.name for engine in bench.engines]
    samples = times_of(bench, bench.engines, bench.guests)
    rows = [Row("start-up", "", tuple(samples[EMPTY.name, name] for name in names))]
    for guest in bench.guests:
        work = f"{guest.work} (x {guest.rounds:,})"
        rows.append(Row(guest.name, work, tuple(samples[guest.name, name] for name in names)))
    return compare(f"CPU loops, median of {bench.runs} less start-up", names, rows, rows[1:])


def _boots(bench: Bench, series: str, *temperatures: str) -> Table:
    """Linux to its first process: with the caches of translated code empty, then with what the runs before have left in them."""
    kernel, initrd = linux_guest.kernel(series), linux_guest.initramfs()
    task = bench.progress.add_task("Linux", total=2 * bench.runs * len(bench.engines))
    times: dict[tuple[str, str], list[float]] = {}
    for turn in range(bench.runs):
        for engine in bench.engines:
            if "cold" in temperatures or not turn:
                run.clear_cache(engine)
            for temperature in ("cold", "warm"):
                if temperature in temperatures or not turn:  # a warm boot needs one before it
                    bench.progress.update(task, description=f"Linux {series}, {temperature}, on {engine.name}")
                    reached, _off = run.run_linux(engine, kernel, initrd, APPEND, linux_guest.READY, bench.timeout)
                    times.setdefault((temperature, engine.name), []).append(reached)
                bench.progress.advance(task)
    what = f"Debian's {series} cloud kernel"
    works = {"cold": f"{what}, no cached translations", "warm": f"{what}, translations cached"}
    names = [engine.name for engine in bench.engines]
    rows = [Row(f"to init, {one}", works[one], tuple(Sample(tuple(times[one, name])) for name in names)) for one in temperatures]
    return compare(f"Linux {series}, median of {bench.runs}", names, rows)


def debian_6_1(bench: Bench) -> Table:
    """Both boots of the older kernel."""
    return _boots(bench, "6.1", "cold", "warm")


def debian_6_12(bench: Bench) -> Table:
    """The second boot of the newer kernel."""
    return _boots(bench, "6.12", "warm")
