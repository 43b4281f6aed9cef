"""Executes RDMSR, WRMSR and CPUID where they are plain: MSRs that hold a value and no more, leaves that were asked for before.

Python's (`exact.msr`, `exact.cpuid`): every other MSR, #GP, and a leaf that nobody has asked for since what it shows has changed.
"""

from collections.abc import Callable
from typing import TypeVar

from trapgate.arch.control import CR4_OSXSAVE
from trapgate.isa import state as s
from trapgate.isa.native.flows import decline, proceed
from trapgate.isa.native.mode import has
from trapgate.isa.vocabulary import Trace, Value

READS, PLAIN, CUT, CANONICAL, IGNORED, SAME = (1 << n for n in range(6))
"""Of a rule: native code reads it; writes it by one of `arch.msrs.Rule`; a write of the value that it holds changes nothing."""

Number = TypeVar("Number", int, Value)


def _find(m: Trace) -> Value:
    """The host address of the rule of MSR ECX; the path ends in Python where there is none, or somebody wants to hear of it."""
    with m.when(has(m.get("told", 32), s.TOLD_MSR), likely=False):
        decline(m)
    index, first = m.get("rcx", 32).zext(64), m.address_of("msr_rules")
    low, high = m.variable(64, 0), m.variable(64, m.get("msr_count", 64))
    with m.loop():  # the first rule of this index or a higher one
        with m.when(low.value == high.value):
            m.leave()
        middle = (low.value + high.value) >> 1
        before = m.load(first + middle * s.MSR_RULE.size, 64).ult(index)
        low.set(before.select(middle + 1, low.value))
        high.set(before.select(high.value, middle))
    at = first + low.value * s.MSR_RULE.size
    with m.when((low.value == m.get("msr_count", 64)) | (m.load(at, 64) != index), likely=False):
        decline(m)
    return at


def read_msr(m: Trace) -> None:
    """RDMSR at CPL 0."""
    rule = _find(m)
    with m.when(~has(m.load(rule + s.MSR_RULE.kinds, 64), READS), likely=False):
        decline(m)
    value = m.get_at("rip", m.load(rule + s.MSR_RULE.place, 64), 64)
    m.put("rax", value & 0xFFFFFFFF)
    m.put("rdx", value >> 32)
    proceed(m)


def write_msr(m: Trace) -> None:
    """WRMSR at CPL 0."""
    rule = _find(m)
    kinds, place = m.load(rule + s.MSR_RULE.kinds, 64), m.load(rule + s.MSR_RULE.place, 64)
    mask, fixed = m.load(rule + s.MSR_RULE.mask, 64), m.load(rule + s.MSR_RULE.fixed, 64)
    value, old = m.get("rdx", 32).zext(64) << 32 | m.get("rax", 32).zext(64), m.get_at("rip", place, 64)
    with m.when(has(kinds, IGNORED) | (has(kinds, SAME) & (value == old))):
        proceed(m)
    fits = has(kinds, PLAIN) & ((value & ~mask) == 0) | has(kinds, CUT) | has(kinds, CANONICAL) & ((value << 16).sar(16) == value)
    with m.when(~fits, likely=False):
        decline(m)
    m.put_at("rip", place, (value & mask & ~fixed) | (old & fixed))
    proceed(m)


def answer_slot(leaf: Number, subleaf: Number) -> Number:
    """Which of the answers may be that of a leaf."""
    return (leaf + (leaf >> 28) * 5 + subleaf * 7) & (s.CPUID_ANSWERS - 1)


def cpuid(m: Trace) -> None:
    """CPUID of a leaf that Python has answered before, while XCR0 and CR4.OSXSAVE are what they were."""
    leaf, subleaf = m.get("rax", 32).zext(64), m.get("rcx", 32).zext(64)
    place = answer_slot(leaf, subleaf) * s.CPUID_ANSWER.size
    asked = m.get_at("cpuid_answers", place, 64) == (leaf | subleaf << 32)
    key = m.get("xcr0", 64) << 1 | has(m.get("cr4", 64), CR4_OSXSAVE).zext(64)
    with m.when(~(asked & (m.get_at("cpuid_answers", place + s.CPUID_ANSWER.key, 64) == key)), likely=False):
        decline(m)
    for name in ("rax", "rbx", "rcx", "rdx"):
        m.put(name, m.get_at("cpuid_answers", place + getattr(s.CPUID_ANSWER, name), 32).zext(64))
    proceed(m)


FLOWS: dict[str, Callable[[Trace], None]] = {"read_msr": read_msr, "write_msr": write_msr, "cpuid": cpuid}
