"""Exception vectors and the double-fault table."""

import pytest

from trapgate.arch import vectors as v
from trapgate.arch.vectors import Nesting

CONTRIBUTORY = [v.DE, v.TS, v.NP, v.SS, v.GP]
BENIGN = [v.DB, v.NMI, v.BP, v.OF, v.BR, v.UD, v.NM, v.MF, v.AC, v.MC, v.XM, 0x20, 0xFF]


@pytest.mark.parametrize("first", CONTRIBUTORY)
@pytest.mark.parametrize("second", CONTRIBUTORY)
def test_two_contributory(first: int, second: int) -> None:
    assert v.nested(first, second) is Nesting.DOUBLE_FAULT


@pytest.mark.parametrize("second", [*CONTRIBUTORY, v.PF])
def test_during_a_page_fault(second: int) -> None:
    assert v.nested(v.PF, second) is Nesting.DOUBLE_FAULT


@pytest.mark.parametrize("first", [*CONTRIBUTORY, *BENIGN])
def test_page_fault_during_others_is_serial(first: int) -> None:
    assert v.nested(first, v.PF) is Nesting.SERIAL


@pytest.mark.parametrize("benign", BENIGN)
def test_benign_is_serial(benign: int) -> None:
    for other in (*CONTRIBUTORY, *BENIGN, v.PF, v.DF):
        assert v.nested(other, benign) is Nesting.SERIAL
    for second in CONTRIBUTORY:
        assert v.nested(benign, second) is Nesting.SERIAL


@pytest.mark.parametrize("second", [*CONTRIBUTORY, v.PF])
def test_triple_fault(second: int) -> None:
    assert v.nested(v.DF, second) is Nesting.SHUTDOWN


def test_error_codes() -> None:
    assert {number for number in range(32) if v.has_error_code(number)} == {8, 10, 11, 12, 13, 14, 17, 21, 29, 30}


def test_numbers_and_names() -> None:
    assert (v.PF, v.MF, v.AC, v.XM, v.CP) == (14, 16, 17, 19, 21)
    assert [v.name_of(n) for n in (1, 2, 13, 0x80)] == ["#DB", "NMI", "#GP", "vector 0x80"]
