"""The software engine: stencils from the cache, what earlier runs translated, hot loops."""

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
    """Makes `SoftVcpu`s. `hearing` hears of compilation, and of what host and cache lack."""

    breaks_anywhere = True

    def __init__(self, hearing: Hearing) -> None:
        self._hearing = hearing
        self._vcpu: cpu.SoftVcpu | None = None
        self._cache: Cache | None = None
        self._catching = False
        self._terminal: bytes | None = None

    def make(self, around: Surroundings) -> cpu.SoftVcpu:
        """A vCPU that knows what earlier runs translated. CacheError when the cache cannot be trusted."""
        if self._vcpu is None and (lacked := borrowed.lacked(around.model)):
            self._hearing.note(f"this host's CPU lacks {', '.join(lacked)}: the guest's does, too")
        self._cache = cache = self._cache or Cache()
        library = self._library(cache)
        vcpu = cpu.SoftVcpu(around.ram, around.model, library, around.clock, around.lapic, counting=around.counting)
        self._vcpu = vcpu
        vcpu.devices = around.devices
        vcpu.report_bus_locks(around.bus_locks)
        if not around.counting:  # where blocks end must not depend on earlier runs when time is counted by blocks
            TranslationCache(cache, vcpu.model).load(vcpu.translator)
            vcpu.hot = HotLoops(vcpu, failed=around.failed)
            vcpu.hot.known.load(cache)
        if self._catching:
            self._catch(vcpu)
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
        if self._vcpu is not None:
            self._catch(self._vcpu)

    def _catch(self, vcpu: cpu.SoftVcpu) -> None:
        vcpu.crashes = Crashes(vcpu)
        vcpu.crashes.terminal(self._terminal)
        vcpu.crashes.catch()

    def keep(self) -> None:
        """Write back translations and loops."""
        vcpu, cache = self._vcpu, self._cache
        if vcpu is None or cache is None or vcpu.translator.counting:
            return
        TranslationCache(cache, vcpu.model).store(vcpu.translator.known_blocks)
        if vcpu.hot is not None:
            vcpu.hot.known.store(cache)
        self._tell(cache)
