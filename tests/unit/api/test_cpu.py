"""A vCPU of the library: registers, virtual memory, MSRs."""

import pytest

from trapgate import (
    Machine,
    MachineConfig,
    RamError,
    TrapgateError,
)

SMALL = MachineConfig(memory=4 << 20)
LOOP = bytes.fromhex("48ffc0 ebfb")  # 1: inc rax; jmp 1b


class TestCpu:
    def test_registers(self) -> None:
        with Machine(SMALL) as machine:
            machine.load_code(LOOP)
            cpu = machine.cpu
            before = dict(cpu)
            assert len(before) == len(cpu) > 60
            cpu["rax"], cpu["xmm3"], cpu["rflags"] = 1, 1 << 127, cpu["rflags"] | 1
            machine.run(until=0x1003)
            cpu.update(before)
            assert dict(cpu) == before
            with pytest.raises(KeyError):
                _ = cpu["eax"]
            with pytest.raises(KeyError):
                cpu["ymm0"] = 0
            for value in (-1, 1 << 64):
                with pytest.raises(ValueError, match="64 bits"):
                    cpu["rax"] = value

    def test_virtual_memory(self) -> None:
        with Machine(SMALL) as machine:
            machine.load_code(LOOP)
            machine.cpu.write(0x1FFE, b"abcd")
            assert machine.cpu.read(0x1FFE, 4) == machine.ram.read(0x1FFE, 4) == b"abcd"
            assert (machine.cpu.translate(0x1234), machine.cpu.translate(1 << 40)) == (0x1234, None)
            for address in (1 << 40, (4 << 20) - 2):
                with pytest.raises(RamError):
                    machine.cpu.read(address, 4)
                with pytest.raises(RamError):
                    machine.cpu.write(address, b"abcd")
            assert machine.ram.read((4 << 20) - 2, 2) == bytes(2)

    def test_msrs(self) -> None:
        with Machine(SMALL) as machine:
            machine.cpu.write_msr(0x277, 0)
            assert machine.cpu.read_msr(0x277) == 0
            with pytest.raises(TrapgateError):
                machine.cpu.read_msr(0x1234_5678)
