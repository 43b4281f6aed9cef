"""Hooks of the library: on code, data, exceptions, ports and bus locks."""

import pytest

from trapgate import (
    BreakpointError,
    BusLocked,
    BusLockMode,
    ClockKind,
    CountDone,
    EngineError,
    ExceptionRaised,
    ExitKind,
    Machine,
    MachineConfig,
    MachineExit,
    Paused,
    PortAccessed,
    SoftwareHit,
    StepDone,
)
from trapgate.arch import vectors

COUNTED = MachineConfig(memory=4 << 20, clock=ClockKind.INSTRUCTIONS)
SMALL = MachineConfig(memory=4 << 20)
LOOP = bytes.fromhex("48ffc0 ebfb")  # 1: inc rax; jmp 1b


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
