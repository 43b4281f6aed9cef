"""Debug console, exit ports, PCI configuration ports, keyboard controller, and the splitting of wide accesses."""

import pytest

from trapgate.devices.debugcon import DebugConsole
from trapgate.devices.exitport import ExitPort
from trapgate.devices.i8042 import I8042
from trapgate.devices.lines import ByteDevice
from trapgate.devices.pci import PciHost


class Four(ByteDevice):
    """Four plain bytes."""

    LENGTH = 4

    def __init__(self) -> None:
        self.bytes = bytearray(4)

    def read8(self, offset: int) -> int:
        return self.bytes[offset]

    def write8(self, offset: int, value: int) -> None:
        self.bytes[offset] = value


def test_wide_accesses_fall_apart_into_bytes() -> None:
    device = Four()
    device.write(0, 4, 0x44332211)
    assert device.bytes == b"\x11\x22\x33\x44"
    assert device.read(1, 2) == 0x3322


def test_wide_accesses_stop_at_the_end_of_the_device() -> None:
    device = Four()
    device.write(2, 4, 0xDDCCBBAA)
    assert device.bytes == b"\0\0\xaa\xbb"
    assert device.read(3, 2) == 0xFFBB


def test_debug_console_prints_and_shows_itself() -> None:
    out = bytearray()
    console = DebugConsole(out.extend)
    assert console.read(0, 1) == 0xE9
    console.write(0, 1, ord("a"))
    console.write(0, 2, 0x6362)
    assert out == b"abc"


@pytest.mark.parametrize(("value", "status"), [(0, 1), (1, 3), (0x10, 33)])
def test_exit_port_status_is_odd(value: int, status: int) -> None:
    seen: list[int] = []
    ExitPort(seen.append).write(0, 4, value)
    assert seen == [status]


def test_pci_address_reads_back_and_nobody_answers() -> None:
    host = PciHost(lambda: None)
    host.write(0, 4, 0xFFFF_FFFF)
    assert host.read(0, 4) == 0x80FF_FFFC
    assert host.read(4, 4) == 0xFFFF_FFFF
    assert host.read(6, 2) == 0xFFFF


def test_reset_register_wants_a_rising_bit() -> None:
    resets: list[bool] = []
    host = PciHost(lambda: resets.append(True))
    host.write(1, 1, 0x02)
    assert not resets
    assert host.read(1, 1) == 0x02
    host.write(1, 1, 0x06)
    assert len(resets) == 1
    host.write(1, 4, 0x06)  # only a byte access is the reset register
    assert len(resets) == 1


class TestI8042:
    """The controller without keyboard."""

    def test_self_test_and_interface_tests(self) -> None:
        controller = I8042(lambda: None)
        assert controller.command_port.read(0, 1) & 1 == 0
        for command, answer in ((0xAA, 0x55), (0xAB, 0), (0xA9, 0)):
            controller.command_port.write(0, 1, command)
            assert controller.command_port.read(0, 1) & 0x21 == 1
            assert controller.read(0, 1) == answer
            assert controller.command_port.read(0, 1) & 1 == 0

    def test_command_byte_reads_back_and_enable_commands_change_it(self) -> None:
        controller = I8042(lambda: None)
        controller.command_port.write(0, 1, 0x60)
        controller.write(0, 1, 0x74)
        controller.command_port.write(0, 1, 0xAE)
        controller.command_port.write(0, 1, 0xA8)
        controller.command_port.write(0, 1, 0x20)
        assert controller.read(0, 1) == 0x44

    def test_absent_keyboard_and_mouse_time_out(self) -> None:
        controller = I8042(lambda: None)
        controller.write(0, 1, 0xFF)
        assert controller.command_port.read(0, 1) & 0x61 == 0x41
        assert controller.read(0, 1) == 0xFE
        controller.command_port.write(0, 1, 0xD4)
        controller.write(0, 1, 0xFF)
        assert controller.command_port.read(0, 1) & 0x61 == 0x61

    def test_loopback_raises_the_right_interrupt(self) -> None:
        levels: dict[str, bool] = {}
        controller = I8042(lambda: None, lambda on: levels.update(keyboard=on), lambda on: levels.update(mouse=on))
        controller.command_port.write(0, 1, 0x60)
        controller.write(0, 1, 0x03)
        controller.command_port.write(0, 1, 0xD3)
        controller.write(0, 1, 0x5A)
        assert levels == {"keyboard": False, "mouse": True}
        assert controller.read(0, 1) == 0x5A
        assert levels["mouse"] is False

    @pytest.mark.parametrize("command", [0xFE, 0xF0])
    def test_pulsing_the_reset_line_resets(self, command: int) -> None:
        resets: list[bool] = []
        I8042(lambda: resets.append(True)).command_port.write(0, 1, command)
        assert len(resets) == 1

    def test_other_pulses_and_a_kept_output_port_do_not(self) -> None:
        resets: list[bool] = []
        controller = I8042(lambda: resets.append(True))
        controller.command_port.write(0, 1, 0xFF)
        controller.command_port.write(0, 1, 0xD1)
        controller.write(0, 1, 0x03)
        assert not resets
        controller.command_port.write(0, 1, 0xD1)
        controller.write(0, 1, 0x02)
        assert len(resets) == 1

    def test_answers_are_bounded(self) -> None:
        controller = I8042(lambda: None)
        for _ in range(1000):
            controller.write(0, 1, 0xF4)
        count = 0
        while controller.command_port.read(0, 1) & 1:
            controller.read(0, 1)
            count += 1
        assert count == 16
