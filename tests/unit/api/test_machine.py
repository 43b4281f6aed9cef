"""Machines as a program has them: guests, runs, hooks, devices; what is refused; what is left of them."""

import os
import signal
import subprocess
import sys
import threading

import pytest

import trapgate
from trapgate import (
    BreakpointError,
    BusConflict,
    BusLocked,
    BusLockMode,
    ClockKind,
    CountDone,
    DeviceFault,
    EngineError,
    ExceptionRaised,
    ExitKind,
    ImageError,
    Machine,
    MachineConfig,
    MachineExit,
    Paused,
    PortAccessed,
    RamError,
    SoftwareHit,
    StepDone,
    TrapgateError,
    api,
)
from trapgate.arch import vectors
from trapgate.boot.code import TABLES

COUNTED = MachineConfig(memory=4 << 20, clock=ClockKind.INSTRUCTIONS)
SMALL = MachineConfig(memory=4 << 20)
END = (4 << 20) - TABLES
LOOP = bytes.fromhex("48ffc0 ebfb")  # 1: inc rax; jmp 1b


def test_the_names_of_the_library_are_one_list() -> None:
    assert trapgate.__all__ == api.__all__
    assert all(getattr(trapgate, name) is getattr(api, name) for name in trapgate.__all__)
    assert set(trapgate.__all__) <= set(dir(trapgate))
    with pytest.raises(AttributeError):
        _ = trapgate.Unicorn  # type: ignore[attr-defined]


def test_all_errors_are_of_one_class() -> None:
    errors = [getattr(trapgate, name) for name in trapgate.__all__ if name.endswith(("Error", "Conflict"))]
    assert len(errors) > 8
    assert all(issubclass(error, TrapgateError) for error in errors)


def test_what_is_loaded_when() -> None:
    """The package alone loads nothing of its own; a machine with a warm cache needs no LLVM."""
    program = """
import sys, trapgate
assert not [name for name in sys.modules if name.startswith("trapgate.")]
with trapgate.Machine() as machine:
    machine.load_code(b"\\x90")
    machine.run(until=0x1001)
assert "llvmlite" not in sys.modules
assert "trapgate.kvm" not in sys.modules
assert "trapgate.gdb" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


class TestCode:
    @pytest.mark.parametrize("bits", [16, 32, 64])
    def test_in_each_mode(self, bits: int) -> None:
        with Machine(SMALL) as machine:
            machine.load_code(bytes.fromhex("40 90 90"), 0x1000, bits)  # inc ax, inc eax; a REX prefix of NOP
            machine.cpu["rax"] = 0xFFFF_FFFF
            assert machine.run(until=0x1002) == SoftwareHit(0x1002)
            assert machine.cpu["rax"] == {16: 0xFFFF_0000, 32: 0, 64: 0xFFFF_FFFF}[bits]

    @pytest.mark.parametrize("bits", [16, 32, 64])
    def test_the_stack_is_usable(self, bits: int) -> None:
        with Machine(SMALL) as machine:
            machine.load_code(bytes.fromhex("6a05 58 90"), bits=bits)  # push 5; pop rax
            assert machine.run(until=0x1003) == SoftwareHit(0x1003)
            assert machine.cpu["rax"] == 5

    @pytest.mark.parametrize(("address", "bits"), [(0xFFFF, 16), (END, 32), (END, 64), (-1, 64), (0, 8)])
    def test_what_has_no_room(self, address: int, bits: int) -> None:
        with Machine(SMALL) as machine, pytest.raises(ImageError):
            machine.load_code(LOOP, address, bits)

    def test_another_guest_finds_an_empty_machine(self) -> None:
        with Machine(COUNTED) as machine:
            machine.load_code(LOOP)
            hook = machine.on_code(0x1000)
            machine.ram.write(0x9000, b"left")
            machine.cpu["rbx"] = 7
            machine.run(instructions=100)
            machine.load_code(LOOP)
            assert (machine.ram.read(0x9000, 4), machine.cpu["rbx"], machine.time) == (bytes(4), 0, 0)
            assert machine.run() == SoftwareHit(0x1000)
            hook.remove()
            assert machine.run(instructions=2) == CountDone()
            machine.reset()
            assert (machine.cpu["rip"], machine.cpu["rax"]) == (0x1000, 0)


class TestRuns:
    @pytest.mark.parametrize("count", [0, 1, 2, 3, 1000, 99_999])
    def test_so_many_instructions(self, count: int) -> None:
        with Machine(COUNTED) as machine:
            machine.load_code(LOOP)
            for _ in range(3):
                before = machine.time
                assert machine.run(instructions=count) == CountDone()
                assert machine.time - before == count
            assert machine.cpu["rax"] == (3 * count + 1) // 2

    def test_hooks_do_not_count(self) -> None:
        with Machine(COUNTED) as machine:
            machine.load_code(LOOP)
            seen: list[int] = []
            machine.on_code(0x1000, call=lambda stop: seen.append(stop.address))
            assert machine.run(instructions=9) == CountDone()
            assert (machine.time, len(seen)) == (9, 5)

    def test_nobody_counts_by_the_host_clock(self) -> None:
        with Machine(SMALL) as machine, pytest.raises(EngineError, match=r"ClockKind\.INSTRUCTIONS"):
            machine.run(instructions=1)

    def test_a_step(self) -> None:
        with Machine(SMALL) as machine:
            machine.load_code(LOOP)
            assert (machine.step(), machine.cpu["rip"]) == (StepDone(), 0x1003)

    def test_pause_comes_from_any_thread(self) -> None:
        with Machine(SMALL) as machine:
            machine.load_code(LOOP)
            timer = threading.Timer(0.05, machine.pause)
            timer.start()
            assert machine.run() == Paused()
            timer.join()

    @pytest.mark.parametrize("config", [SMALL, COUNTED], ids=["host clock", "instruction clock"])
    @pytest.mark.parametrize("code", [LOOP, bytes.fromhex("fb f4 ebfd")], ids=["amid a loop", "in HLT"])
    def test_ctrl_c_comes_between_two_instructions(self, code: bytes, config: MachineConfig) -> None:
        with Machine(config) as machine:
            machine.load_code(code)
            timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                machine.run()
            timer.join()
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            assert machine.cpu["rip"] in (0x1000, 0x1001, 0x1002, 0x1003)

    def test_input_reaches_the_serial_port(self) -> None:
        said = bytearray()
        with Machine(MachineConfig(memory=4 << 20, serial=said.extend)) as machine:
            machine.load_code(bytes.fromhex("66baf803 ec fec0 ee"))  # mov dx, 3f8h; in al, dx; inc al; out dx, al
            machine.feed(b"A")
            machine.run(until=0x1008)
        assert said == b"B"


class TestHooks:
    def test_several_at_one_place_are_all_called(self) -> None:
        with Machine(SMALL) as machine:
            machine.load_code(bytes.fromhex("90 90 f4"))
            seen: list[str] = []
            machine.on_code(0x1001, call=lambda stop: seen.append("one"))
            machine.on_code(0x1000, 0x1001, lambda stop: seen.append("two"))
            stop = machine.on_code(0x1001)
            assert machine.run() == SoftwareHit(0x1001)
            assert seen == ["two", "one", "two"]
            stop.remove()
            stop.remove()
            assert isinstance(machine.run(), MachineExit)

    def test_one_that_removes_itself(self) -> None:
        with Machine(COUNTED) as machine:
            machine.load_code(LOOP)
            hook = machine.on_code(0x1000, call=lambda stop: hook.remove())
            assert machine.run(instructions=10) == CountDone()

    def test_data(self) -> None:
        with Machine(SMALL) as machine:
            machine.load_code(
                bytes.fromhex("bf00200000 8b07 8907 ff07 f4")
            )  # mov edi, 2000h; mov eax, [rdi]; mov [rdi], eax; inc [rdi]
            seen: list[tuple[str, int]] = []
            machine.on_read(0x2000, 4, lambda stop: seen.append(("read", machine.cpu["rip"])))
            machine.on_write(0x2003, call=lambda stop: seen.append(("write", machine.cpu["rip"])))
            machine.on_access(0x2001, 2, lambda stop: seen.append(("access", machine.cpu["rip"])))
            assert isinstance(machine.run(), MachineExit)
            at = {0x1007: ("read", "access"), 0x1009: ("write", "access"), 0x100B: ("read", "write", "access")}
            assert sorted(seen) == sorted((name, rip) for rip, names in at.items() for name in names)

    def test_ports(self) -> None:
        with Machine(SMALL) as machine:
            machine.load_code(bytes.fromhex("b005 e680 e481 e682 f4"))  # mov al, 5; out 80h, al; in al, 81h; out 82h, al
            seen: list[PortAccessed] = []
            machine.on_port(0x80, 0x81, seen.append)
            with machine.on_port(0x82):
                assert machine.run() == PortAccessed(0x82, 1, 0xFF, write=True)
            assert seen == [PortAccessed(0x80, 1, 5, write=True), PortAccessed(0x81, 1, 0xFF, write=False)]
            assert isinstance(machine.run(), MachineExit)

    @pytest.mark.parametrize("code", ["e680 f4", "66ba8000 f36e f4"], ids=["OUT", "REP OUTS"])
    def test_what_a_callback_raises_amid_a_port_access(self, code: str) -> None:
        with Machine(SMALL) as machine:
            machine.load_code(bytes.fromhex(code))
            machine.cpu["rcx"], machine.cpu["rsi"] = 3, 0x2000
            hook = machine.on_port(0x80, call=lambda access: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                machine.run()
            hook.remove()
            assert isinstance(machine.run(), MachineExit)

    def test_what_a_callback_raises_leaves_the_machine_sound(self) -> None:
        with Machine(SMALL) as machine:
            machine.load_code(bytes.fromhex("90 f4"))
            hook = machine.on_code(0x1000, call=lambda stop: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                machine.run()
            hook.remove()
            assert isinstance(machine.run(), MachineExit)

    def test_bus_locks(self) -> None:
        config = MachineConfig(memory=4 << 20, bus_locks=BusLockMode.STOP)
        with Machine(config) as machine:
            machine.load_code(bytes.fromhex("bf3e200000 f0ff07 f0ff07 f4"))  # mov edi, 203eh; lock inc dword ptr [rdi], twice
            seen: list[int] = []
            with machine.on_bus_lock(lambda stop: seen.append(stop.lock.rip)):
                assert isinstance(machine.run(), MachineExit)
            assert seen == [0x1005, 0x1008]
            assert machine.bus_locks.total == 2
            machine.reset()
            assert isinstance(machine.run(), BusLocked)

    def test_what_cannot_be(self) -> None:
        with Machine(SMALL) as machine:
            machine.load_code(LOOP)
            for make in (
                lambda: machine.on_code(0, 1 << 20),
                lambda: machine.on_write(0, 1 << 20),
                lambda: machine.on_write((1 << 64) - 1, 2),
                lambda: [machine.on_write(page << 12, 8) for page in range(5000)],
            ):
                with pytest.raises(BreakpointError):
                    make()
            with pytest.raises(EngineError):
                machine.on_bus_lock()


class TestExceptions:
    """#UD, #PF, #DE and the traps, native and stepped, with and without a handler."""

    def test_registers_are_those_of_the_instruction(self) -> None:
        with Machine(SMALL) as machine:
            machine.load_code(bytes.fromhex("b805000000 488903"))  # mov eax, 5; mov [rbx], rax
            machine.cpu["rbx"] = 1 << 40
            machine.on_exception(vectors.PF)
            assert machine.run() == ExceptionRaised(vectors.PF, 2, 1 << 40)
            assert (machine.cpu["rip"], machine.cpu["rax"]) == (0x1005, 5)
            end = machine.run()
            assert isinstance(end, MachineExit)
            assert end.kind is ExitKind.SHUTDOWN

    @pytest.mark.parametrize("stepped", [False, True])
    @pytest.mark.parametrize(
        ("code", "vector", "error"),
        [
            ("0f0b", vectors.UD, None),
            ("31c9 f7f1", vectors.DE, None),
            ("31c0 8ed8 66b8ff00 8ed8", vectors.GP, 0xFC),  # mov ds, 0ffh
            ("48b80000000000008000 8b00", vectors.GP, 0),  # an address that is not canonical
            ("48bc0000000000008000 50", vectors.SS, 0),  # and a stack
            ("48c7c000000001 8b00", None, None),
        ],
    )
    def test_each_is_seen_once_and_then_delivered(self, code: str, vector: int | None, error: int | None, stepped: bool) -> None:
        with Machine(SMALL) as machine:
            machine.load_code(bytes.fromhex(code + "f4"))
            machine.on_exception()
            stops = []
            for _ in range(10):
                stop = machine.step() if stepped else machine.run()
                if isinstance(stop, MachineExit):
                    break
                stops.append(stop)
            raised = [stop for stop in stops if not isinstance(stop, StepDone)]
            assert raised == ([] if vector is None else [ExceptionRaised(vector, error)])
            assert isinstance(stop, MachineExit)
            assert stop.kind is (ExitKind.DEAD if vector is None else ExitKind.SHUTDOWN)

    def test_a_breakpoint_instruction_and_what_its_delivery_raises(self) -> None:
        with Machine(SMALL) as machine:
            machine.load_code(b"\xcc")
            machine.on_exception()
            assert machine.run() == ExceptionRaised(vectors.BP)
            assert machine.run() == ExceptionRaised(vectors.GP, 8 * vectors.BP + 2)  # there is no such gate
            assert machine.cpu["rip"] == 0x1000

    def test_a_handler_runs_after_the_stop_and_interrupts_nothing(self) -> None:
        """In real mode: #UD through the IVT; the frame is the instruction's, and a step ends on the handler."""
        with Machine(SMALL) as machine:
            machine.load_code(bytes.fromhex("40 0f0b 40 f4"), bits=16)
            machine.ram.write(4 * vectors.UD, bytes.fromhex("00200000"))
            machine.ram.write(0x2000, bytes.fromhex("5b 83c302 53 cf"))  # pop bx; add bx, 2; push bx; iret
            hook = machine.on_exception(vectors.UD)
            assert machine.run() == ExceptionRaised(vectors.UD)
            assert machine.cpu["rip"] == 0x1001
            assert (machine.step(), machine.cpu["rip"]) == (StepDone(), 0x2000)
            assert machine.cpu.read(machine.cpu["rsp"], 2) == b"\x01\x10"
            hook.remove()
            assert isinstance(machine.run(), MachineExit)
            assert machine.cpu["rax"] == 2

    def test_a_callback_takes_it_back(self) -> None:
        with Machine(SMALL) as machine:
            machine.load_code(bytes.fromhex("0f0b 0f0b 40 90 f4"))

            def skip(stop: ExceptionRaised) -> None:
                machine.cpu["rip"] += 2

            machine.on_exception(vectors.UD, call=skip)
            end = machine.run()
            assert isinstance(end, MachineExit)
            assert end.kind is ExitKind.DEAD

    def test_a_single_step_of_the_guests_own(self) -> None:
        with Machine(SMALL) as machine:
            machine.load_code(bytes.fromhex("9c 58 80cc01 50 9d 90 90"))  # pushf; pop rax; or ah, 1; push rax; popf; nop; nop
            machine.on_exception(vectors.DB)
            assert machine.run() == ExceptionRaised(vectors.DB)
            assert machine.cpu["rip"] == 0x1008
            end = machine.run()
            assert isinstance(end, MachineExit)
            assert end.kind is ExitKind.SHUTDOWN

    def test_kicks_lose_nothing(self) -> None:
        with Machine(SMALL) as machine:
            machine.load_code(bytes.fromhex("0f0b 0f0b 0f0b 0f0b f4"))
            machine.on_exception(vectors.UD)
            for n in range(4):
                machine.pause()
                assert machine.run() == Paused()
                assert machine.run() == ExceptionRaised(vectors.UD)
                machine.pause()
                assert machine.run() == Paused()
                assert machine.cpu["rip"] == 0x1000 + 2 * n
                machine.cpu["rip"] += 2


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


class Latch:
    """Remembers the last write."""

    def __init__(self) -> None:
        self.value = 0

    def read(self, offset: int, size: int) -> int:
        return self.value + offset

    def write(self, offset: int, size: int, value: int) -> None:
        if value == 0xBAD:
            raise RuntimeError("no such value")
        self.value = value


class TestDevices:
    def test_memory_and_what_fails_there(self) -> None:
        with Machine(SMALL) as machine:
            machine.attach(Latch(), memory=range(0xE000_0000, 0xE000_1000))
            code = "bb000000e0 c7435021000000 8b4b04 c703ad0b0000 f4"  # mov [rbx+50h], 21h; mov ecx, [rbx+4]; mov [rbx], badh
            machine.load_code(bytes.fromhex(code))
            stop = machine.run()
            assert isinstance(stop, DeviceFault)
            assert "Latch" in stop.story
            assert machine.cpu["rcx"] == 0x25
            assert isinstance(machine.run(), MachineExit)

    def test_it_is_there_after_a_reset(self) -> None:
        with Machine(SMALL) as machine:
            machine.load_code(bytes.fromhex("e4b0 f4"))  # in al, b0h
            assert isinstance(machine.run(), MachineExit)
            latch = Latch()
            latch.value = 9
            machine.attach(latch, ports=range(0xB0, 0xB4))
            machine.reset()
            machine.run()
            assert machine.cpu["rax"] == 9

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
            com1, pit, ram = range(0x3F8, 0x3F9), range(0x43, 0x44), range(0x3FF000, 0x500000)
            for ports, memory in ((com1, None), (pit, None), (None, range(0xFEC0_0000, 0xFEC0_0010)), (None, ram)):
                with pytest.raises(BusConflict):
                    machine.attach(Latch(), ports=ports, memory=memory)
