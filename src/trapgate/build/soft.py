"""Makes the software engine: stencils from the cache, what earlier runs translated, hot loops."""

from pathlib import Path

from trapgate.build.hearing import Hearing
from trapgate.engine import Surroundings
from trapgate.soft import borrowed, cpu
from trapgate.soft.blocks.kept import TranslationCache
from trapgate.soft.crash import Crashes
from trapgate.soft.loops.hot import HotLoops
from trapgate.stencil.cache import Cache
from trapgate.stencil.library import Library, load_library

_libraries: dict[Path, Library] = {}  # of each cache: machines of a process share one


class SoftEngine:
    """Makes `SoftVcpu`s, which share what is translated. `hearing` hears of compilation, and of what host and cache lack."""

    most_cpus = 64
    breaks_anywhere = True
    has_room = True

    def __init__(self, hearing: Hearing) -> None:
        self._hearing = hearing
        self._vcpus: list[cpu.SoftVcpu] | None = None
        """Those of the machine as it was switched on last; None: not yet."""
        self._cache: Cache | None = None
        self._catching = False
        self._terminal: bytes | None = None

    def make(self, around: Surroundings) -> cpu.SoftVcpu:
        """A vCPU that knows what earlier runs translated. CacheError when the cache cannot be trusted."""
        if self._vcpus is None and (lacked := borrowed.lacked(around.model)):
            self._hearing.note(f"this host's CPU lacks {', '.join(lacked)}: the guest's does, too")
        self._cache = cache = self._cache or Cache()
        others = [one for one in self._vcpus or () if not one.closed]
        translations = others[0].shared if others else self._library(cache)
        vcpu = cpu.SoftVcpu(around.ram, around.model, translations, around.clock, around.lapic, counting=around.counting)
        self._vcpus = [*others, vcpu]
        vcpu.devices = around.devices
        vcpu.report_bus_locks(around.bus_locks)
        if others:
            vcpu.hot, vcpu.crashes = others[0].hot, others[0].crashes
            return vcpu
        if not around.counting:  # where blocks end must not depend on earlier runs when time is counted by blocks
            TranslationCache(cache, vcpu.model).load(vcpu.translator)
            vcpu.hot = HotLoops(vcpu, failed=around.failed)
            vcpu.hot.known.load(cache)
        if self._catching:
            self._catch([vcpu])
        self._tell(cache)
        return vcpu

    def _library(self, cache: Cache) -> Library:
        if (found := _libraries.get(cache.directory)) is None:
            found = _libraries[cache.directory] = load_library(cache, self._hearing.progress)
        return found

    def _tell(self, cache: Cache) -> None:
        for note in cache.notes:
            self._hearing.note(note)
        cache.notes.clear()

    def catch_crashes(self, terminal: bytes | None) -> None:
        """Make a HostCrash of a signal amid translated code."""
        self._catching, self._terminal = True, terminal
        if self._vcpus:
            self._catch(self._vcpus)

    def _catch(self, vcpus: list[cpu.SoftVcpu]) -> None:
        crashes = Crashes(vcpus[0])
        for vcpu in vcpus:
            vcpu.crashes = crashes
        crashes.terminal(self._terminal)
        crashes.catch()

    def keep(self) -> None:
        """Write back translations and loops."""
        cache = self._cache
        for vcpu in (self._vcpus or ())[:1]:  # the others have the same
            if cache is None or vcpu.closed or vcpu.translator.counting:
                continue
            TranslationCache(cache, vcpu.model).store(vcpu.translator.known_blocks)
            if vcpu.hot is not None:
                vcpu.hot.known.store(cache)
            self._tell(cache)
