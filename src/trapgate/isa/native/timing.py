"""Reads the time-stamp counter as `soft.state.timing` computes it, without a way into Python."""

import time
from collections.abc import Callable
from functools import partial

from trapgate.arch.control import CR4_TSD
from trapgate.isa import modes
from trapgate.isa.native.flows import decline, proceed
from trapgate.isa.vocabulary import Trace

SECOND = 1_000_000_000  # ns


def read_counter(m: Trace, processor: bool) -> None:
    """Behind RDTSC and RDTSCP (`processor`: ECX = TSC_AUX).

    Python's: a clock that stands still, #GP by CR4.TSD, and a timer that is due: a guest that looks at the time must not
    wait longer for its interrupt than the host takes to wake whoever waits for the timer.
    """
    forbidden = ((m.get("cr4", 64) & CR4_TSD) != 0) & ((m.get("mode", 32) & modes.CPL) != 0)
    with m.when(forbidden, likely=False):
        decline(m)
    now, hz = m.variable(64, m.get("clock_counted", 64) - m.get("budget", 64)), m.variable(64, m.get("counted_hz", 64))
    with m.when(m.get("tsc_hz", 64) != 0):
        m.call_host(m.get("clock_gettime", 64), 32, time.CLOCK_MONOTONIC, m.address_of("host_time"))
        host = m.get("host_time", 64) * SECOND + m.get_at("host_time", m.const(8, 64), 64)
        with m.when(host.uge(m.get("clock_due", 64)), likely=False):
            decline(m)
        now.set(host - m.get("clock_zero", 64))
        hz.set(m.get("tsc_hz", 64))
    with m.when(hz.value == 0, likely=False):
        decline(m)
    total = now.value.zext(128) * hz.value.zext(128)
    low, high = total.trunc(64), (total >> 64).trunc(64)
    with m.when(high.uge(m.const(SECOND, 64)), likely=False):  # in centuries: the quotient has more than 64 bits
        decline(m)
    ticks = m.asm("divq $4", "={ax},={dx},0,1,r,~{flags}", 64, low, high, m.const(SECOND, 64))
    counter = ticks + m.get("tsc_offset", 64)
    m.put("rax", counter & 0xFFFFFFFF)
    m.put("rdx", counter >> 32)
    if processor:
        m.put("rcx", m.get("tsc_aux", 64) & 0xFFFFFFFF)
    proceed(m)


FLOWS: dict[str, Callable[[Trace], None]] = {
    "rdtsc": partial(read_counter, processor=False),
    "rdtscp": partial(read_counter, processor=True),
}
