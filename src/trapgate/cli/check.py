"""`trapgate check` tells what becomes of a guest's debug exceptions in a monitor with a gdb stub."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from trapgate import guests
from trapgate.check import image, report
from trapgate.check.guest import Case, DemoGuest
from trapgate.check.manners import BY_NAME, MANNERS, Manner
from trapgate.check.suite import Cell, cells
from trapgate.check.vmm import Running, Spawned, VmmError
from trapgate.cli import errors
from trapgate.cli.screen import Screen
from trapgate.gdb.address import Address
from trapgate.values import dataclass

IMAGES = {"64": guests.DEMO, "32": guests.DEMO32}  # by the width of the guest's mode
USUAL = 132  # columns where the output is no terminal


@dataclass(frozen=True, slots=True)
class Choice:
    """What to check, and where the results go besides the table. Empty `manners` and `cases`: all."""

    gdb: Address | None
    spawn: str | None
    manners: tuple[str, ...]
    cases: tuple[str, ...]
    json: Path | None
    junit: Path | None
    patience: float
    bits: str


def write_images(folder: Path) -> int:
    """Leave all images in a folder, for monitors that are started by hand."""
    for bits, path in IMAGES.items():
        guest, stem = DemoGuest(path), "check" if bits == "64" else f"check{bits}"
        for name, data in ((f"{stem}.elf", image.pvh(guest)), (f"{stem}-multiboot.elf", image.multiboot(guest))):
            _write(folder / name, data)
            print(folder / name)
    return errors.OK


def run(choice: Choice) -> int:
    """Check, print, write; 0 when no row is wrong, else 1."""
    guest = DemoGuest(IMAGES[choice.bits])
    cases = _chosen(guest, choice.cases)
    manners = _manners(choice.manners)
    with tempfile.TemporaryDirectory(prefix="trapgate-check-") as folder:
        try:
            vmm = Running(choice.gdb) if choice.gdb is not None else Spawned(choice.spawn or "", guest, Path(folder))
        except VmmError as error:
            raise errors.Failure(str(error)) from error
        found = list(cells(vmm, guest, cases, manners, choice.patience))
    monitor = choice.spawn or str(choice.gdb)
    if choice.json is not None:
        _write(choice.json, report.as_json(monitor, found).encode())
    if choice.junit is not None:
        _write(choice.junit, report.as_junit(monitor, found))
    show(found)
    return errors.GUEST_FAILURE if any(one.bad for one in found) else errors.OK


def show(found: Sequence[Cell]) -> None:
    """The table, the faults, one line."""
    console = Screen(highlight=False)
    console = Screen(highlight=False, width=console.width if console.is_terminal else USUAL)
    console.print(report.table(found))
    for line in report.faults(found):
        console.print(line, markup=False, soft_wrap=True)
    console.print(report.summary(found))


def _manners(names: Sequence[str]) -> Sequence[Manner]:
    unknown = [name for name in names if name not in BY_NAME]
    if unknown:
        raise errors.Failure(f"no manner is called {unknown[0]!r}; there are: {', '.join(BY_NAME)}")
    return [one for one in MANNERS if not names or one.name in names]


def _chosen(guest: DemoGuest, names: Sequence[str]) -> list[Case]:
    unknown = sorted(set(names) - {one.name for one in guest.cases})
    if unknown:
        raise errors.Failure(f"no case is called {unknown[0]!r}; there are: {'; '.join(one.name for one in guest.cases)}")
    return [one for one in guest.cases if not names or one.name in names]


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise errors.Failure(f"cannot write {path}: {error.strerror}", errors.HOST_FAILURE) from error
