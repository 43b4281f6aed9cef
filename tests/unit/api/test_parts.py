"""Parts of a program's own on a machine: what they answer, what fails there, what becomes of them."""

from functools import partial

import pytest

from trapgate import (
    BusConflict,
    DeviceFault,
    Machine,
    MachineConfig,
    MachineExit,
    Part,
    RamError,
    SoftwareHit,
    State,
    Wiring,
)

SMALL = MachineConfig(memory=4 << 20)


class Latch(Part[State]):
    """Remembers the last write."""

    def __init__(self, wiring: Wiring, ports: range = range(0), memory: range = range(0)) -> None:
        self.value = 9
        if ports:
            wiring.ports(ports.start, len(ports), self)
        if memory:
            wiring.memory(memory.start, len(memory), self)

    def read(self, offset: int, size: int) -> int:
        return self.value + offset

    def write(self, offset: int, size: int, value: int) -> None:
        if value == 0xBAD:
            raise RuntimeError("no such value")
        self.value = value


class Copier(Part[State]):
    """Port 300h, or a byte of memory, takes a byte and puts it into RAM at 1005h, unless it is there."""

    def __init__(self, wiring: Wiring) -> None:
        wiring.ports(0x300, 1, self)
        wiring.memory(0xE000_0000, 1, self)
        self.ram = wiring.ram

    def read(self, offset: int, size: int) -> int:
        with self.ram.look(0x1005, 1) as code:
            return code[0]

    def write(self, offset: int, size: int, value: int) -> None:
        if value != self.read(0, 1):
            with self.ram.fill(0x1005, 1) as code:
                code[0] = value


class Wanderer(Part[State]):
    """Closed when the machine lets go of it; reads RAM where it is told to."""

    closed = 0

    def __init__(self, wiring: Wiring) -> None:
        wiring.ports(0x300, 4, self)
        self.ram = wiring.ram

    def read(self, offset: int, size: int) -> int:
        raise NotImplementedError

    def write(self, offset: int, size: int, value: int) -> None:
        self.ram.write(value, b"far")

    def close(self) -> None:
        Wanderer.closed += 1


class TestDevices:
    def test_memory_and_what_fails_there(self) -> None:
        with Machine(SMALL) as machine:
            machine.attach(partial(Latch, memory=range(0xE000_0000, 0xE000_1000)))
            code = "bb000000e0 c7435021000000 8b4b04 c703ad0b0000 f4"  # mov [rbx+50h], 21h; mov ecx, [rbx+4]; mov [rbx], badh
            machine.load_code(bytes.fromhex(code))
            stop = machine.run()
            assert isinstance(stop, DeviceFault)
            assert "Latch" in stop.story
            assert machine.cpu["rcx"] == 0x25
            assert isinstance(machine.run(), MachineExit)

    def test_it_is_there_anew_after_a_reset(self) -> None:
        with Machine(SMALL) as machine:
            machine.load_code(bytes.fromhex("e4b0 88c3 b007 e6b0 f4"))  # in al, b0h; mov bl, al; mov al, 7; out b0h, al
            assert isinstance(machine.run(), MachineExit)
            first = machine.attach(partial(Latch, ports=range(0xB0, 0xB4)))
            for _ in range(2):
                machine.reset()
                machine.run()
                assert machine.cpu["rbx"] == 9
                assert machine.part(Latch).value == 7
            assert machine.part(Latch) is not first
            with pytest.raises(LookupError, match="Wanderer"):
                machine.part(Wanderer)

    def test_those_of_the_configuration(self) -> None:
        closed = Wanderer.closed
        with Machine(MachineConfig(memory=4 << 20, devices=(Wanderer,))) as machine:
            code = "66ba0003 b8fdff3f00 ef b8feff3f00 ef f4"  # mov dx, 300h; mov eax, 3ffffdh; out dx, eax; one byte on
            machine.load_code(bytes.fromhex(code))
            stop = machine.run()
            assert isinstance(stop, DeviceFault)
            assert "Wanderer failed at port 0x300" in stop.story
            assert isinstance(stop.error, RamError)
            assert machine.ram.read((4 << 20) - 4, 4) == b"\0far"
            machine.reset()
            assert Wanderer.closed == closed + 1
        assert Wanderer.closed == closed + 2

    @pytest.mark.parametrize("store", ["ee", "8803"], ids=["port", "memory"])
    def test_code_that_a_device_writes_is_executed(self, store: str) -> None:
        """By the very block that runs meanwhile, and not for the first time: stc or clc, after the store."""
        with Machine(SMALL) as machine:
            machine.attach(Copier)
            machine.load_code(bytes.fromhex(store).ljust(6, b"\x90"), 0x1000)  # out dx, al; or mov [rbx], al
            machine.cpu["rdx"], machine.cpu["rbx"] = 0x300, 0xE000_0000
            for opcode in (0xF9, 0xF9, 0xF9, 0xF9, 0xF8, 0xF8, 0xF8, 0xF9):
                machine.cpu["rip"], machine.cpu["rax"] = 0x1000, opcode
                assert machine.run(until=0x1006) == SoftwareHit(0x1006)
                assert machine.cpu["rflags"] & 1 == opcode & 1
                assert machine.part(Copier).read(0, 1) == opcode

    def test_an_interrupt_line(self) -> None:
        """IRQ 5 through the 8259 as it is after reset by a BIOS: vector 0Dh, in real mode."""
        with Machine(SMALL) as machine:
            code = "b011e620 b008e621 b004e621 b001e621 b0dfe621 fb f4 90"  # ICW1-4, mask all but IRQ 5; sti; hlt
            machine.load_code(bytes.fromhex(code), bits=16)
            machine.ram.write(4 * 0x0D, bytes.fromhex("00200000"))
            machine.ram.write(0x2000, b"\xf4")
            line = machine.line(5)
            machine.on_port(0x21, call=lambda access: line(True) if access.value == 0xDF else None)
            assert machine.run(until=0x2000) == SoftwareHit(0x2000)

    def test_what_is_taken(self) -> None:
        with Machine(SMALL) as machine:
            free, com1, pit, ram = range(0x300, 0x304), range(0x3F8, 0x3F9), range(0x43, 0x44), range(0x3FF000, 0x500000)
            for ports, memory in ((com1, free), (pit, free), (free, range(0xFEC0_0000, 0xFEC0_0010)), (free, ram)):
                with pytest.raises(BusConflict):
                    machine.attach(partial(Latch, ports=ports, memory=memory))
            machine.attach(partial(Latch, ports=free))  # what was refused is nowhere
