"""`trapgate explain` makes of a line in the kernel's log an instruction, a function, a line of source."""

import sys
from collections.abc import Iterator

from trapgate.cli import errors
from trapgate.errors import TrapgateError
from trapgate.finder import explaining, spaces
from trapgate.finder.program import Programs
from trapgate.finder.spaces import Mapped
from trapgate.finder.told import Told, read
from trapgate.values import dataclass

WHERE = "--exe FILE, --pid PID, --maps FILE or --core FILE"
LONGEST_INPUT = 1 << 24  # characters of a log


@dataclass(frozen=True, slots=True)
class Choice:
    """What was told ("-": lines on standard input), and where to look: files alone, or a process's mappings."""

    text: str
    files: tuple[str, ...] = ()
    pid: int | None = None
    maps: str | None = None
    core: str | None = None


def run(choice: Choice) -> int:
    """Explain each line; 0 when all of them were, 1 when one could not be. Failure for wrong usage."""
    events = _events(choice.text)
    failed = False
    with Programs() as programs:
        for told, count in events.items():
            print(_headline(told, count))
            try:
                for line in _explained(told, choice, programs):
                    print(line)
            except errors.Failure:
                raise
            except TrapgateError as error:
                print(f"  not explained: {error}")
                failed = True
    return errors.GUEST_FAILURE if failed else errors.OK


def _events(text: str) -> dict[Told, int]:
    """Each event once, with how often it was told."""
    lines = sys.stdin.read(LONGEST_INPUT).splitlines() if text == "-" else [text]
    found: dict[Told, int] = {}
    for line in lines:
        if (told := read(line)) is not None:
            found[told] = found.get(told, 0) + 1
    if not found:
        what = "standard input" if text == "-" else repr(text[:80])
        raise errors.Failure(f"{what} does not tell of a bus lock; give a line of the kernel's log, as of dmesg, or an address")
    return found


def _headline(told: Told, count: int) -> str:
    who = f"{told.name}/{told.pid}: " if told.name else ""
    where = f"a bus lock in front of {told.address:#x}" if told.after else f"a locked access at {told.address:#x}"
    return f"{who}{where}" + (f", {count} times" if count > 1 else "")


def _explained(told: Told, choice: Choice, programs: Programs) -> Iterator[str]:
    space = _space(told, choice)
    if space is not None:
        yield from explaining.story(told, explaining.in_space(told, space, programs))
        return
    found = explaining.in_files(told, choice.files, programs)
    if len(found) > 1:
        yield f"  one of {len(found)} locked instructions that lie so in their pages; --maps, --pid or --core tells which:"
    for one in found[: explaining.MOST_CANDIDATES]:
        yield from explaining.story(told, one)
    if len(found) > explaining.MOST_CANDIDATES:
        yield f"  and {len(found) - explaining.MOST_CANDIDATES} more"


def _space(told: Told, choice: Choice) -> list[Mapped] | None:
    """What the process has mapped; None to look at files alone."""
    if choice.maps is not None:
        return spaces.of_text(choice.maps)
    if choice.core is not None:
        return spaces.of_core(choice.core)
    if choice.pid is not None or not choice.files:
        pid = choice.pid or told.pid
        if not pid:
            raise errors.Failure(f"say where to look: {WHERE}")
        if choice.pid is None and _name(pid) != told.name:
            raise spaces.SpaceError(f"process {pid}, {told.name}, is gone; say where to look: {WHERE}")
        return spaces.of_process(pid)
    return None


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""
