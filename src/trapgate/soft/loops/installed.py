"""Installs compiled loops in the code buffer: the head of a loop's first block becomes a jump to it.

It is put back when any block of the loop is dropped, because its bytes change or a breakpoint is set there.
"""

from collections.abc import Callable
from dataclasses import field

from trapgate.isa.native.placing import ENTRY
from trapgate.soft.blocks.core import TranslatingCore
from trapgate.soft.blocks.placed import Block
from trapgate.soft.loops.graph import Graph, placed
from trapgate.stencil.graph import Loop
from trapgate.values import dataclass

MODE_LOOP = 1 << 31  # in the key of a block of a loop: nobody looks for it
JUMP = 5  # bytes
_JUMP = b"\xe9"


@dataclass(slots=True, eq=False)
class LoopBlock(Block):
    """A block of an installed loop: whoever drops it drops the loop."""

    loop: "Installed"

    def dropped(self) -> None:
        """The loop is entered no more."""
        self.loop.remove()


@dataclass(slots=True, eq=False)
class Installed:
    """A loop in the code buffer."""

    core: TranslatingCore
    mode: int
    head: int  # offset in the code buffer
    before: bytes  # what was there
    removed: Callable[["Installed"], None]  # told when it is gone
    blocks: list[LoopBlock] = field(default_factory=list)

    def remove(self) -> None:
        """No longer enter it."""
        blocks, kept = self.blocks, self.core.blocks
        if blocks:
            self.core.code.patch(self.head, self.before)
            self.removed(self)
            self.blocks = []
            for block in blocks:
                if block.key in kept.by_key:
                    kept.drop(block)


def install(
    core: TranslatingCore, graph: Graph, loop: Loop, serial: int = 0, removed: Callable[[Installed], None] = lambda _: None
) -> Installed | None:
    """From now on the first block of a graph runs as this loop; None where it has one, a block is gone, or no room is left.

    `serial` tells the loops apart that a block is part of; `removed` is called when the loop is gone again.
    """
    st, code = core.state, core.code
    blocks = [graph.blocks[number] for number in sorted(loop.blocks)]
    gone = any(placed(core, block.rip, block.physical, block.mode) != block for block in blocks)
    head, start = graph.blocks[0].code + ENTRY, st.code_end + 63 & ~63
    before = code.peek(head, JUMP)
    if before.startswith(_JUMP) or gone or graph.generation != core.blocks.generation or st.code_limit - start < len(loop.code):
        return None
    image = bytearray(loop.code)
    for at, address, addend in loop.holes:
        image[at : at + 4] = (address + addend - code.base - start - at).to_bytes(4, "little", signed=True)
    code.patch(start, image)
    st.code_end = start + len(image)
    installed = Installed(core, graph.blocks[0].mode, head, before, removed)
    for block in blocks:
        key = block.rip, block.physical, block.mode | MODE_LOOP | serial << 32
        length = core.translator.known_blocks.length(block.record)
        installed.blocks.append(kept := LoopBlock(key, code.base + block.code, length, -1, installed))
        core.blocks.keep(kept)
    code.patch(head, _JUMP + (start + loop.entry - head - JUMP).to_bytes(4, "little", signed=True))
    return installed
