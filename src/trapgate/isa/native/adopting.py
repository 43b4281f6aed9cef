"""Adopts records of known blocks that come from a file: checks them, as far as native code trusts them, and indexes them.

What `isa.native.placing` reads, copies and fills lies inside its record then, whatever the file held; the host code itself is what
the file's digest vouches for.
"""

from trapgate.isa.native import placing as p
from trapgate.isa.native.placing import PAIR, padded
from trapgate.isa.vocabulary import Trace, Value


def adopt_records(m: Trace) -> None:
    """adopt_records(first, end) -> 1 where records lie one behind the other between the two offsets; they are indexed then.

    0: they do not, and some of them may be in the index. Both offsets lie in the stretch of memory, a multiple of 16 apart.
    """
    first, end = m.arguments
    known = m.get("known_base", 64)
    at = m.variable(64, first)
    with m.loop():
        with m.when(at.value == end):
            m.leave()
        _unless(m, (end - at.value).uge(p.RECORD.size))
        record, fields = known + at.value, p.RECORD
        length, prefix = m.load(record + fields.guest_length, 16).zext(64), m.load(record + fields.prefix_length, 16).zext(64)
        parameters, rips, exits = (m.load(record + n, 16).zext(64) for n in (fields.parameters, fields.rips, fields.exits))
        pairs = (padded(length) << 1) + fields.size
        code, code_length = m.load(record + fields.code_at, 32).zext(64), m.load(record + fields.code_length, 32).zext(64)
        size = (code + code_length + 15) & ~m.const(15, 64)
        _unless(m, (code == pairs + (parameters + rips + exits) * PAIR) & code_length.uge(p.ENTRY) & size.ule(end - at.value))
        _unless(m, prefix.ule(length) & (prefix.ule(p.SHORT) | (prefix == p.LONG)))
        _check_parameters(m, record + pairs, parameters, length, code_length)
        _check_sites(m, record + pairs + parameters * PAIR, rips, code_length - 8, None)
        _check_sites(m, record + pairs + (parameters + rips) * PAIR, exits, code_length - 4, code_length)
        m.call("index_block", 0, at.value, prefix)
        at.set(at.value + size)
    m.result(1)


def _unless(m: Trace, sound: Value) -> None:
    with m.when(sound == 0, likely=False):
        m.result(0)


def _check_parameters(m: Trace, start: Value, count: Value, length: Value, code_length: Value) -> None:
    """Each is read from the guest's bytes and written into the code: 4 bytes, or 8 where it is extended or relative."""
    at = m.variable(64, start)
    with m.loop():
        with m.when(at.value == start + count * PAIR):
            m.leave()
        kind = m.load(at.value + 2, 16)
        bytes_ = (kind == p.PLAIN).select(m.const(4, 64), m.const(8, 64))
        _unless(m, kind.ule(p.RELATIVE) & (m.load(at.value, 16).zext(64) + 4).ule(length))
        _unless(m, (m.load(at.value + 4, 32).zext(64) + bytes_).ule(code_length))
        at.set(at.value + PAIR)


def _check_sites(m: Trace, start: Value, count: Value, last: Value, unlinked: Value | None) -> None:
    """Each names a place in the code up to `last`; behind it, for exits, where it leads while it is not chained."""
    at = m.variable(64, start)
    with m.loop():
        with m.when(at.value == start + count * PAIR):
            m.leave()
        _unless(m, m.load(at.value, 32).zext(64).ule(last))
        if unlinked is not None:
            _unless(m, m.load(at.value + 4, 32).zext(64).ule(unlinked))
        at.set(at.value + PAIR)


FUNCTIONS = {"adopt_records": (adopt_records, 64, 2)}
