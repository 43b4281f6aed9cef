"""Names of causes."""

import pytest

from trapgate.arch.debugregs import DR6_BD, DR6_BLD, DR6_BS, DR6_BT
from trapgate.debug import explain
from trapgate.exits import DebugException
from trapgate.vcpu import Breakpoint, Kind, Owner


@pytest.mark.parametrize(
    ("causes", "hits", "icebp", "text"),
    [
        (DR6_BLD | DR6_BS, 0, False, "BLD|BS"),
        (DR6_BS, 0b101, False, "B0|B2|BS"),
        (DR6_BD | DR6_BT, 0, False, "BD|BT"),
        (0, 0, True, "ICEBP"),
        (0, 0, False, "none"),
    ],
)
def test_names(causes: int, hits: int, icebp: bool, text: str) -> None:
    assert explain.causes(causes, hits, icebp) == text


def test_words() -> None:
    assert explain.meaning(DR6_BLD | DR6_BS) == "bus lock and single step"
    assert explain.meaning(0, icebp=True) == "INT1 instruction"
    assert explain.meaning(0) == "no cause"
    assert explain.event(DebugException(DR6_BD, 0, False, fault=True)) == "BD, fault"


def test_breakpoints() -> None:
    assert explain.breakpoint_text(Breakpoint(Owner.GUEST, 2, Kind.WRITE, 0x1000, 4)) == "guest DR2: write of 4 bytes at 0x1000"
    assert explain.breakpoint_text(Breakpoint(Owner.DEBUGGER, 0, Kind.ACCESS, 0x10, 1)) == "debugger #0: access of 1 byte at 0x10"
    assert explain.breakpoint_text(Breakpoint(Owner.DEBUGGER, 1, Kind.EXEC, 0x10, 1)) == "debugger #1: execution at 0x10"
