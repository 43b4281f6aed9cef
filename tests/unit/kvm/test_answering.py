"""Accesses that devices answer within a run: what is answered, in which order, and what ends the run all the same."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from trapgate.arch.control import CR4_DE
from trapgate.exits import DebugException, Exit, Halted, Interrupted, MmioRead, PortRead, PortWrite
from trapgate.kvm import abi
from trapgate.kvm.cpu import KvmVcpu
from trapgate.vcpu import Breakpoint, Kind, Owner
from unit.kvm.fake_kvm import CODE, Entry, FakeVcpuFd, vcpu
from unit.kvm.sharing import ANY

IO, FAR = 4096, 0xFEB0_0000


class Log:
    """Devices that say what they were asked, and answer with what a test says."""

    def __init__(self, *answers: int) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.answers = list(answers)
        self.amid: Callable[[], object] = lambda: None

    def port_read(self, port: int, size: int) -> int:
        return self._read("in", port, size)

    def port_write(self, port: int, size: int, value: int) -> None:
        self._write("out", port, size, value)

    def memory_read(self, address: int, size: int) -> int:
        return self._read("load", address, size)

    def memory_write(self, address: int, size: int, value: int) -> None:
        self._write("store", address, size, value)

    def _read(self, *what: object) -> int:
        self.asked.append(what)
        self.amid()
        return self.answers.pop(0)

    def _write(self, *what: object) -> None:
        self.asked.append(what)
        self.amid()


def port(direction: int, number: int, data: bytes, count: int = 1) -> Entry:
    """KVM_EXIT_IO: OUT of these bytes, or an IN of so many."""

    def play(fd: FakeVcpuFd) -> None:
        fd.shared.exit_reason = abi.EXIT_IO
        io = fd.shared.exit.io
        io.direction, io.size, io.port, io.count, io.data_offset = direction, len(data) // count, number, count, IO
        if direction:
            fd.io[IO : IO + len(data)] = data

    return play


def memory(write: bool, address: int, data: bytes) -> Entry:
    """KVM_EXIT_MMIO."""

    def play(fd: FakeVcpuFd) -> None:
        fd.shared.exit_reason = abi.EXIT_MMIO
        mmio = fd.shared.exit.mmio
        mmio.phys_addr, mmio.len, mmio.is_write = address, len(data), write
        mmio.data[: len(data)] = data if write else bytes(len(data))

    return play


def halt(fd: FakeVcpuFd) -> None:
    """KVM_EXIT_HLT."""
    fd.shared.exit_reason = abi.EXIT_HLT


def answering(monkeypatch: ANY, *answers: int) -> tuple[KvmVcpu, FakeVcpuFd, Log]:
    """A vCPU with devices, on a host whose kernel has the interrupt controllers."""
    cpu, fd = vcpu(monkeypatch)
    cpu.chips = SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setattr(fd, "halted", lambda: False, raising=False)
    devices = cpu.devices = Log(*answers)
    return cpu, fd, devices


@pytest.mark.parametrize("size", [1, 2, 4])
def test_ports_are_answered_within_one_run(size: int, monkeypatch: ANY) -> None:
    value = int.from_bytes(bytes(range(0x81, 0x81 + size)), "little")
    cpu, fd, devices = answering(monkeypatch, value, value ^ 0xFF)
    seen: list[bytes] = []
    fd.script += [
        port(1, 0x3FF, value.to_bytes(size, "little")),
        port(0, 0x3FD, bytes(size)),
        lambda one: seen.append(bytes(one.io[IO : IO + size])) or port(0, 0x60, bytes(size))(one),
        lambda one: seen.append(bytes(one.io[IO : IO + size])) or halt(one),
    ]
    assert cpu.run() == Halted()
    assert devices.asked == [("out", 0x3FF, size, value), ("in", 0x3FD, size), ("in", 0x60, size)]
    assert seen == [one.to_bytes(size, "little") for one in (value, value ^ 0xFF)]


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_memory_that_is_no_ram_is_answered_within_one_run(size: int, monkeypatch: ANY) -> None:
    value = int.from_bytes(bytes(range(0x81, 0x81 + size)), "little")
    cpu, fd, devices = answering(monkeypatch, value)
    seen: list[bytes] = []
    fd.script += [
        memory(True, FAR, value.to_bytes(size, "little")),
        memory(False, FAR + 8, bytes(size)),
        lambda one: seen.append(bytes(one.shared.exit.mmio.data[:size])) or halt(one),
    ]
    assert cpu.run() == Halted()
    assert devices.asked == [("store", FAR, size, value), ("load", FAR + 8, size)]
    assert seen == [value.to_bytes(size, "little")]


def test_what_a_device_kicks_for_comes_before_the_next_instruction(monkeypatch: ANY) -> None:
    cpu, fd, devices = answering(monkeypatch)
    devices.amid = cpu.kick
    fd.script += [port(1, 0x80, b"x"), halt]
    assert cpu.run() == Interrupted()
    assert len(fd.script) == 1
    devices.amid = lambda: None
    assert cpu.run() == Halted()
    assert len(devices.asked) == 1


def test_a_device_may_look_at_registers(monkeypatch: ANY) -> None:
    """Those behind an OUT, which KVM completes with the next entry; and nothing that has been read once is believed later."""
    cpu, fd, devices = answering(monkeypatch, 0x5A)
    seen: list[int] = []
    devices.amid = lambda: seen.append(cpu.get("rip"))

    def moved(to: int, play: Entry) -> Entry:
        return lambda one: setattr(one.general, "rip", to) or play(one)

    fd.script += [moved(CODE + at, play) for at, play in ((0, port(1, 0x80, b"x")), (9, port(0, 0x60, b"x")), (12, halt))]
    assert cpu.run() == Halted()
    assert (seen, cpu.get("rip")) == ([CODE, CODE + 9], CODE + 12)


def test_an_exit_that_completing_an_access_brings_is_not_lost(monkeypatch: ANY) -> None:
    """A device looks at the registers; KVM, asked to complete the OUT, finds something else."""
    cpu, fd, devices = answering(monkeypatch)
    monkeypatch.setattr(fd, "run", lambda: fd.script.popleft()(fd) is not False)
    devices.amid = lambda: cpu.get("rip")
    fd.script += [port(1, 0x80, b"x"), halt]
    assert cpu.run() == Halted()
    assert not fd.script


def test_repeated_accesses_are_told_one_by_one(monkeypatch: ANY) -> None:
    cpu, fd, devices = answering(monkeypatch)
    fd.script += [port(1, 0x80, bytes(range(1, 7)), count=3)]
    assert [cpu.run() for _ in range(3)] == [PortWrite(0x80, 2, value) for value in (0x0201, 0x0403, 0x0605)]
    assert devices.asked == []


def _armed(cpu: KvmVcpu, fd: FakeVcpuFd) -> None:
    cpu.arm([Breakpoint(Owner.DEBUGGER, 0, Kind.EXEC, CODE + 8, 1)], [])


def _stepping(cpu: KvmVcpu, fd: FakeVcpuFd) -> None:
    fd.events = lambda: abi.VcpuEvents()  # type: ignore[method-assign]
    cpu.step(True)


def _without_chips(cpu: KvmVcpu, fd: FakeVcpuFd) -> None:
    cpu.chips = None


READS = [(port(0, 0x60, b"x"), PortRead(0x60, 1)), (memory(False, FAR, b"abcd"), MmioRead(FAR, 4))]


@pytest.mark.parametrize("how", [_armed, _stepping, _without_chips])
@pytest.mark.parametrize(("entry", "told"), READS)
def test_what_may_concern_a_debugger_is_told(
    how: Callable[[KvmVcpu, FakeVcpuFd], None], entry: Entry, told: Exit, monkeypatch: ANY
) -> None:
    cpu, fd, devices = answering(monkeypatch)
    how(cpu, fd)
    fd.script.append(entry)
    assert cpu.run() == told
    assert devices.asked == []


def test_a_guests_own_breakpoint_on_a_port_is_hit(monkeypatch: ANY) -> None:
    cpu, fd, devices = answering(monkeypatch)
    fd.system.cr4 |= CR4_DE
    fd.script += [
        port(1, 0x80, b"a"),
        lambda one: setattr(one.debug, "dr7", 0x20402) or one.debug.db.__setitem__(0, 0x80) or port(1, 0x80, b"b")(one),
    ]
    assert cpu.run() == PortWrite(0x80, 1, ord("b"))
    assert cpu.run() == DebugException(0, 1, icebp=False, fault=False)
    assert devices.asked == [("out", 0x80, 1, ord("a"))]
