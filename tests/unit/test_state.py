import re
from dataclasses import FrozenInstanceError, dataclass
from typing import Annotated, Any, ClassVar

import pytest

from trapgate.encoding import decode, encode
from trapgate.state import U8, U16, Bits, Length, Mask, OneOf, Range, State, StateError, require


@dataclass(frozen=True, slots=True)
class Inner(State):
    VERSION: ClassVar[int] = 3

    flag: bool


@dataclass(frozen=True, slots=True)
class Other(State):
    text: str


@dataclass(frozen=True, slots=True)
class Outer(State):
    count: U16
    reload: Annotated[int, Range(1, 0x10000)]
    mask: Annotated[int, Mask(0b1010)]
    mode: Annotated[int, OneOf((0, 2))]
    queue: Annotated[tuple[U8, ...], Length(0, 2)]
    pair: tuple[Annotated[int, Range(-5, 5)], bool]
    cells: Annotated[bytes, Length(4)]
    moment: Annotated[int, Bits(64)] | None
    inner: Inner | Other | None
    any: State


GOOD: dict[str, Any] = {
    "count": 0xFFFF, "reload": 0x10000, "mask": 0b1000, "mode": 2, "queue": (1, 255), "pair": (-5, True), "cells": b"\0\xffab",
    "moment": None, "inner": Inner(True), "any": Other("x"),
}  # fmt: skip

BAD = [
    ("count", 0x10000, "Outer.count: 0x10000 is not of 16 bits"),
    ("count", -1, "Outer.count: -0x1 is not of 16 bits"),
    ("count", True, "Outer.count: True is not of type int"),
    ("count", None, "Outer.count: None is not of type int"),
    ("reload", 0, "Outer.reload: 0x0 is not from 0x1 to 0x10000"),
    ("mask", 1, "Outer.mask: 0x1 is not within the bits 0xa"),
    ("mask", -1, "Outer.mask: -0x1 is not within the bits 0xa"),
    ("mode", 1, "Outer.mode: 0x1 is not one of 0, 2"),
    ("queue", [1], "Outer.queue: [1] is not a tuple"),
    ("queue", (1, 256), "Outer.queue[1]: 0x100 is not of 8 bits"),
    ("queue", (1, 2, 3), "Outer.queue: (1, 2, 3) is not 0 to 2 long"),
    ("pair", (1,), "Outer.pair: (1,) is not a tuple of 2"),
    ("pair", (6, True), "Outer.pair[0]: 0x6 is not from -0x5 to 0x5"),
    ("cells", b"abc", "Outer.cells: b'abc' is not 4 long"),
    ("cells", bytearray(4), "is not of type bytes"),
    ("moment", 1 << 64, "Outer.moment: 0x10000000000000000 is not of 64 bits"),
    ("moment", "1", "Outer.moment: '1' is not of type int or None"),
    ("inner", Outer(**GOOD), "is not a Inner or a Other or None"),
    ("any", 1, "Outer.any: 0x1 is not a State"),
]


def test_a_state_is_what_it_was_made_of_and_stays_so() -> None:
    state = Outer(**GOOD)
    assert state.queue == (1, 255)
    assert state == Outer(**GOOD)
    with pytest.raises(FrozenInstanceError):
        state.count = 1  # type: ignore[misc]


@pytest.mark.parametrize(("name", "value", "story"), BAD)
def test_a_state_that_cannot_be_is_never_made(name: str, value: object, story: str) -> None:
    with pytest.raises(StateError, match=re.escape(story)):
        Outer(**GOOD | {name: value})


def test_what_no_field_can_be_is_an_error_of_the_program() -> None:
    @dataclass(frozen=True, slots=True)
    class Wrong(State):
        floating: float

    with pytest.raises(TypeError, match="float"):
        Wrong(1.0)


def test_require() -> None:
    require(1, "")
    with pytest.raises(StateError, match="does not fit"):
        require(0, "does not fit")


def test_states_come_back_from_their_bytes() -> None:
    for change in ({}, {"moment": 1 << 63}, {"inner": None}, {"inner": Other("ü")}, {"queue": ()}):
        state = Outer(**GOOD | change)
        assert decode(encode(state), Outer, [Other]) == state


def test_a_big_number_comes_back() -> None:
    @dataclass(frozen=True, slots=True)
    class Wide(State):
        bits: Annotated[int, Bits(256)]

    assert decode(encode(Wide((1 << 256) - 1)), Wide).bits == (1 << 256) - 1


@pytest.mark.parametrize(
    ("change", "story"),
    [
        ((b'["Inner",3]', b'["Inner",2]'), "['Inner', 2] is not Inner of version 3"),
        ((b'["Other",1]', b'["Stranger",1]'), "Outer.any: Stranger is of no device or engine that is here"),
        ((b'{"":["Other",1],"text":"x"}', b"[]"), "Outer.any: what is there is of no device or engine that is here"),
        ((b'["Outer",1]', b'["Inner",3]'), "['Inner', 3] is not Outer of version 1"),
        ((b'"mode":2', b'"mode":1'), "Outer.mode: 0x1 is not one of 0, 2"),
        ((b'"mode":2', b'"mode":2.0'), "Outer.mode: 2.0 is not of type int"),
        ((b'"mode":2', b'"mode":NaN'), "Outer.mode: nan is not of type int"),
        ((b'"mode":2', b'"mode":"2"'), "Outer.mode: '2' is not of type int"),
        ((b'"mode":2', b'"mode":[' + b"[" * 100_000), "no state: "),
        ((b'"mode":2', b'"mode":' + b"9" * 5000), "no state: "),
        ((b'"mode":2,', b""), "Outer: no Outer, or one with other fields"),
        ((b'"mode":2', b'"mode":2,"more":1'), "Outer: no Outer, or one with other fields"),
        ((b'"pair":[-5,true]', b'"pair":[-5]'), "Outer.pair: 1 elements are not a tuple of 2"),
        ((b'"pair":[-5,true]', b'"pair":null'), "Outer.pair: None is not a tuple of 2"),
        ((b'"cells":"', b'"cells":"?'), "Outer.cells: no bytes in base64"),
        ((b'"moment":null', b'"moment":{}'), "Outer.moment: {} is not of type int or None"),
        ((b"{", b"\xff{"), "no state: "),
    ],
)
def test_bytes_that_are_no_state(change: tuple[bytes, bytes], story: str) -> None:
    data = encode(Outer(**GOOD))
    assert change[0] in data
    with pytest.raises(StateError, match=re.escape(story)):
        decode(data.replace(*change, 1), Outer, [Other])
