"""The table of the XSAVE area against what the manuals say of it, and every reader of it against the table."""

import random

import pytest

from trapgate.arch import xstate
from trapgate.arch.cpuid import Dynamic, leaf
from trapgate.arch.models import MODELS, CpuModel
from trapgate.arch.registers import BY_NAME, Group


def test_nothing_overlaps() -> None:
    """FIOFF and FISEG are a reading of FIP, FOOFF and FOSEG of FDP: those four are left out."""
    places = [place for name, place in xstate.PLACES.items() if name not in ("fioff", "fiseg", "fooff", "foseg")]
    places += [xstate.FTW, xstate.FIP, xstate.FDP]
    taken = [at for place in places for at in range(place.offset, place.offset + place.size)]
    assert len(taken) == len(set(taken))
    assert not set(taken) & set(range(xstate.XSTATE_BV, xstate.HEADER_END))
    for one in xstate.COMPONENTS:
        for place in one.registers.values():
            assert one.offset <= place.offset <= place.offset + place.size <= one.offset + one.size


def test_places_of_the_manual() -> None:
    """SDM vol. 1, table 10-2 and 13.4."""
    expected = {
        "fctrl": 0, "fstat": 2, "fop": 6, "fioff": 8, "fiseg": 12, "fooff": 16, "foseg": 20, "mxcsr": 24, "st0": 32, "st7": 144,
        "xmm0": 160, "xmm15": 400, "ymm0h": 576, "ymm15h": 816,
    }  # fmt: skip
    assert {name: xstate.PLACES[name].offset for name in expected} == expected
    assert [one.bit for one in xstate.COMPONENTS] == [1, 2, 4]


def test_registers_go_in_and_come_out() -> None:
    rng, area = random.Random(5), bytearray(xstate.standard_size(xstate.ALL))
    values = {}
    for name, place in xstate.PLACES.items():
        if name not in ("fioff", "fiseg", "fooff", "foseg"):
            values[name] = rng.getrandbits(8 * place.size)
            xstate.write(area, name, values[name])
    assert {name: xstate.read(area, name) for name in values} == values
    for name in ("fip", "ftw", "xmm16", "ymm16h", "st8", "rax"):
        with pytest.raises(KeyError, match=name):
            xstate.read(area, name)
        with pytest.raises(KeyError, match=name):
            xstate.write(area, name, 1)
    with pytest.raises(KeyError, match="ymm0h"):
        xstate.read(area[: xstate.LEGACY_BYTES], "ymm0h")


@pytest.mark.parametrize("tag", range(4))
@pytest.mark.parametrize("top", range(8))
def test_tag_word(tag: int, top: int) -> None:
    """ST0, which is register `top`, holds what its tag says; the others are empty."""
    area = bytearray(xstate.LEGACY_BYTES)
    xstate.write(area, "fstat", top << 11)
    xstate.write(area, "st0", (0x3FFF << 64 | 1 << 63, 0, 0x7FFF << 64 | 1 << 63, 1)[tag])
    word = 0xFFFF & ~(3 << 2 * top) | tag << 2 * top
    xstate.write(area, "ftag", word)
    assert xstate.read(area, "ftag") == word


def test_vector_registers_are_those_of_the_debugger() -> None:
    shown = {name: register.bits for name, register in BY_NAME.items() if register.group is Group.SSE and name != "mxcsr"}
    assert shown == {name: 8 * place.size for name, place in xstate.VECTORS.items()}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_leaf_0d(model: CpuModel) -> None:
    """SDM vol. 2, CPUID leaf 0Dh: masks and sizes, then a subleaf for each component behind the header."""
    supported = xstate.user_mask(model.has)
    for xcr0 in (1, 3, supported):
        eax, ebx, ecx, edx = leaf(model, 0xD, 0, Dynamic(xcr0=xcr0))
        assert (eax, ebx, ecx, edx) == (supported, xstate.standard_size(xcr0), xstate.standard_size(supported), 0)
        assert leaf(model, 0xD, 1, Dynamic(xcr0=xcr0))[1] == xstate.compacted_size(xcr0)
    for one in xstate.COMPONENTS:
        there = one.extended and one.bit & supported
        assert leaf(model, 0xD, one.number, Dynamic())[1] == (one.offset if there else 0) or not one.extended
    assert leaf(model, 0xD, 63, Dynamic()) == (0, 0, 0, 0)


def test_sizes() -> None:
    assert [xstate.standard_size(mask) for mask in (0, 1, 3, 7, 4)] == [576, 576, 576, 832, 832]
    assert [xstate.compacted_size(mask) for mask in (0, 1, 3, 7, 4)] == [576, 576, 576, 832, 832]
    assert xstate.compacted_offsets(7) == {2: 576}
