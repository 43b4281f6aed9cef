"""Hot loops are found by sampling, compiled on another thread, and installed when they are ready.

Every few milliseconds a thread asks native code to leave, which it does at its next block. A block met so a few times is worth a
look: what it leads to goes to a second thread, where LLVM compiles while the guest runs on. With the instruction clock, which such
requests would disturb, there are no samples and no loops.
"""

import queue
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from trapgate.hostcall import Helper
from trapgate.isa import state as s
from trapgate.soft.blocks.core import TranslatingCore
from trapgate.soft.loops.graph import Graph, Placed, graph, placed
from trapgate.soft.loops.installed import Installed, install
from trapgate.soft.loops.kept import KnownLoops
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.view import CpuState
from trapgate.stencil.graph import Loop, Node, NotALoop
from trapgate.values import dataclass

INTERVAL = 0.004  # s between samples
IDLE = 16  # times longer while none is taken
HOT = 4  # in `request`: nobody waits, it is only a sample
ENOUGH = 12  # samples of a block until its loop is compiled
AGAIN = 32  # the same where it is part of another block's loop already: it seems to be entered here, too
MOST_LOOPS = 1000
MOST_SAMPLED = 10_000  # blocks
Key = tuple[int, int]  # RIP, mode


class HotLoops:
    """Watches a core from now on, or the one of several that share blocks whose turn it is; `close` ends the threads.

    `known`: loops of earlier runs, and of this one.
    `failed` gets what goes wrong on its threads. HostError when the host has no more threads.
    """

    def __init__(
        self, core: TranslatingCore, interval: float = INTERVAL, failed: Callable[[BaseException], None] | None = None
    ) -> None:
        self._core, self._samples, self.known = core, Counter[Key](), KnownLoops()
        self._wanted: queue.SimpleQueue[Graph | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[tuple[Graph, Loop, int]] = queue.SimpleQueue()
        self._looked_at = self._generation = 0
        closing = threading.Event()
        self._sampled = _Sampled(core.state)
        self._sampler = Helper("trapgate samples", partial(_sample, self._sampled, interval, closing), failed)
        compile_ = partial(_compile, self.known, self._wanted, self._ready, closing)
        self._compiler = Helper("trapgate loops", compile_, failed)
        self._end = weakref.finalize(self, _end, closing, self._wanted)  # the threads do not keep a core alive
        self._sampler.start()

    def follow(self, core: TranslatingCore) -> None:
        """It is this one's turn."""
        self._core, self._sampled.state = core, core.state

    def close(self) -> None:
        """End the threads."""
        self._end()
        self._sampler.join()
        if self._compiler.is_alive():
            self._compiler.join()

    def sampled(self) -> None:
        """Native code has left at a block for a sample: called by the thread that runs the core."""
        core, samples = self._core, self._samples
        if self._generation != core.blocks.generation or len(samples) > MOST_SAMPLED:
            self._generation = core.blocks.generation
            samples.clear()
        while not self._ready.empty():
            found, loop, serial = self._ready.get()
            if installed := install(core, found, loop, serial, self._removed):
                self._reckon(installed, -AGAIN)
                samples[found.blocks[0].rip, installed.mode] = ENOUGH  # enough of the first
        key = core.state.rip, core.state.mode
        samples[key] += 1
        if samples[key] == ENOUGH and self._looked_at < MOST_LOOPS:
            self._look_at(*key)

    def _reckon(self, installed: Installed, count: int) -> None:
        for block in installed.blocks:
            self._samples[block.key[0], installed.mode] = count

    def _removed(self, installed: Installed) -> None:
        self._reckon(installed, 0)

    def _look_at(self, rip: int, mode: int) -> None:
        """Have the loop through a block compiled, if there is one."""
        core = self._core
        try:
            physical = core.walk(core.linear(rip), core.rights() | s.ACCESS_FETCH)
        except GuestFault:
            return
        block = placed(core, rip, physical, mode)
        if block is None:
            return
        found = graph(core, block)
        if found is None:
            return
        self._looked_at += 1
        self._wanted.put(found)
        if self._compiler.ident is None:
            self._compiler.start()


def _end(closing: threading.Event, wanted: "queue.SimpleQueue[Graph | None]") -> None:
    closing.set()
    wanted.put(None)


@dataclass(slots=True)
class _Sampled:
    """Whose code runs."""

    state: CpuState


def _sample(sampled: _Sampled, interval: float, closing: threading.Event) -> None:
    wait = interval
    while not closing.wait(wait):
        state = sampled.state
        wait = interval * (IDLE if state.request == HOT else 1)
        if not state.request:
            state.request = HOT  # a kick that comes in between is not lost: `_kicked` says so as well


def _compile(
    known: KnownLoops,
    wanted: "queue.SimpleQueue[Graph | None]",
    ready: "queue.SimpleQueue[tuple[Graph, Loop, int]]",
    closing: threading.Event,
) -> None:
    done, serial = set[Placed](), 0
    while (found := wanted.get()) is not None and not closing.is_set():
        first = found.blocks[0]
        if first in done:  # asked for while a loop with it was on its way
            done.discard(first)
            continue
        try:
            loop = known.loop(found.nodes, _compiled)
        except NotALoop:
            continue
        done.update(found.blocks[number] for number in loop.blocks)
        serial += 1
        ready.put((found, loop, serial))


def _compiled(graph: Sequence[Node]) -> Loop:
    from trapgate.stencil.loop import compile_loop  # LLVM is loaded where it is needed

    return compile_loop(graph)
