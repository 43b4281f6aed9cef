"""What a guest is described as, by what the user, its image and its mode say."""

import pytest

from gdb.pretend import CODE, PretendTarget
from trapgate.doings import CpuMode
from trapgate.gdb.architecture import Architecture, alone, choose
from trapgate.gdb.framing import Packet, Reader, frame
from trapgate.gdb.session import Session
from trapgate.gdb.target import Stopped, Why

REAL, PROTECTED, LONG = CpuMode.REAL, CpuMode.PROTECTED, CpuMode.LONG


@pytest.mark.parametrize(
    ("code", "real", "protected", "long"),
    [
        (64, Architecture.X86_64, Architecture.X86_64, Architecture.X86_64),  # gdb has the same ELF64 file, the entry is 32-bit
        (32, Architecture.I386, Architecture.I386, Architecture.ANY),  # not so 32-bit after all, but gdb has the file
        (0, Architecture.I8086, Architecture.ANY, Architecture.X86_64),
    ],
)
def test_by_image_and_mode(code: int, real: Architecture, protected: Architecture, long: Architecture) -> None:
    assert [choose(code, mode) for mode in (REAL, PROTECTED, LONG)] == [real, protected, long]


@pytest.mark.parametrize("mode", CpuMode)
def test_for_a_client_that_takes_one(mode: CpuMode) -> None:
    now = Architecture.X86_64 if mode is LONG else Architecture.I386
    assert [alone(which, mode) for which in Architecture] == [now, Architecture.I386, Architecture.X86_64, now]


def test_who_reads_the_description_again_is_told_of_a_new_mode_and_registers_follow() -> None:
    target = PretendTarget()
    session = Session(target)

    def ask(payload: bytes) -> bytes:
        replies = [one.payload for one in Reader(runs=True).feed(session.receive(frame(payload))) if isinstance(one, Packet)]
        return replies[-1]

    ask(b"qSupported:xmlRegisters=i386")
    target.described_as = Architecture.I386
    assert b"eip" in ask(b"qXfer:features:read:target.xml:0,ffff")
    target.described_as = Architecture.X86_64
    assert len(ask(b"p0")) == 8
    assert b"eip" in ask(b"qXfer:features:read:target.xml:10,ffff")  # the rest of what was begun
    ask(b"qXfer:threads:read::0,ffff")
    assert len(ask(b"p0")) == 8
    assert b"rip" in ask(b"qXfer:features:read:target.xml:0,ffff")
    assert len(ask(b"p0")) == 16


def test_conditions_belong_to_linear_addresses() -> None:
    target = PretendTarget()
    target.code_base = 0x7000
    session = Session(target)
    session.receive(frame(b"Z0,%x,1;X3,220027" % (CODE + 0x7000)) + frame(b"c"))
    assert session.stopped(Stopped(1, why=Why.SOFTWARE)) == b""
