"""The sections of the benchmark that compare two engines: loops, work beside breakpoints, and Linux boots."""

from bench import engines as run
from bench.build import EMPTY, WATCHED, WATCHED_IN_EACH, WATCHED_OUTSIDE, WATCHED_PAGES
from bench.measuring import APPEND, Bench, times_of
from bench.report import Row, Sample, Table, compare
from tools import linux_guest

BESIDE_LIMIT, MANY_LIMIT = 1.0, 1.5  # of the other engine's time


def loops(bench: Bench) -> Table:
    """The CPU loops."""
    names = [engine.name for engine in bench.engines]
    samples = times_of(bench, bench.engines, bench.guests)
    rows = [Row("start-up", "", tuple(samples[EMPTY.name, name] for name in names))]
    for guest in bench.guests:
        work = f"{guest.work} (x {guest.rounds:,})"
        rows.append(Row(guest.name, work, tuple(samples[guest.name, name] for name in names)))
    return compare(f"CPU loops, median of {bench.runs} less start-up", names, rows, rows[1:])


def watch(bench: Bench) -> Table:
    """Per access, the loop around it included; QEMU's accesses to a page that holds a watchpoint are slow as well."""
    names = [engine.name for engine in bench.engines]
    places = [0x2000800 + 0x1000 * page + 64 * n for page in range(WATCHED_PAGES) for n in range(WATCHED_IN_EACH)]
    samples = times_of(bench, bench.engines, WATCHED, busy=True)
    samples |= times_of(bench, bench.engines, WATCHED_OUTSIDE, busy=True, watched=places)
    rows = []
    for guest in (*WATCHED, *WATCHED_OUTSIDE):
        row = Row(guest.work, f"x {1024 * guest.rounds:,}", tuple(samples[guest.name, name] for name in names))
        each = [f"{sample.median / guest.rounds / 1024 * 1e9:.1f}" for sample in row.samples]
        cells = [cell for ns, sample in zip(each, row.samples, strict=True) for cell in (ns, f"±{sample.spread:.0%}")]
        ratio = row.ratio()
        limit = MANY_LIMIT if guest in WATCHED_OUTSIDE else BESIDE_LIMIT
        rows.append((row.name, row.work, *cells, *(() if ratio is None else (f"{ratio:.2f}", f"{limit}"))))
    heads = ["access", "times"]
    for name in names:
        heads += [f"{name}, ns", "spread"]
    heads += [f"{names[1]} / {names[0]}", "limit"] if len(names) == 2 else []
    return Table(f"Beside breakpoints, CPU time, median of {bench.runs} less start-up", heads, rows)


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
