"""A guest is stopped at some instruction and put, part by part and as bytes, into a machine that has never run: both end alike."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from programs import build
from programs.debug import cases
from programs.debug.harness import Guest
from trapgate.build import load_guest, make_machine
from trapgate.cpustate import Between
from trapgate.encoding import decode, encode
from trapgate.machine import ClockKind, Machine, MachineConfig, MachineState
from trapgate.memory import RamState
from trapgate.stops import MachineExit, Paused, Stop

pytestmark = pytest.mark.skipif(bool(build.missing_tools()), reason=f"not installed: {build.missing_tools()}")
PROGRAMS = [
    "long_exceptions", "long_interrupts", "long_paging", "long_selfmod", "long_xsave", "protected_segments", "real_mode",
    "virtual_8086", "long_user",
]  # fmt: skip
FEW, MANY = 4, 20  # moments of each guest in one test
SEEDS = range(1, 7)  # of the long ones: a thousand moments in all, and each guest that debugs itself
RAM = 4 << 20
ANSWERS = ("port_read", "port_write", "memory_read", "memory_write")
# Devices amid instructions: RMW, string and stack instructions on the local APIC's registers and on what is not there, INS, OUTS.
DEVICES = """
    mov ebx, 0x50000
    mov edi, 0x30000
    mov edx, 0x80
    mov ecx, 20
1:  push rcx
    add dword ptr [rbx + 0x380], 0x12345
    mov eax, [rbx + 0x390]
    xor [rbx + 0x80], eax
    push qword ptr [rbx + 0x20]
    pop qword ptr [rbx + 0x3E0]
    lea rsi, [rbx + 0x20]
    movsd
    movsq
    mov rsi, rdi
    lea rdi, [rbx + 0x380]
    sub rsi, 8
    mov ecx, 3
    rep movsb
    mov rdi, rsi
    lock inc dword ptr [rbx + 0x380]
    xchg eax, [rbx + 0x380]
    movups xmm0, [rbx + 0x20]
    movups [rdi], xmm0
    insb
    lea rsi, [rdi - 4]
    outsw
    in eax, dx
    stosd
    pop rcx
    dec ecx
    jnz 1b
"""


@dataclass(frozen=True)
class End:
    """All that a run leaves."""

    stop: Stop
    executed: int
    state: MachineState
    ram: bytes
    written: bytes


Make = Callable[[list[bytes]], Machine]


def program(name: str, folder: Path, memory: int = RAM) -> Make:
    found = next(one for one in build.programs() if one.name == name)
    image = build.assemble(found, folder)

    def make(written: list[bytes]) -> Machine:
        config = MachineConfig(memory=memory, cpu=found.cpu, clock=ClockKind.INSTRUCTIONS, debugcon=written.append)
        machine = make_machine(config, "soft")
        load_guest(machine, str(image))
        return machine

    return make


def debugging(case: cases.Case) -> Make:
    return lambda written: Guest(case.text, case.armed, case.cpu, case.resume_at).machine


def devices(written: list[bytes]) -> Machine:
    """Every access to a device is an exit, as it is where somebody looks at the run."""
    machine = Guest(DEVICES, cases.Armed(ring=0, fixed=cases.DEVICE)).machine
    machine.vcpu.devices = None  # type: ignore[attr-defined]
    return machine


def stop_amid(machine: Machine, executed: int) -> None:
    """The machine stops where a device has answered, once so many instructions are executed: amid an instruction as well."""
    accesses = machine.processors[0]._accesses

    def stopping(answer: Callable[..., Any]) -> Callable[..., Any]:
        def answered(*words: int) -> Any:
            value = answer(*words)
            if machine.executed() >= executed:
                machine.stop(Paused())
            return value

        return answered

    for name in ANSWERS:
        setattr(accesses, name, stopping(getattr(accesses, name)))


def saved(machine: Machine) -> tuple[bytes, bytes]:
    return encode(machine.save()), encode(machine.ram.save())


def restored(make: Make, state: tuple[bytes, bytes], written: list[bytes]) -> Machine:
    """A machine that has never run, with what the bytes say."""
    machine = make(written)
    classes = machine.save().classes() | {machine.vcpu.underway, Between}
    machine.load(decode(state[0], MachineState, classes), decode(state[1], RamState))
    return machine


def ended(machine: Machine, written: list[bytes]) -> End:
    written.clear()
    stop = machine.resume()
    end = End(stop, machine.executed(), machine.save(), machine.ram.read(0, machine.ram.size), b"".join(written))
    machine.close()
    assert isinstance(stop, MachineExit), stop
    return end


def moments(make: Make, count: int, seed: int, first: int) -> Iterator[int]:
    """Instructions of a run from the first on, some early, some late."""
    written: list[bytes] = []
    total, source = ended(make(written), written).executed, random.Random(seed)
    for _ in range(count):
        yield source.randrange(first, total)


def check(make: Make, count: int, seed: int = 0, amid: bool = False, first: int = 1) -> list[MachineState]:
    """The states of the machine at some moments, from each of which two machines came to the same end.

    `amid`: from there on, where a device has answered next.
    """
    met = []
    for at in moments(make, count, seed, first):
        one, two = list[bytes](), list[bytes]()
        running = make(one)
        if amid:
            stop_amid(running, at)
        stop = running.resume(instructions=None if amid else at)
        if isinstance(stop, MachineExit):
            assert amid, "it ended before"
            continue
        if amid:
            for name in ANSWERS:
                delattr(running.processors[0]._accesses, name)
        state = saved(running)
        copy = restored(make, state, two)
        met.append(copy.save())
        assert saved(copy) == state, at
        assert ended(running, one) == ended(copy, two), at
    return met


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program(name: str, tmp_path: Path) -> None:
    check(program(name, tmp_path), FEW)


def test_amid_what_devices_answer() -> None:
    met = [one.cpus[0].underway for one in check(devices, 30, amid=True)]
    assert any(one.answers for one in met), "no instruction was amid its accesses"  # type: ignore[attr-defined]


def test_a_guest_that_debugs_itself() -> None:
    for number, case in enumerate(random.Random(1).sample(cases.CASES, 8)):
        check(debugging(case), 1, number)


@pytest.mark.long
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_at_many_moments(name: str, seed: int, tmp_path: Path) -> None:
    check(program(name, tmp_path), MANY, seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", SEEDS)
def test_amid_devices_at_many_moments(seed: int) -> None:
    check(devices, MANY, seed, amid=True)


@pytest.mark.long
@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_every_guest_that_debugs_itself(case: cases.Case) -> None:
    check(debugging(case), 1, seed=1)
