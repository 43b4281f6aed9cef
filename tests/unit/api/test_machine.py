"""Machines as a program has them: what the library names, guests that are loaded, runs; what is refused."""

import os
import signal
import subprocess
import sys
import threading

import pytest

import trapgate
from trapgate import (
    ClockKind,
    CountDone,
    EngineError,
    ImageError,
    Machine,
    MachineConfig,
    Paused,
    SoftwareHit,
    StepDone,
    TrapgateError,
    api,
)
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
