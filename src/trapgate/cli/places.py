"""Says in words where a guest locks the bus: by the symbols and lines of files, and who called."""

import contextlib
import os
from collections.abc import Iterator, Sequence

from trapgate.debug.buslock import Described
from trapgate.exits import BusLock
from trapgate.finder.callers import Callers
from trapgate.finder.findings import Called
from trapgate.finder.formats.text import MOST_FRAMES, frame_words
from trapgate.finder.formats.words import shown
from trapgate.finder.program import Program, ProgramError
from trapgate.insight import Insight
from trapgate.machine import Machine
from trapgate.symbols import Symbols, symbols_of


class Places:
    """Names by the files that the user gave, or by the image. SymbolsError when there is no reading the names that were given."""

    def __init__(self, machine: Machine, image: str, given: Sequence[str], stack: contextlib.ExitStack) -> None:
        self._symbols = symbols_of(image, given)
        self._own: dict[str, Symbols] = {}
        programs = []
        for path in given or (image,):
            self._own[path] = self._symbols if len(given) < 2 else symbols_of(path, (path,))
            with contextlib.suppress(ProgramError):  # a bzImage, a System.map: they have no lines
                programs.append(Program(path))
                stack.callback(programs[-1].close)
        self._callers = Callers(Insight(machine), programs)

    def describe(self, lock: BusLock, cpu: int) -> Described:
        """One that has just been."""
        caught = self._callers.at(lock, cpu)
        frames = caught.frames
        own = next((one for one in frames if not one.inlined), None)
        name = f"{shown(own.function)}+{own.function_offset:#x}" if own is not None and own.function else ""
        if not caught.linux:  # labels of assembly have names, too: of the file that has this code, or of any
            symbols = self._own.get(own.module, self._symbols) if own is not None else self._symbols
            found = symbols.find(lock.rip)
            name = name if found is None else f"{found[0]}+{found[1]:#x}"
        line = frames[0].line if frames else None
        return Described(
            ", ".join(filter(None, (name, f"{shown(os.path.basename(line.path))}:{line.number}" if line is not None else ""))),
            tuple(_callers(frames, caught.who)),
        )


def _callers(frames: Sequence[Called], who: str) -> Iterator[str]:
    if who:
        yield f"  by {shown(who)}"
    if len(frames) > 1:
        for number, frame in enumerate(frames[:MOST_FRAMES]):
            yield f"  #{number:<3}{frame_words(frame)}"
        if len(frames) > MOST_FRAMES:
            yield f"  and {len(frames) - MOST_FRAMES} more"
