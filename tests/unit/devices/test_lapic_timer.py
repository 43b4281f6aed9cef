"""The timer of the local APIC."""

import pytest

from trapgate.clock import InstructionClock
from trapgate.devices import lapic_registers as l
from unit.devices.lapic_bench import Advance, Bench


class TestTimer:
    """1 GHz before the divider: one count a nanosecond."""

    def test_one_shot(self, apic: Bench, advance: Advance) -> None:
        apic.put(l.TIMER_DIVIDE, 0b1011)
        apic.put(l.LVT_TIMER, 0x40)
        apic.put(l.TIMER_INITIAL, 1000)
        advance(999)
        assert apic.look(l.TIMER_CURRENT) == 1
        assert not apic.pending()
        advance(1)
        assert apic.acknowledge() == 0x40
        assert apic.look(l.TIMER_CURRENT) == 0
        apic.put(l.EOI, 0)
        advance(10_000_000)
        assert not apic.pending()

    @pytest.mark.parametrize(("code", "divisor"), [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)])
    def test_divider(self, apic: Bench, advance: Advance, code: int, divisor: int) -> None:
        apic.put(l.TIMER_DIVIDE, code)
        apic.put(l.TIMER_INITIAL, 1000)
        advance(100 * divisor)
        assert apic.look(l.TIMER_CURRENT) == 900
        assert apic.look(l.TIMER_DIVIDE) == code

    def test_periodic_and_late(self, apic: Bench, clock: InstructionClock, advance: Advance) -> None:
        apic.put(l.TIMER_DIVIDE, 0b1011)
        apic.put(l.LVT_TIMER, 0x2_0040)
        apic.put(l.TIMER_INITIAL, 1_000_000)
        for _ in range(3):
            advance(1_000_000)
            assert apic.acknowledge() == 0x40
            apic.put(l.EOI, 0)
        clock.skip_to(clock.now() + 5_500_000)  # the guest did not run: five periods are one interrupt
        clock.run_due()
        assert apic.acknowledge() == 0x40
        apic.put(l.EOI, 0)
        clock.run_due()
        assert not apic.pending()
        assert apic.look(l.TIMER_CURRENT) == 500_000

    def test_tiny_period_makes_no_storm(self, apic: Bench, advance: Advance) -> None:
        fired: list[int] = []
        apic.put(l.TIMER_DIVIDE, 0b1011)
        apic.put(l.LVT_TIMER, 0x2_0040)
        apic.notify = lambda: fired.append(1)
        apic.put(l.TIMER_INITIAL, 1)
        advance(1_000_000)
        assert 0 < len(fired) <= 51

    def test_masked_timer_runs_silently(self, apic: Bench, advance: Advance) -> None:
        apic.put(l.LVT_TIMER, 0x1_0040)
        apic.put(l.TIMER_INITIAL, 1000)
        advance(10_000)
        assert not apic.pending()
        assert apic.look(l.TIMER_CURRENT) == 0

    def test_zero_stops(self, apic: Bench, advance: Advance) -> None:
        apic.put(l.LVT_TIMER, 0x40)
        apic.put(l.TIMER_INITIAL, 1000)
        apic.put(l.TIMER_INITIAL, 0)
        advance(10_000)
        assert not apic.pending()

    def test_divider_change_keeps_the_count(self, apic: Bench, advance: Advance) -> None:
        apic.put(l.TIMER_DIVIDE, 0b1011)
        apic.put(l.LVT_TIMER, 0x40)
        apic.put(l.TIMER_INITIAL, 1000)
        advance(400)
        apic.put(l.TIMER_DIVIDE, 0)
        assert apic.look(l.TIMER_CURRENT) == 600
        advance(1199)
        assert not apic.pending()
        advance(1)
        assert apic.pending()

    def test_tsc_deadline(self, apic: Bench, clock: InstructionClock, advance: Advance) -> None:
        apic.write_msr(l.TSC_DEADLINE, 5000)
        assert apic.read_msr(l.TSC_DEADLINE) == 0  # not in this mode
        apic.put(l.LVT_TIMER, 0x4_0040)
        apic.write_msr(l.TSC_DEADLINE, 5000)
        apic.put(l.TIMER_INITIAL, 7)
        assert apic.read_msr(l.TSC_DEADLINE) == 5000
        assert apic.look(l.TIMER_INITIAL) == 0
        advance(2499)
        assert not apic.pending()
        advance(1)
        assert apic.acknowledge() == 0x40
        assert apic.read_msr(l.TSC_DEADLINE) == 0

    def test_past_deadline_fires_at_once_and_zero_disarms(self, apic: Bench, advance: Advance) -> None:
        apic.put(l.LVT_TIMER, 0x4_0040)
        advance(1000)
        apic.write_msr(l.TSC_DEADLINE, 9000)
        apic.write_msr(l.TSC_DEADLINE, 0)
        advance(10_000)
        assert not apic.pending()
        apic.write_msr(l.TSC_DEADLINE, 1)
        assert apic.pending()

    def test_moved_tsc_moves_the_deadline(self, apic: Bench, advance: Advance) -> None:
        apic.put(l.LVT_TIMER, 0x4_0040)
        apic.write_msr(l.TSC_DEADLINE, 5000)
        advance(1000)
        apic.set_tsc_offset(-1000)
        advance(1999)
        assert not apic.pending()
        advance(1)
        assert apic.pending()

    def test_the_tsc_has_64_bits(self, apic: Bench, advance: Advance) -> None:
        apic.put(l.LVT_TIMER, 0x4_0040)
        apic.set_tsc_offset(-(1 << 64) - 1)
        apic.write_msr(l.TSC_DEADLINE, 5)
        assert apic.acknowledge() == 0x40  # the TSC is at its largest
        apic.put(l.EOI, 0)
        advance(1)  # and 1 now
        apic.write_msr(l.TSC_DEADLINE, 5)
        advance(1)
        assert not apic.pending()
        advance(1)
        assert apic.pending()

    def test_leaving_deadline_mode_disarms(self, apic: Bench, advance: Advance) -> None:
        apic.put(l.LVT_TIMER, 0x4_0040)
        apic.write_msr(l.TSC_DEADLINE, 5000)
        apic.put(l.LVT_TIMER, 0x0_0040)
        advance(10_000)
        assert not apic.pending()
