"""The 8259 pair: initialisation, priorities, ends of interrupt, cascade, edge and level, spurious requests."""

import pytest

from trapgate.devices.pic import Pic8259, PicPair


@pytest.fixture
def pair() -> PicPair:
    """Initialised as a PC does it: vectors 20h and 28h, everything unmasked."""
    pics = PicPair()
    for chip, base, cascade in ((pics.master, 0x20, 4), (pics.slave, 0x28, 2)):
        chip.write8(0, 0x11)
        for word in (base, cascade, 0x01):
            chip.write8(1, word)
        chip.write8(1, 0)
    return pics


def pulse(pair: PicPair, number: int) -> None:
    pair.set_line(number, True)
    pair.set_line(number, False)


def test_vectors_and_priority(pair: PicPair) -> None:
    pulse(pair, 4)
    pulse(pair, 1)
    assert pair.pending()
    assert pair.acknowledge() == 0x21
    assert not pair.pending()  # 4 waits behind 1 in service
    pair.master.write8(0, 0x20)
    assert pair.acknowledge() == 0x24


def test_higher_priority_nests(pair: PicPair) -> None:
    pulse(pair, 4)
    assert pair.acknowledge() == 0x24
    pulse(pair, 0)
    assert pair.acknowledge() == 0x20
    pair.master.write8(0, 0x0B)
    assert pair.master.read8(0) == 0b0001_0001  # ISR


def test_slave_sits_between_irq_1_and_3(pair: PicPair) -> None:
    pulse(pair, 3)
    pulse(pair, 8)
    assert pair.acknowledge() == 0x28
    pair.slave.write8(0, 0x20)
    assert not pair.pending()
    pair.master.write8(0, 0x20)
    assert pair.acknowledge() == 0x23


def test_cascade_line_is_nobody_elses(pair: PicPair) -> None:
    pair.set_line(2, True)
    assert not pair.pending()


def test_masked_requests_wait(pair: PicPair) -> None:
    pair.master.write8(1, 0xFF)
    pulse(pair, 5)
    assert not pair.pending()
    assert pair.master.read8(1) == 0xFF
    pair.master.write8(0, 0x0A)
    assert pair.master.read8(0) == 1 << 5  # IRR
    pair.master.write8(1, 0)
    assert pair.acknowledge() == 0x25


def test_edge_needs_a_new_edge_and_level_does_not(pair: PicPair) -> None:
    pair.elcr.write8(1, 1 << 1)  # line 9 by level
    for number, again in ((4, False), (9, True)):
        pair.set_line(number, True)
        pair.acknowledge()
        pair.slave.write8(0, 0x20)
        pair.master.write8(0, 0x20)
        assert pair.pending() is again
    pair.set_line(9, False)
    assert pair.slave.request() is None


def test_elcr_keeps_system_lines_edge_triggered(pair: PicPair) -> None:
    pair.elcr.write(0, 2, 0xFFFF)
    assert pair.elcr.read(0, 2) == 0xDEF8


def test_spurious_requests(pair: PicPair) -> None:
    assert pair.acknowledge() == 0x27
    pair.elcr.write8(1, 1 << 1)
    pair.set_line(9, True)
    pair.slave.write8(1, 0xFF)  # withdrawn from the slave: the edge at the master stays
    assert pair.acknowledge() == 0x2F
    pair.master.write8(0, 0x0B)
    assert pair.master.read8(0) == 1 << 2  # the master has the cascade in service
    pair.slave.write8(0, 0x0B)
    assert pair.slave.read8(0) == 0


def test_specific_end_and_rotation(pair: PicPair) -> None:
    pulse(pair, 4)
    pair.acknowledge()
    pair.master.write8(0, 0xE4)  # end 4, which becomes the lowest
    pulse(pair, 4)
    pulse(pair, 5)
    assert pair.acknowledge() == 0x25
    pair.master.write8(0, 0x65)
    assert pair.acknowledge() == 0x24
    pair.master.write8(0, 0xA0)  # rotating non-specific end
    pair.master.write8(0, 0xC7)  # set priority: back to 7 as the lowest
    pulse(pair, 0)
    pulse(pair, 7)
    assert pair.acknowledge() == 0x20


def test_automatic_end() -> None:
    chip = Pic8259()
    chip.write8(0, 0x13)
    chip.write8(1, 0x40)
    chip.write8(1, 0x03)
    chip.set_line(3, True)
    assert chip.base == 0x40
    assert chip.acknowledge() == 3
    assert chip.isr == 0
    chip.write8(0, 0x80)  # rotate in automatic-end mode
    chip.set_line(3, False)
    chip.set_line(3, True)
    chip.acknowledge()
    chip.set_line(3, False)
    for number in (3, 4):
        chip.set_line(number, True)
    assert chip.acknowledge() == 4


def test_special_mask_lets_lower_ones_through(pair: PicPair) -> None:
    pulse(pair, 1)
    pair.acknowledge()
    pulse(pair, 5)
    assert not pair.pending()
    pair.master.write8(0, 0x68)
    pair.master.write8(1, 1 << 1)
    assert pair.acknowledge() == 0x25
    pair.master.write8(0, 0x20)  # ends 5, not the masked 1
    assert pair.master.isr == 1 << 1


def test_poll(pair: PicPair) -> None:
    pulse(pair, 6)
    pair.master.write8(0, 0x0C)
    assert pair.master.read8(0) == 0x86
    pair.master.write8(0, 0x0C)
    assert pair.master.read8(0) & 0x80 == 0


def test_fully_nested_master_hears_a_higher_slave_input(pair: PicPair) -> None:
    for fully_nested, heard in ((0x11, True), (0x01, False)):
        pair.master.write8(0, 0x11)
        for word in (0x20, 4, fully_nested):
            pair.master.write8(1, word)
        pair.slave.write8(0, 0x11)
        for word in (0x28, 2, 1):
            pair.slave.write8(1, word)
        pulse(pair, 12)
        assert pair.acknowledge() == 0x2C
        pulse(pair, 8)
        assert pair.pending() is heard


def test_output_follows_requests() -> None:
    levels: list[bool] = []
    pair = PicPair(levels.append)
    pair.set_line(0, True)
    pair.acknowledge()
    assert levels == [True, False]
