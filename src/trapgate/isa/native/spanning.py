"""Finds blocks that lie in two pages, which Python keeps, for the dispatcher: while the second page is where it was.

Python puts each into a table, at one place by its RIP, and takes it out when it drops it (`soft.blocks.placed`). Another block may
have taken the place since: then Python is asked, and puts it back.
"""

from typing import TypeVar

from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.isa.native.mode import has
from trapgate.isa.native.paging import present_rights, tlb_slot
from trapgate.isa.records import Record
from trapgate.isa.vocabulary import Trace, Value

SPANNING = Record(rip="Q", physical="Q", mode="Q", second="Q", code="Q")  # second: guest-physical page; code: host address, 0: none
PLACES = 1 << 13
PAGE = 0xFFF
Number = TypeVar("Number", int, Value)


def place_of(rip: Number) -> Number:
    """The place of a block in the table: instructions that lie in two pages begin in the last 15 bytes of one."""
    return ((rip >> 12 << 4) | (rip & 15)) & (PLACES - 1)


def spanning_block(m: Trace) -> None:
    """spanning_block(RIP, linear address, physical, mode) -> the host address of the block's entry, or 0."""
    rip, linear, physical, mode = m.arguments
    entry = m.get("spanning", 64) + place_of(rip) * SPANNING.size
    code = m.load(entry + SPANNING.code, 64)
    same = (m.load(entry + SPANNING.rip, 64) == rip) & (m.load(entry + SPANNING.physical, 64) == physical)
    with m.when(~same | (m.load(entry + SPANNING.mode, 64) != mode) | (code == 0)):
        m.result(0)
    beyond = (linear & ~m.const(PAGE, 64)) + PAGE + 1
    page, rights = has(mode, modes.CODE64).select(beyond, beyond & 0xFFFFFFFF), present_rights(m)
    held = tlb_slot(m, page, rights) << 5
    host = m.variable(64, page + m.get_at("tlb", held + 24, 64))
    with m.when(m.get_at("tlb", held + 16, 64) != page):
        host.set(m.call("access", 64, page, m.const(1, 64), rights | s.ACCESS_FETCH))
        m.put("walk_physical", physical)
    moved = (host.value - m.get("ram_base", 64)) != m.load(entry + SPANNING.second, 64)
    with m.when(host.value.ult(PAGE + 1) | moved, likely=False):
        m.result(0)  # it cannot be fetched, or is another page: Python sees to it
    m.result(code)


FUNCTIONS = {"spanning_block": (spanning_block, 64, 4)}
