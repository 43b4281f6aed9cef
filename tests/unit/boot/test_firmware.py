"""Firmware: what is taken for it, where it goes, and the end of the first 4 GiB, where a CPU finds it after reset."""

from pathlib import Path

import pytest

from trapgate import Machine, MachineConfig, SoftwareHit
from trapgate.arch import layout
from trapgate.boot import BootOptions, Image, ImageError, firmware

MIB = 1 << 20
RAM = ((0, 16 * MIB),)


def rom(tmp_path: Path, size: int, reset: bytes = b"\xea\x5b\xe0\x00\xf0") -> Path:
    """A file of firmware with code at the reset vector."""
    path = tmp_path / "rom"
    data = bytearray(b"\xf4" * size)
    data[size - 16 : size - 16 + len(reset)] = reset
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("size", [1, 0x8000, 0x1_8000, 0x4_0000])
def test_other_sizes_are_no_firmware(size: int, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="64 or 128 KiB"):
        firmware.read(rom(tmp_path, max(size, 16)))


def test_what_firmware_does_not_take() -> None:
    image = Image(bytes(0x1_0000))
    with pytest.raises(ImageError, match="more than 1 MiB"):
        firmware.plan(image, BootOptions(((0, MIB),)))
    for options in (BootOptions(RAM, command_line="quiet"), BootOptions(RAM, initrd=image)):
        with pytest.raises(ImageError, match="no initrd, modules or command line"):
            firmware.plan(image, options)


@pytest.mark.parametrize("size", [0x1_0000, 0x2_0000])
def test_the_first_instruction_is_the_one_of_the_reset_vector(size: int, tmp_path: Path) -> None:
    with Machine(MachineConfig(memory=2 * MIB)) as machine:
        machine.load_firmware(rom(tmp_path, size))
        assert (machine.cpu["rip"], machine.cpu["cs_base"]) == (0xFFF0, 0xFFFF_0000)
        assert machine.cpu.read(0xFFFF_FFF0, 5) == b"\xea\x5b\xe0\x00\xf0"
        machine.step()
        assert (machine.cpu["rip"], machine.cpu["cs_base"]) == (0xE05B, 0xF_0000)


TOUCH = "be f0ffffff bf f0ff0f00 8b06 c70644332211 8b1e 8b0f f0830601 8b16 8b2f"
"""mov esi, FFFFFFF0h; mov edi, FFFF0h; mov eax, [esi]; mov [esi], 11223344h; mov ebx, [esi]; mov ecx, [edi]; lock add [esi], 1;
mov edx, [esi]; mov ebp, [edi]."""


def test_the_mirror_is_read_and_not_written() -> None:
    with Machine(MachineConfig(memory=2 * MIB)) as machine:
        code = bytes.fromhex(TOUCH)
        machine.load_code(code, bits=32)
        machine.ram.write(0xF_FFF0, b"\x78\x56\x34\x12")
        assert isinstance(machine.run(until=0x1000 + len(code)), SoftwareHit)
        assert [machine.cpu[name] for name in ("rax", "rbx", "rcx", "rdx", "rbp")] == [0x12345678] * 5


def test_code_in_the_mirror_follows_what_is_written_below() -> None:
    """A call into the mirror, the code changed in low memory, and the same call again."""
    low, high = 0xE_0100, layout.MIRROR_BASE + 0x100
    code = bytes.fromhex("bb") + high.to_bytes(4, "little") + bytes.fromhex("ffd3 89c1") + b"\xc6\x05"
    code += (low + 1).to_bytes(4, "little") + bytes.fromhex("07 ffd3")  # mov byte [low + 1], 7; call ebx
    with Machine(MachineConfig(memory=2 * MIB)) as machine:
        machine.load_code(code, bits=32)
        machine.ram.write(low, bytes.fromhex("b805000000c3"))  # mov eax, 5; ret
        machine.cpu["rsp"] = 0x9000
        machine.run(until=0x1000 + len(code))
        assert (machine.cpu["rcx"], machine.cpu["rax"]) == (5, 7)


def test_a_machine_without_so_much_memory_has_nothing_there() -> None:
    with Machine(MachineConfig(memory=MIB // 2)) as machine:
        machine.load_code(bytes.fromhex("a1f0ffffff"), bits=32)  # mov eax, [FFFFFFF0h]
        machine.run(until=0x1005)
        assert machine.cpu["rax"] == 0xFFFF_FFFF
