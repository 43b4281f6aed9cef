"""Interrupts from one local APIC to another."""

import pytest

from trapgate.clock import InstructionClock
from trapgate.devices import lapic_registers as l
from trapgate.devices.apic_bus import ApicBus
from unit.devices.lapic_bench import Bench, to_x2


class TestInterprocessor:
    """ICR, destinations and shorthands among three processors."""

    @pytest.fixture
    def trio(self, clock: InstructionClock) -> list[Bench]:
        bus = ApicBus()
        return [Bench(clock, number, bus) for number in range(3)]

    @staticmethod
    def send(apic: Bench, low: int, destination: int = 0) -> None:
        apic.put(l.ICR_HIGH, destination << 24)
        apic.put(l.ICR, low)

    @staticmethod
    def receivers(trio: list[Bench]) -> list[int]:
        """Who got an interrupt; it is taken."""
        got = [one.identifier for one in trio if one.pending()]
        for one in trio:
            while one.pending():
                one.acknowledge()
                one.put(l.EOI, 0)
        return got

    @pytest.mark.parametrize(
        ("low", "destination", "who"),
        [
            (0x40, 1, [1]),
            (0x40, 0xFF, [0, 1, 2]),
            (0x40, 7, []),
            (0x4_0040, 2, [0]),
            (0x8_0040, 2, [0, 1, 2]),
            (0xC_0040, 0, [1, 2]),
        ],
    )
    def test_physical_and_shorthands(self, trio: list[Bench], low: int, destination: int, who: list[int]) -> None:
        self.send(trio[0], low, destination)
        assert self.receivers(trio) == who

    def test_logical_flat_and_cluster(self, trio: list[Bench]) -> None:
        for number, apic in enumerate(trio):
            apic.put(l.LDR, 1 << 24 + number)
        self.send(trio[0], 0x840, 0b110)
        assert self.receivers(trio) == [1, 2]
        for apic, logical in zip(trio, (0x11, 0x12, 0x21), strict=True):
            apic.put(l.DFR, 0x0FFF_FFFF)
            apic.put(l.LDR, logical << 24)
        self.send(trio[0], 0x840, 0x13)
        assert self.receivers(trio) == [0, 1]
        self.send(trio[0], 0x840, 0xF1)
        assert self.receivers(trio) == [0, 2]

    def test_lowest_priority_goes_to_one(self, trio: list[Bench]) -> None:
        trio[0].tpr, trio[1].tpr, trio[2].tpr = 0x30, 0x20, 0x30
        self.send(trio[0], 0x0140, 0xFF)
        assert self.receivers(trio) == [1]

    def test_x2_destinations(self, trio: list[Bench]) -> None:
        for apic in trio:
            to_x2(apic)
        trio[0].write_msr(0x830, 2 << 32 | 0x40)
        assert trio[2].acknowledge() == 0x40
        assert trio[2].read_msr(0x80D) == 1 << 2
        trio[0].write_msr(0x830, 0b010 << 32 | 0x841)
        assert trio[1].acknowledge() == 0x41
        trio[0].write_msr(0x830, 0xFFFF_FFFF << 32 | 0x52)
        assert [one.acknowledge() for one in trio] == [0x52] * 3
        assert trio[0].read_msr(0x830) == 0xFFFF_FFFF << 32 | 0x52

    def test_init_and_startup(self, trio: list[Bench]) -> None:
        trio[1].tpr = 0x50
        self.send(trio[0], 0xC500, 1)
        self.send(trio[0], 0x8500, 1)  # level de-assert: nothing
        self.send(trio[0], 0x0699, 1)
        self.send(trio[0], 0x0400, 1)
        assert trio[1].events == ["init", "startup 0x99", "nmi"]
        assert trio[1].tpr == 0
        assert not trio[0].events

    def test_illegal_vector_is_not_sent(self, trio: list[Bench]) -> None:
        self.send(trio[0], 0x0E, 1)
        trio[0].put(l.ESR, 0)
        trio[1].put(l.ESR, 0)
        assert trio[0].look(l.ESR) == l.SEND_ILLEGAL
        assert trio[1].look(l.ESR) == 0
