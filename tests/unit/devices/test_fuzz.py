"""A hostile guest: any sequence of accesses, at any moment. No device may fail, hang, drive a storm or answer out of range."""

import time

from hypothesis import given, settings
from hypothesis import strategies as st

from trapgate.arch import layout
from trapgate.arch.models import DEFAULT_MODEL, CpuModel
from trapgate.arch.msrs import MsrError
from trapgate.clock import InstructionClock
from trapgate.devices.board import Board, Switches

BLOCKS = (
    (0x20, 2), (0x40, 4), (0x60, 5), (0x70, 2), (0xA0, 2), (0xE9, 1), (0xF4, 1), (0x3F8, 8), (0x4D0, 2), (0x501, 1), (0x600, 16),
    (0xCF8, 8),
    (0xE0, 4),
    (0x2000, 24),
)  # fmt: skip
PORTS = [first + offset for first, length in BLOCKS for offset in range(length)]
VALUES = st.one_of(st.integers(0, 255), st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 0x34, 0x80, 0xFFFF_FFFF]))
PORT = st.tuples(st.just("port"), st.sampled_from(PORTS), st.sampled_from([1, 2, 4]), st.booleans(), VALUES)
APIC = st.tuples(st.just("apic"), st.integers(0, 0xFFF), st.sampled_from([1, 2, 4, 8]), st.booleans(), VALUES)
IOAPIC = st.tuples(
    st.just("ioapic"), st.sampled_from([0, 0x10, 0x40, 0x11, 0x80]), st.sampled_from([1, 4, 8]), st.booleans(), VALUES
)
MSR = st.tuples(
    st.just("msr"),
    st.sampled_from([0x1B, 0x6E0, *range(0x800, 0x840)]),
    st.just(8),
    st.booleans(),
    st.integers(0, 2**64 - 1) | VALUES,
)
BASE = st.tuples(st.just("msr"), st.just(0x1B), st.just(8), st.just(True), st.sampled_from([0xFEE0_0900, 0xFEE0_0D00, 0xFEE0_0100]))
OTHER = st.tuples(
    st.sampled_from(["wait", "line", "feed", "break", "acknowledge", "button"]),
    st.integers(0, 23),
    st.just(1),
    st.booleans(),
    VALUES,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(PORT, PORT, APIC, IOAPIC, MSR, BASE, OTHER), max_size=80))
def test_any_sequence(acts: list[tuple[str, int, int, bool, int]]) -> None:
    clock = InstructionClock(lambda: 0)
    board = Board(
        clock, CpuModel.parse(DEFAULT_MODEL), Switches(lambda status: None, lambda: None, lambda: None), wall_start=0,
        serial=lambda data: None, debugcon=lambda data: None, cpus=2,
    )  # fmt: skip
    apic = board.interrupts.lapics[0]
    start = time.monotonic()
    for what, address, size, write, value in acts:
        cut = value & (1 << 8 * size) - 1
        match what:
            case "port" if write:
                board.ports.write(address, size, cut)
            case "port":
                assert board.ports.read(address, size) >= 0
            case "apic" if write:
                apic.write(address, size, cut)
            case "apic":
                assert apic.read(address, size) >= 0
            case "ioapic" if write:
                board.interrupts.ioapic.write(address, size, cut)
            case "ioapic":
                assert board.mmio.read(layout.IOAPIC_BASE + address, size) >= 0
            case "msr":
                try:
                    if write:
                        apic.write_msr(address, value)
                    else:
                        assert 0 <= apic.read_msr(address) < 1 << 64
                except MsrError:  # #GP in the guest
                    pass
            case "wait":
                clock.skip_to(clock.now() + value % 2_000_000_000)
                clock.run_due()
            case "line":
                board.interrupts.line(address)(write)
            case "feed":
                board.uart.feed(value.to_bytes(8, "little"))
            case "break":
                board.uart.feed_break()
            case "acknowledge":
                if apic.pending():
                    assert 0 <= apic.acknowledge() < 256
            case _:
                board.pm.press_power_button()
        deadline = clock.next_deadline()
        assert deadline is None or deadline < 1 << 80
    assert len(clock._timers) < 300
    assert time.monotonic() - start < 5
    # What is due within a second of guest time is a bounded number of wake-ups.
    end, rounds = clock.now() + 1_000_000_000, 0
    while (deadline := clock.next_deadline()) is not None and deadline <= end:
        clock.skip_to(deadline)
        clock.run_due()
        rounds += 1
        assert rounds < 150_000
