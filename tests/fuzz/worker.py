"""A process that fuzzes one target, for `driver`: `python -m fuzz.worker TARGET SEED PLACE ...`. Exit status 1: a finding, told on
standard error; the input is in PLACE then."""

import faulthandler
import resource
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

import click

from fuzz import corpus, ill
from fuzz.explore import Explorer, Finding
from fuzz.place import Place, Progress
from fuzz.target import load

FOUND = 1


@click.command()
@click.argument("name")
@click.argument("seed", type=int)
@click.argument("place", type=click.Path(path_type=Path))
@click.option("--runs", type=int, default=0, help="Changed inputs at most.")
@click.option("--seconds", type=float, default=0.0, help="Time at most.")
@click.option("--short", is_flag=True, help="As many inputs as CI runs.")
@click.option("--planted", is_flag=True, help="Break the code under test.")
@click.option("--ill", "sick", type=click.Choice(list(ill.RUNS)), help="Run this instead of the target.")
@click.option("--only", type=click.Path(path_type=Path), help="Run the input in this file, and no other.")
@click.option("--keep", is_flag=True, help="Write what reached something new, with what was kept before, to the corpus.")
def main(
    name: str,
    seed: int,
    place: Path,
    runs: int,
    seconds: float,
    short: bool,
    planted: bool,
    sick: str | None,
    only: Path | None,
    keep: bool,
) -> None:
    """See above."""
    faulthandler.enable()
    target, probes = load(name)
    if planted:
        target.plant()
    if sick is not None:
        target = replace(target, run=ill.RUNS[sick], first=[], words=[ill.SIGN])
    _limit(target.memory)
    told = Place(place)

    def announce(runs: int, data: bytes) -> None:
        told.put(Progress(runs, explorer.reached, len(explorer.kept), data))

    explorer = Explorer(target, probes, seed, announce)
    end = time.monotonic() + seconds
    try:
        if only is not None:
            explorer.trial(only.read_bytes())
            return
        explorer.replay([*target.first, *corpus.of(name)] if sick is None else [b""])
        left = target.short if short else runs or sys.maxsize
        while left and (not seconds or time.monotonic() < end):
            explorer.step()
            left -= 1
        told.put(Progress(explorer.runs, explorer.reached, len(explorer.kept)))
    except Finding as finding:
        traceback.print_exception(finding.__cause__ or finding)
        sys.exit(FOUND)
    if keep:
        corpus.write(name, explorer.shortest())


def _limit(more: int) -> None:
    """So many bytes of address space on top of what there is."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more,) * 2)


if __name__ == "__main__":
    main()
