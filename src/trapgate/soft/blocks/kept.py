"""Keeps translated blocks on disk: the second boot of a guest translates almost nothing.

One file for each CPU model (features included) and version of the translator, found by a digest of all that decides what a block
looks like. It is loaded whole and written back whole when a run has added enough to be worth it. A kernel loaded elsewhere
(KASLR) finds its blocks all the same: they are kept by guest bytes, not by address.
"""

import hashlib

from trapgate.arch.models import CpuModel
from trapgate.soft.blocks.known import KnownBlocks
from trapgate.soft.blocks.translator import Translator
from trapgate.stencil import identity
from trapgate.stencil.cache import Cache

WORTH_KEEPING = 200  # new blocks
LIMIT = 128 << 20  # bytes of a file: past that the run starts a new one


class TranslationCache:
    """The file that holds the blocks of one CPU model."""

    def __init__(self, cache: Cache, model: CpuModel) -> None:
        self._cache = cache
        decides = " ".join((identity.digest(identity.BLOCKS), model.name, *sorted(model.enabled)))
        self._key = "translations-" + hashlib.sha256(decides.encode()).hexdigest()[:32]

    def load(self, translator: Translator) -> None:
        """Let it know what earlier runs translated, if anything. What is no such thing leaves a note with the cache."""
        self._cache.read(self._key, translator.learn)

    def store(self, blocks: KnownBlocks) -> None:
        """Keep what this run has translated, when that is enough to matter. A disk that refuses leaves a note with the cache."""
        if blocks.added < WORTH_KEEPING:
            return
        data = blocks.pack()
        if len(data) <= LIMIT:
            self._cache.store(self._key, data)
            blocks.added = 0
