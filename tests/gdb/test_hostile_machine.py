"""Packets and monitor commands with hostile arguments, on a real machine: each gets its answer, and the machine lives on."""

import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from system.gdb_session import image
from trapgate.arch import msrs
from trapgate.arch.models import MODELS
from trapgate.build import load_guest, make_machine
from trapgate.gdb.adapter import MachineTarget
from trapgate.gdb.context import State
from trapgate.gdb.description import WIDE, size
from trapgate.gdb.framing import Packet, Reader, frame
from trapgate.gdb.monitor import COMMANDS
from trapgate.gdb.packets import PACKETS
from trapgate.gdb.session import Session
from trapgate.machine import Machine, MachineConfig

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")

EDGES = (0, 1, 0xFFF, 0x1000, 0x100000, 0x7FFFFF, 0x800000, 0xA0000, 0xFEE00000, 0xFFFFFFFF, 1 << 32, (1 << 47) - 1, 1 << 47)
HIGH = (-(1 << 47), -0x1000, -8, -1)
NUMBERS = st.one_of(st.sampled_from([*EDGES, *(value & (1 << 64) - 1 for value in HIGH)]), st.integers(0, (1 << 64) - 1))
MSRS = st.one_of(st.sampled_from(sorted({index for model in MODELS.values() for index in msrs.msrs_of(model)})), NUMBERS)
LEAVING = (b"k", b"D", b"vKill")  # they end the session by design
MONITOR = [command for command in COMMANDS if command.words != "quit"]


@pytest.fixture(scope="module")
def machine() -> Machine:
    """A machine with a guest, 8 MiB, at its entry."""
    made = make_machine(MachineConfig(memory=8 << 20), "soft")
    load_guest(made, image())
    return made


def ask(session: Session, payload: bytes) -> list[bytes]:
    """The payloads of what is answered."""
    return [event.payload for event in Reader(runs=True).feed(session.receive(frame(payload))) if isinstance(event, Packet)]


@st.composite
def monitor_lines(draw: st.DrawFn) -> str:
    command = draw(st.sampled_from(MONITOR))
    first = MSRS if command.words == "msr" else NUMBERS
    numbers = [draw(first), *draw(st.lists(NUMBERS, max_size=2))] if command.arguments else draw(st.lists(NUMBERS, max_size=1))
    return " ".join([command.words, *(f"{number:x}" for number in numbers)])


@st.composite
def register_writes(draw: st.DrawFn) -> bytes:
    number = draw(st.integers(0, len(WIDE.registers) - 1))
    wide = size(WIDE.registers[number])
    every = (1 << 8 * wide) - 1
    value = draw(st.one_of(st.just(0), st.just(every), st.integers(0, every))) & WIDE.registers[number].mask
    return b"P%x=" % number + value.to_bytes(wide, "little").hex().encode()


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    prefix = draw(st.sampled_from([row.prefix for row in PACKETS if row.prefix not in LEAVING]))
    numbers = [b"%x" % number for number in draw(st.lists(NUMBERS, max_size=3))]
    return prefix + draw(st.sampled_from([b",", b";", b":", b"="])).join(numbers) + draw(st.sampled_from([b"", b":00", b"=00"]))


LINES = st.one_of(
    monitor_lines().map(lambda line: b"qRcmd," + line.encode().hex().encode()), register_writes(), register_writes(), packets()
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINES, min_size=5, max_size=40))
def test_whatever_is_asked_gets_an_answer(machine: Machine, asked: list[bytes]) -> None:
    target = MachineTarget(machine, going=False)
    session = Session(target)
    for payload in asked:
        answers = ask(session, payload)
        if session.state is State.RUNNING:
            assert not answers
            session = Session(target)
        else:
            assert session.state is State.STOPPED, payload
            assert len([one for one in answers if not one.startswith(b"O")]) <= 1 or answers[-1] == b"OK", payload


def test_an_msr_that_can_only_be_written_is_an_answer(machine: Machine) -> None:
    session = Session(MachineTarget(machine, going=False))

    def said(line: str) -> str:
        texts = [one[1:] for one in ask(session, b"qRcmd," + line.encode().hex().encode()) if one.startswith(b"O") and one != b"OK"]
        return b"".join(bytes.fromhex(text.decode()) for text in texts).decode()

    assert "(PRED_CMD) can only be written" in said("msr 49")
    assert "has no MSR 0x12345" in said("msr 12345")
    assert "no number of an MSR" in said("msr 100000049")
    assert "cannot hold" in said("msr debugctl ffffffff")
    assert said("msr star 23000800000000") == "msr c0000081 = 0023000800000000\n"
