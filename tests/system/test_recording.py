"""A recorded guest is at every moment what it was, however often that is gone back to, and whatever reached it from outside."""

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from cases import kit
from programs import build, race
from system.test_at_rest import Make, program
from system.test_exact_time import MEMORY, PROGRAMS, state_of
from system.test_several_cpus import Several, guest
from trapgate.answering import Watch
from trapgate.build import load_guest, make_machine
from trapgate.debug.buslock import Mode
from trapgate.encoding import encode
from trapgate.machine import ClockKind, Machine, MachineConfig
from trapgate.record.back import Found, last_stop
from trapgate.record.events import Held, Input, Mark, Memory, ModelRegister, Register, digest
from trapgate.record.recording import RecordError, Recording
from trapgate.stops import BusLocked, CountDone, MachineExit, PortAccessed, RecordingEnds, StepDone, Stop

pytestmark = pytest.mark.skipif(bool(build.missing_tools()), reason=f"not installed: {build.missing_tools()}")
BACK = 25  # times in a test


def all_of(machine: Machine) -> tuple[object, ...]:
    """What there is of a machine: the moment, CPU, devices, RAM."""
    ram = hashlib.sha256(machine.ram.read(0, machine.ram.size)).digest()
    return *state_of(machine), encode(machine.board.save()), ram


def race_run(make: Callable[[], Machine], seed: int, look: Callable[[Recording], None]) -> tuple[Machine, Recording, Stop]:
    """A run of the race, recorded, with bytes at moments that the seed decides; `look` is called at each of those."""
    source, machine = random.Random(seed), make()
    recording = Recording(machine)
    stop: Stop = machine.resume(instructions=30_000)
    for one in race.TYPED:
        stop = machine.resume(instructions=source.choice(race.APART))
        if isinstance(stop, MachineExit):
            break
        machine.feed(bytes([one]))
        look(recording)  # at a moment, what comes then has come
    while not isinstance(stop, MachineExit):
        stop = machine.resume()
    return machine, recording, stop


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return race.image(tmp_path_factory.mktemp("race"))


def test_inputs_come_again_when_they_came(image: Path) -> None:
    written, seen = list[bytes](), dict[int, tuple[object, ...]]()

    def look(recording: Recording) -> None:
        seen[machine_of(recording).executed()] = all_of(machine_of(recording))

    machine, recording, end = race_run(lambda: race.machine(image, written.append), 3, look)
    said, last, total = b"".join(written), all_of(machine), machine.executed()
    source = random.Random(0)
    for _ in range(BACK):
        at = source.choice(list(seen))
        assert isinstance(recording.goto(at), CountDone)
        assert all_of(machine) == seen[at]
        if source.randrange(3) == 0:
            recording.keep()
    assert recording.run() == end
    assert (machine.executed(), all_of(machine)) == (total, last)
    assert b"".join(written) == said, "nothing is said twice"
    machine.close()


def machine_of(recording: Recording) -> Machine:
    return recording._machine


@pytest.mark.parametrize("name", PROGRAMS)
def test_any_moment_of_a_program(name: str, tmp_path: Path) -> None:
    anywhere(program(name, tmp_path, MEMORY), 1)


def anywhere(make: Make, seed: int) -> None:
    """Run to some moments, recorded and not; then back and forth between them, while ever more are kept and thinned out."""
    source, plain = random.Random(seed), make([])
    end = plain.resume()
    total, last = plain.executed(), all_of(plain)
    plain.close()
    moments, wanted = sorted(source.sample(range(1, total), 6)), dict[int, tuple[object, ...]]()
    machine = make([])
    recording = Recording(machine, 1 << 20)
    for moment in moments:
        assert isinstance(machine.resume(instructions=moment - machine.executed()), CountDone)
        wanted[moment] = all_of(machine)
        recording.keep()
    assert machine.resume() == end
    assert all_of(machine) == last, "a recorded guest is another"
    for _ in range(BACK):
        at = source.choice(moments)
        if not recording.start[0] <= at:
            continue
        recording.goto(at)
        assert all_of(machine) == wanted[at], at
        if source.randrange(2):
            recording.keep()
    assert recording.run() == end
    assert all_of(machine) == last
    machine.close()


def test_steps_in_the_past_take_the_interrupts_that_came(image: Path) -> None:
    states = list[object]()
    machine, recording, _ = race_run(lambda: race.machine(image, lambda data: None), 1, lambda recording: None)
    first = recording._events[0].executed
    recording.goto(first - 20)
    for _ in range(400):
        states.append(state_of(machine))
        assert isinstance(recording.resume(step=True), StepDone)
    assert [state[0] for state in states] == list(range(first - 20, first + 380))  # type: ignore[index]
    for number in random.Random(2).sample(range(400), 20):
        recording.goto(first - 20 + number)
        assert state_of(machine) == states[number]
    machine.close()


def test_steps_that_hold_an_interrupt_back_are_replayed_so(image: Path) -> None:
    machine = race.machine(image, lambda data: None)
    recording = Recording(machine)
    machine.resume(instructions=50_000)
    machine.feed(b"a")
    for _ in range(50):
        assert isinstance(recording.resume(step=True), StepDone)
    assert recording._held, "no step has held anything back"
    there = all_of(machine)
    machine.resume(instructions=5000)
    later = all_of(machine)
    recording.goto(40_000)
    recording.goto(50_050)
    assert all_of(machine) == there
    recording.goto(55_050)
    assert all_of(machine) == later
    machine.close()


def test_a_change_in_the_past_is_another_history(image: Path) -> None:
    told = list[str]()
    machine = race.machine(image, lambda data: None)
    recording = Recording(machine, tell=told.append)
    machine.resume(instructions=200_000)
    recording.goto(100_000)
    machine.vcpu.set("rcx", 7)
    recording.changed(Register(*recording.here, 0, "rcx", 7))
    machine.ram.write(0x5000, b"here")
    recording.changed(Memory(*recording.here, 0x5000, b"here"))
    assert len(told) == 1 and "100000" in told[0]
    with pytest.raises(RecordError, match="to 100000"):
        recording.goto(150_000)
    machine.resume(instructions=50_000)
    there = all_of(machine)
    recording.goto(99_990)
    assert machine.ram.read(0x5000, 4) == bytes(4)
    recording.goto(150_000)
    assert all_of(machine) == there
    assert machine.ram.read(0x5000, 4) == b"here"
    machine.close()


def test_a_replay_ends_where_the_recording_does(image: Path) -> None:
    machine, recording, _ = race_run(lambda: race.machine(image, lambda data: None), 3, lambda recording: None)
    end, events = recording.end, recording._events
    machine.close()
    machine = race.machine(image, lambda data: None)
    cut = 400_000, 400_000
    replay = Recording(machine, events=[one for one in events if one.moment <= cut], end=cut, live=False)
    assert isinstance(replay.run(), RecordingEnds)
    assert machine.executed() == cut[0] < end[0]
    assert isinstance(replay.resume(), RecordingEnds)
    machine.close()


@pytest.mark.parametrize("case", ["state", *(pytest.param(case, marks=pytest.mark.long) for case in ("lock", "timers"))])
@pytest.mark.skipif(bool(kit.LACKING), reason=kit.LACKING)
def test_several_cpus_take_the_turns_that_they_took(case: str) -> None:
    plain = Several(guest(case, 3), 3).machine
    end = plain.resume()
    total, last = plain.executed(), several(plain)
    plain.close()
    source, machine = random.Random(4), Several(guest(case, 3), 3).machine
    recording, wanted = Recording(machine), dict[int, object]()
    for moment in sorted(source.sample(range(1, total), 5)):
        assert isinstance(machine.resume(instructions=moment - machine.executed()), CountDone)
        wanted[moment] = several(machine)
        recording.keep()
    assert (machine.resume(), machine.executed(), several(machine)) == (end, total, last)
    for _ in range(10):
        moment = source.choice(list(wanted))
        recording.goto(moment)
        assert several(machine) == wanted[moment]
    assert (recording.run(), several(machine)) == (end, last)
    recording.goto(total // 2)
    machine.ram.write(0x5000, b"here")
    recording.changed(Memory(*recording.here, 0x5000, b"here"))  # from here on it is recorded anew, with a debugger's steps
    for _ in range(60):
        if source.randrange(3):
            recording.resume(step=True, only=[source.randrange(3)])
        else:
            machine.resume(instructions=source.randrange(1, 500))
    there = several(machine), machine.executed()
    recording.goto(total // 2 - 10)
    recording.goto(there[1])
    assert (several(machine), machine.executed()) == there
    machine.close()


def several(machine: Machine) -> object:
    """Every CPU's registers, whose turn it is, RAM."""
    ram = hashlib.sha256(machine.ram.read(0, machine.ram.size)).digest()
    general = [one.vcpu.save().general for one in machine.processors]
    return machine.clock.now(), machine.turns.running.number, general, digest(machine), ram


def test_back_to_the_last_bus_lock_exception_and_port(tmp_path: Path) -> None:
    """What stops a guest forwards stops it backwards, in front of the instruction."""
    image = tmp_path / "locks.bin"
    # mov cx, 3000; 1: lock inc word [0x703F]; in al, 0x80; nop; loop 1b; hlt
    image.write_bytes(bytes.fromhex("b9b80b f0ff063f70 e480 90 e2f6 f4").ljust(510, b"\0") + b"\x55\xaa")
    machine = make_machine(MachineConfig(memory=1 << 20, clock=ClockKind.INSTRUCTIONS, bus_locks=Mode.STOP), "soft")
    load_guest(machine, str(image))
    recording = Recording(machine)
    assert isinstance(recording.goto(0), CountDone)
    watch = Watch(range(0x80, 0x81), machine.stop)
    for _ in range(50):
        assert isinstance(machine.resume(), BusLocked)
    here = machine.executed()
    found = last_stop(machine, recording, here, lambda: None, lambda stop: True)
    assert isinstance(found, Found) and isinstance(found.stop, BusLocked) and found.executed == here - 1
    recording.goto(found.executed)
    lock = machine.vcpu.get("rip")
    machine.added.watch(watch)
    found = last_stop(machine, recording, here - 1, lambda: None, lambda stop: isinstance(stop, PortAccessed))
    assert isinstance(found, Found) and isinstance(found.stop, PortAccessed)
    recording.goto(found.executed)
    assert machine.vcpu.get("rip") == lock + 5, "on the IN"
    found = last_stop(machine, recording, found.executed, lambda: None, lambda stop: True)
    assert isinstance(found, Found) and isinstance(found.stop, BusLocked)
    recording.goto(found.executed)
    assert machine.vcpu.get("rip") == lock
    machine.close()


def test_a_recording_that_cannot_be_is_refused(image: Path) -> None:
    for event in (
        Register(40_000, 40_000, 0, "nonsense", 1), Register(40_000, 40_000, 7, "rax", 1),
        ModelRegister(40_000, 40_000, 0, 0x7777, 1), Memory(40_000, 40_000, 1 << 40, b"x"), Mark(40_000, 40_000, 0),
        Input(40_000, 39_999, b"x"), Mark(40_000, 40_001, 0),
    ):  # fmt: skip
        machine = race.machine(image, lambda data: None)
        replay = Recording(machine, events=[event], end=(50_000, 50_000), live=False)
        with pytest.raises(RecordError, match=r"is damaged|is not what it was"):
            replay.run()
        machine.close()
    machine = race.machine(image, lambda data: None)
    with pytest.raises(RecordError, match="more CPUs"):
        Recording(machine, events=[Held(0, 0, 5, True, (1,))])
    machine.close()
