"""What all measurements stand on: who is measured and how often, and guests run in turn."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.progress import Progress

from bench import engines as run
from bench.build import EMPTY, BenchError, Guest, build
from bench.engines import Engine
from bench.report import Sample
from tools import linux_guest

APPEND = f"{linux_guest.CONSOLE} trapgate.run=true"


@dataclass(frozen=True, slots=True)
class Bench:
    """What a measurement needs to know: the engines to compare, ours, the guests of the loops, how often, how long at most."""

    engines: Sequence[Engine]
    ours: Engine
    guests: Sequence[Guest]
    runs: int
    timeout: float
    progress: Progress


def times_of(
    bench: Bench, engines: Sequence[Engine], guests: Sequence[Guest], busy: bool = False, watched: Sequence[int] = ()
) -> dict[tuple[str, str], Sample]:
    """Every guest `runs` times on every engine, in turn; by (guest, engine), less start-up, measured with an empty guest.

    `busy`: CPU time, which other work on the host disturbs less. `watched`: where a debugger watches stores.
    """
    task = bench.progress.add_task("warming up", total=bench.runs * len(engines) * (1 + len(guests)))
    times: dict[tuple[str, str], list[float]] = {}
    lines: dict[str, str] = {}
    for engine in engines:
        bench.progress.update(task, description=f"warming up {engine.name}")  # what is made once, such as stencils, is not measured
        run.run_image(engine, build(EMPTY), bench.timeout)
    for _ in range(bench.runs):
        for guest in (EMPTY, *guests):
            image = build(guest)
            for engine in engines:
                bench.progress.update(task, description=f"{guest.name} on {engine.name}")
                done = run.run_image(engine, image, bench.timeout, watched)
                first = lines.setdefault(guest.name, done.line)
                if done.line != first:
                    raise BenchError(
                        f"{engine.name} says `{done.line}`, an earlier run said `{first}`: one of them computes wrongly"
                    )
                times.setdefault((guest.name, engine.name), []).append(done.busy if busy else done.seconds)
                bench.progress.advance(task)
    start = {engine.name: Sample(tuple(times[EMPTY.name, engine.name])).median for engine in engines}
    return {
        (guest, engine): Sample(tuple(some), 0.0 if guest == EMPTY.name else start[engine])
        for (guest, engine), some in times.items()
    }
