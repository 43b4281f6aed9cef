"""Facts found by tracing, against what the manual says of a few instructions, and against what the evaluator sees bodies do."""

import random
from types import ModuleType

import pytest

from trapgate.isa import catalog
from trapgate.isa.evaluate import Host, evaluate
from trapgate.isa.facts import COMPUTED, MEMORY, Facts, every_operation, facts
from trapgate.isa.families import arith, bits, move, shift, stack, system
from trapgate.isa.state import LAYOUT, offset
from trapgate.isa.vocabulary import TRANSIENTS, Trace

FORMS = {form.name: form for form in catalog.forms()}

FRONT = offset("bounce")  # the fields that integer forms touch lie before it


def of(name: str) -> Facts:
    return facts(FORMS[name].trace())


@pytest.mark.parametrize(
    ("name", "reads", "sets"),
    [
        ("add.RR.32", False, True),
        ("add.RR.32!", False, False),
        ("adc.RR.32", True, True),
        ("adc.RR.32!", True, False),
        ("inc.R.8", True, True),  # CF stays: read and written back
        ("inc.R.8!", False, False),
        ("not.R.64", False, False),
        ("mov.RR.64", False, False),
        ("cmovbe.R.32", True, False),
        ("shl.RC.32", True, True),  # a count of 0 keeps all flags
        ("shl.RI.32", False, True),
        ("rcl.RI.32", True, False),
        ("bt.RR.64", True, False),
        ("div.R.32", False, False),
        ("cmp.RR.32.jle", False, True),
        ("add.RR.32.jo", False, True),  # the condition looks at what was stored just before
        ("jo", True, False),
        ("loop.64", False, False),
        ("loope.64", True, False),
        ("pushf", True, False),
        ("sahf", True, True),
    ],
)
def test_flags(name: str, reads: bool, sets: bool) -> None:
    assert (of(name).reads_flags, of(name).sets_flags) == (reads, sets)


def test_reads_and_writes() -> None:
    add = of("add.RT.16")
    assert add.reads == {"R0", "T0"}
    assert add.writes == {"R0", "flag_result", "flag_aux"}
    load = of("load.64")
    assert (load.reads, load.writes) == ({"EA", "RTLBR", "RTLBA", MEMORY}, {"T0"})
    assert of("store.64").writes == {MEMORY}
    assert of("commit.32").addresses == {"bounce"}
    assert of("div.R.64").writes == {"rax", "rdx"}


def test_ways_out() -> None:
    assert not of("add.RR.32").may_leave
    assert not of("jo").may_leave
    assert of("jo").jumps == {"NEXT", "TAKEN"}
    assert of("div.R.32").jumps == {"NEXT", "COLD_raise_de"}
    assert of("load.8").may_leave
    assert of("goto").jumps == {COMPUTED, "dispatch"}
    assert of("raise_ud").jumps == {"COLD_raise_ud"}


def test_what_cannot_be_seen_is_said() -> None:
    assert of("stmxcsr").opaque
    assert not of("bulk.movs.8").opaque
    assert not of("crc32.R.64").opaque
    m = Trace()
    m.call("flush", 0, 1)
    assert facts(m).opaque


def test_a_loop_and_two_paths_leave_only_what_is_certain() -> None:
    m = Trace()
    with m.loop():
        m.put("rbx", m.const(1, 64))
        with m.when(m.get("rcx", 64) == 0):
            m.put("rdx", m.const(2, 64))
            m.leave()
        m.put("rsi", m.const(3, 64))
    m.get("rbx", 64)  # written in every turn
    m.get("rdx", 64)  # written on the one way out
    m.get("rsi", 64)  # not written in a first turn that leaves
    with m.when(m["T0"] == 0):
        m.put("rdi", m.const(0, 32))
    with m.otherwise():
        m.put("rdi", m.const(0, 64))
    m.get("rdi", 32)
    m.get("rdi", 64)  # one of the ways wrote the lower half only
    m.jump("NEXT")
    assert facts(m).reads == {"rcx", "rsi", "T0", "rdi"}
    assert facts(m).writes == {"rbx", "rdx", "rsi", "rdi"}


@pytest.mark.parametrize("family", [arith, bits, move, shift, stack, system], ids=lambda family: family.__name__.rpartition(".")[2])
def test_the_evaluator_agrees(family: ModuleType) -> None:
    """Two runs that begin with the same in `reads` and `writes` end with the same there, and change nothing elsewhere."""
    for form in family.forms():
        trace = form.trace()
        found = facts(trace)
        if found.addresses or MEMORY in found.reads | found.writes:
            continue
        rng = random.Random(form.name)
        touched = found.reads | found.writes
        fields = touched - set(TRANSIENTS)
        holes = {name: offset(f"r{8 + n}") for n, name in enumerate(sorted(fields - LAYOUT.keys()))}
        holes |= {value.attr: rng.getrandbits(7) for value in every_operation(trace) if value.op == "hole"}
        places = [holes.get(name, LAYOUT[name].offset if name in LAYOUT else 0) for name in fields]
        before, noise = bytearray(rng.randbytes(FRONT)), bytearray(rng.randbytes(FRONT))
        for at in places:
            noise[at : at + 8] = before[at : at + 8]
        transients = {name: rng.getrandbits(64) for name in TRANSIENTS}
        other = {name: transients[name] if name in touched else rng.getrandbits(64) for name in TRANSIENTS}
        first, second = Host(bytearray(before)), Host(bytearray(noise))
        after, after_other = dict(transients), dict(other)
        endings = evaluate(trace, first, after, holes), evaluate(trace, second, after_other, holes)
        assert endings[0] == endings[1], form.name
        assert all(first.state[at : at + 8] == second.state[at : at + 8] for at in places), form.name
        assert all(after[name] == after_other[name] for name in touched & set(TRANSIENTS)), form.name
        assert {name for name in TRANSIENTS if after[name] != transients[name]} <= found.writes, form.name
        written = [at for name, at in zip(fields, places, strict=True) if name in found.writes]
        for at in written:
            first.state[at : at + 8] = before[at : at + 8]
        assert first.state == before, form.name
