"""Instructions that differ in constants alone get, from their pattern, the code they would get by themselves."""

import random

import pytest

from trapgate.isa.modes import (
    CODE32,
    CODE64,
    FLAT,
    NO_SSE,
    NO_X87,
    SSE_UNMASKED,
    STACK32,
)
from trapgate.soft.decode.lowering import Lowering
from trapgate.soft.state.codebuffer import CodeBuffer
from trapgate.stencil.cache import Cache
from trapgate.stencil.library import load_library
from unit.soft.plain import Native, Plain

COMMON = (
    "89 8b 01 29 31 39 83 81 c7 0f84 0f8d 74 7c e8 48 4c 65 66 67 f0 f3 85 3b 80 c6 68 8d 9b d9 dd 0f28 0f6f 660f58"  # first bytes
)
FLOATING = (0, 0, NO_X87, NO_SSE, NO_X87 | NO_SSE, SSE_UNMASKED)
USER = CODE64 | 3 << 3
SMALL = (0, 1, -1, 8, 127, -128)
LARGE = (
    0,
    1,
    -1,
    0x1234,
    -0x1234,
    0x3FFFFFFF,
    0x40000000,
    0x46D51772,
    0x7FFFFFFF,
    -0x80000000,
    -0x7EDCBA99,
    -0x5EDCBA99,
    -0x10000,
    -0xFFFF,
)
PATTERNS = {
    "load": ("488b40", SMALL, ""), "load far": ("488b80", LARGE, ""), "store byte": ("4088b4cb", LARGE, ""),
    "RIP-relative load": ("488b05", LARGE, ""), "percpu": ("654c8b3d", LARGE, ""),
    "percpu absolute": ("65488b0425", LARGE, ""),
    "absolute": ("488b0425", LARGE, ""), "percpu increment": ("65ff05", LARGE, ""),
    "compare memory": ("4881b8", LARGE, "10000000"),
    "move immediate": ("48c7c7", LARGE, ""), "move unsigned": ("bf", LARGE, ""), "movabs": ("48b8", LARGE, "ffffffff"),
    "compare immediate": ("4881f8", LARGE, ""), "test immediate": ("a9", LARGE, ""),
    "multiply": ("69c0", LARGE, ""),
    "push": ("68", LARGE, ""),
    "store immediate": ("48c700", LARGE, ""), "lea": ("488d80", LARGE, ""),
    "lea RIP": ("488d3d", LARGE, ""),
    "EIP-relative": ("678b05", LARGE, ""),
    "call": ("e8", LARGE, ""), "jump": ("e9", LARGE, ""), "short jump": ("eb", SMALL, ""), "branch": ("0f84", LARGE, ""),
    "short branch": ("7f", SMALL, ""), "loop": ("e2", SMALL, ""), "jrcxz": ("e3", SMALL, ""), "cut jump": ("66e9", (0, 5), ""),
    "movaps": ("0f2880", LARGE, ""), "x87": ("dd80", LARGE, ""), "locked": ("f04883a8", LARGE, "01"),
    "pop": ("8f80", LARGE, ""),
    "compare and far branch": ("4839c20f87", LARGE, ""),
    "compare and branch": ("4839c274", SMALL, ""), "compare an address and branch": ("4881f8", LARGE, "7405"),
    "compare with memory and branch": ("483b80", LARGE, "0f8400010000"), "undefined": ("0f0b", (0,), ""),
    "python": ("0f01b8", LARGE, ""),
}  # fmt: skip


@pytest.fixture(scope="module")
def code() -> CodeBuffer:
    return CodeBuffer(load_library(Cache()), 16 << 20)


def compare(native: Native, data: bytes, mode: int, rip: int) -> None:
    """The block that native code makes of the first of these bytes is the plain one."""
    guest, found = native.placed(data, mode, rip)
    plain = Plain(native.code, native.translator.instructions)
    assert found == plain.placed(guest, mode, rip), guest.hex()


@pytest.mark.parametrize("name", PATTERNS)
def test_members_of_a_pattern_get_their_own_code(name: str, code: CodeBuffer) -> None:
    start, values, end = PATTERNS[name]
    size = 1 if values is SMALL else 2 if name == "cut jump" else 4
    order = [v for v in values if -(1 << 8 * size - 1) <= v < 1 << 8 * size - 1] * 2
    random.Random(name).shuffle(order)
    members = [bytes.fromhex(start) + value.to_bytes(size, "little", signed=True) + bytes.fromhex(end) for value in order]
    if name == "undefined":
        members = [bytes.fromhex(start)]
    native = Native(code)
    for n, raw in enumerate(members):
        compare(native, raw + b"\x0f\x0b", USER, 0x400000 + 16 * n)


@pytest.mark.parametrize("mode", [USER, CODE32 | STACK32 | FLAT, 0], ids=["64-bit", "32-bit", "16-bit"])
def test_blocks_of_any_bytes_are_those_that_the_rules_give(mode: int, code: CodeBuffer) -> None:
    chance, native, ends = random.Random(mode), Native(code), bytes.fromhex("0f0b")
    common = [bytes.fromhex(one) for one in COMMON.split()]
    for n in range(1500):
        data = b"".join(chance.choice(common) + chance.randbytes(chance.choice((1, 2, 3, 5, 6))) for _ in range(6))
        compare(native, data + ends * 8, mode | chance.choice(FLOATING), 0x7000 + n)


def test_a_pattern_is_lowered_twice(code: CodeBuffer, monkeypatch: pytest.MonkeyPatch) -> None:
    lowered: list[bytes] = []
    original = Lowering.lowered

    def note(self: Lowering, raw: bytes, mode: int, *rest: object) -> object:
        lowered.append(raw)
        return original(self, raw, mode, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Lowering, "lowered", note)
    native = Native(code)
    for distance in range(0x100, 0x1100, 0x100):
        native.placed(b"\xe8" + distance.to_bytes(4, "little"), USER, 0x400000)
        native.placed(b"\x48\x8b\x80" + distance.to_bytes(4, "little"), USER, 0x400000)
    assert len([raw for raw in lowered if raw[0] == 0xE8]) == 2
    assert len([raw for raw in lowered if raw[0] == 0x48]) == 2
