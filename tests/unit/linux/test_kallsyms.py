"""Symbols out of a kernel's tables, in every layout; and memory that only looks like them."""

import time
from contextlib import suppress
from functools import cache
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trapgate.linux.kallsyms import KallsymsError, KernelSymbol, TooSlow, kernel_symbols
from unit.linux.tables import SINGLE, Release, image

START = 0xFFFF_FFFF_9380_0000
DIGITS = b"".join(b"%d\0" % digit for digit in range(10))


def symbols(count: int, seed: int, start: int = START, longest: int = 40) -> list[KernelSymbol]:
    """Sorted by address, as the tables of a kernel are: per-CPU offsets first, then code and data."""
    random = Random(seed)
    address, out = start, [KernelSymbol(8 * number, f"Apercpu{number}") for number in range(4)]
    for number in range(count):
        name = "".join(random.choices(SINGLE[10:], k=random.randint(1, longest)))
        out.append(KernelSymbol(address, random.choice("TtDdRrBbWw") + name + str(number)))
        address += random.randint(0, 400)
    return out


@pytest.mark.parametrize("release", Release, ids=lambda release: release.name)
@pytest.mark.parametrize("seed", range(4))
def test_every_layout(release: Release, seed: int) -> None:
    made = symbols(3000 + seed, seed)
    if release is Release.RELATIVE:
        made = made[4:]  # those of such kernels are addresses, all
    memory = image(made, START, release, seed=seed)
    assert kernel_symbols(memory, START, made[2000].address) == sorted(made)


@pytest.mark.parametrize("release", [Release.BEFORE, Release.BEHIND], ids=lambda release: release.name)
def test_pointers_of_32_bits(release: Release) -> None:
    made = symbols(3000, 5, start=0xC100_0000)
    assert kernel_symbols(image(made, 0xC100_0000, release, word=4), 0xC100_0000, made[100].address, word=4) == sorted(made)


@pytest.mark.parametrize("long", [True, False], ids=["long lengths", "one byte"])
def test_names_of_more_than_127_tokens(long: bool) -> None:
    made = symbols(2600, 6, longest=60)
    made[300] = KernelSymbol(made[300].address, "T" + "q" * (200 if long else 250))
    memory = image(made, START, Release.BEHIND, long=long, seed=6)
    assert kernel_symbols(memory, START, made[7].address) == sorted(made)


def test_nobody_is_believed_without_the_anchor() -> None:
    made = symbols(3000, 7)
    with pytest.raises(KallsymsError):
        kernel_symbols(image(made, START, Release.BEHIND), START, made[-1].address + 1)


def test_nobody_waits_longer_than_is_said() -> None:
    made = symbols(2500, 8)[4:]
    memory = _whole(Release.BEHIND)
    assert kernel_symbols(memory, START, made[0].address, until=time.monotonic() + 1000)
    with pytest.raises(TooSlow):
        kernel_symbols(memory, START, made[0].address, until=time.monotonic())


def test_nor_in_memory_of_zeros_before_tokens() -> None:
    memory = _whole(Release.BEHIND)
    zeros = bytes(4 << 20) + memory[memory.index(DIGITS) - 4096 :]
    with pytest.raises(TooSlow):
        kernel_symbols(zeros, START, START + 3, until=time.monotonic())


@cache
def _whole(release: Release) -> bytes:
    return image(symbols(2500, 8)[4:], START, release, before=64)


@settings(max_examples=60)
@given(st.data())
def test_damaged_tables_are_refused_or_read(data: st.DataObject) -> None:
    made = symbols(2500, 8)[4:]
    memory = bytearray(_whole(data.draw(st.sampled_from(Release))))
    for _ in range(data.draw(st.integers(1, 20))):
        at = data.draw(st.integers(0, len(memory) - 8))
        memory[at : at + data.draw(st.integers(1, 8))] = data.draw(st.binary(min_size=1, max_size=8))
    cut = data.draw(st.integers(0, len(memory)))
    with suppress(KallsymsError):
        kernel_symbols(bytes(memory[:cut]), START, made[1000].address)


@pytest.mark.parametrize(
    "memory",
    [
        pytest.param(bytes(64 << 20), id="zeros"),
        pytest.param(DIGITS * 400_000, id="digits"),
        pytest.param(b"\0" * 4096 + DIGITS + b"\0" * 4096, id="digits amid zeros"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_a_guest_cannot_keep_the_search_busy(memory: bytes) -> None:
    began = time.process_time()
    with pytest.raises(KallsymsError):
        kernel_symbols(memory, START, START)
    assert time.process_time() - began < 60


def test_markers_without_an_end_cost_a_bounded_time() -> None:
    made = symbols(2500, 9)
    memory = image(made, START, Release.BEHIND, before=0)
    at = memory.index(DIGITS)
    rows = b"".join((600 * number).to_bytes(4, "little") for number in range(16))
    hostile = rows * (2 << 14) + memory[at - 4096 :]
    with pytest.raises(KallsymsError):
        kernel_symbols(hostile, START, START + 3)
