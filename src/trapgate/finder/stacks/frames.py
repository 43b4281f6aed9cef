"""Finds what a program says of its call frames: in .eh_frame, by its table or one after the other, or in .debug_frame."""

from functools import cached_property

from trapgate.finder.program import Program
from trapgate.finder.stacks.cfi import Entry, Search, Section
from trapgate.finder.stacks.reading import Malformed
from trapgate.finder.stacks.rows import Rules

MOST_EXCEPTIONS = 256 << 20  # bytes of .eh_frame
_KEPT = 4096  # addresses whose rules are remembered: those that lock come again and again


class CallFrames:
    """The call frame information of a program, by its addresses."""

    def __init__(self, program: Program) -> None:
        self._program, self.word = program, program.bits // 8
        self._known: dict[int, Rules | None] = {}

    def rules(self, address: int) -> Rules | None:
        """How the caller's registers are had at an address; None where the program does not say so."""
        if address not in self._known:
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[address] = self._found(address)
        return self._known[address]

    def _found(self, address: int) -> Rules | None:
        for entry in (self._searched, self._listed):
            try:
                found = entry(address)
                if found is not None:
                    return found.rules(address)
            except Malformed:
                continue
        return None

    def _searched(self, address: int) -> Entry | None:
        if self._table is None:
            return None
        search, section = self._table
        at = search.find(address)
        entry = None if at is None else section.at(at - section.address)
        return entry if entry is not None and entry.start <= address < entry.end else None

    def _listed(self, address: int) -> Entry | None:
        return next((found for section in self._sections if (found := section.find(address)) is not None), None)

    @cached_property
    def _table(self) -> tuple[Search, Section] | None:
        header = self._program.segment("PT_GNU_EH_FRAME")
        if header is None:
            return None
        try:
            search = Search(header[1], header[0], self.word)
        except Malformed:
            return None
        data = self._program.content(search.section, MOST_EXCEPTIONS)
        return search, Section(data, search.section, self.word, exceptions=True)

    @cached_property
    def _sections(self) -> list[Section]:
        named = [".debug_frame"] if self._table is not None else [".eh_frame", ".debug_frame"]
        return [
            Section(data, address, self.word, exceptions=name == ".eh_frame")
            for name in named
            for address, data in self._program.sections(name)
        ]
