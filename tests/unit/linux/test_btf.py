"""Members of structures, as a kernel describes them."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.linux.btf import Types, TypesError
from unit.linux.types import CONST, Btf


def made() -> Btf:
    btf = Btf()
    number = btf.integer("int", 4)
    inner = btf.structure("inner", [("first", number, 0), ("second", number, 32)])
    nameless = btf.structure("", [("deep", number, 64), ("", btf.structure("", [("deeper", number, 32)], union=True), 128)])
    other = btf.alias("inner_t", btf.alias("", inner, CONST))
    outer = btf.structure(
        "outer",
        [
            ("a", number, 0),
            ("b", other, 64),
            ("", nameless, 256),
            ("c", btf.array(inner, 3), 512),
        ],
    )
    btf.structure("flags", [("whole", number, 0), ("one", number, 37)], bits=True)
    btf.structure("loop", [("", btf.count + 1, 0)])
    btf.structure("outer", [("a", outer, 800)])  # a second one of the name: the first counts
    return btf


@pytest.mark.parametrize(
    ("structure", "path", "offset"),
    [
        ("outer", "a", 0),
        ("outer", "b", 8),
        ("outer", "b.second", 12),
        ("outer", "deep", 40),
        ("outer", "deeper", 52),
        ("outer", "c.second", 68),
        ("inner", "first", 0),
        ("flags", "one", 4),
    ],
)
def test_offsets(structure: str, path: str, offset: int) -> None:
    types = Types(made().data())
    assert types.offset(structure, path) == offset
    assert types.offset(structure, path) == offset


@pytest.mark.parametrize(("structure", "path"), [("nobody", "a"), ("outer", "z"), ("outer", "a.b"), ("loop", "x"), ("", "deep")])
def test_what_is_not_there(structure: str, path: str) -> None:
    with pytest.raises(TypesError, match="this kernel"):
        Types(made().data()).offset(structure, path)


@pytest.mark.parametrize(
    "data", [b"", b"\x9f\xeb", bytes(64), b"\x9f\xeb\x02" + bytes(64)], ids=["nothing", "cut", "zeros", "version"]
)
def test_no_description(data: bytes) -> None:
    with pytest.raises(TypesError):
        Types(data)


@given(st.data())
def test_damage_is_refused_or_read(data: st.DataObject) -> None:
    whole = bytearray(made().data())
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with suppress(TypesError):
        types = Types(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
        for path in ("a", "b.second", "deeper", "c.first", "nothing"):
            with suppress(TypesError):
                types.offset("outer", path)
