"""Instructions that differ in constants alone get, moved or copied with a parameter, the code they would get by themselves."""

import ctypes
import random

import pytest

from trapgate.arch.models import CpuModel
from trapgate.isa.state import MODE_CODE64
from trapgate.memory import Ram
from trapgate.soft import templates
from trapgate.soft.codebuffer import CodeBuffer
from trapgate.soft.state import CpuState
from trapgate.soft.templates import Templates
from trapgate.soft.translate import Translator
from trapgate.stencil.cache import Cache
from trapgate.stencil.library import Library, load_library

AT = 0x1000
USER = MODE_CODE64 | 3 << 3
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
FAMILIES = {
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


class Copying:
    """A translator, and what it makes of instruction bytes at one place."""

    def __init__(self, library: Library) -> None:
        self.ram, self.state, self.code = Ram(1 << 20), CpuState(), CodeBuffer(library, 16 << 20)
        self.state.ram_base = self.ram.host_base
        self.state.code_base, self.state.code_write = self.code.base, self.code.written_at
        self.translator = Translator(self.ram, self.code, self.state, CpuModel.parse("EPYC-Turin"))
        self._copy = self.code.function("copy_block", 64, 3)

    def block(self, raw: bytes, rip: int) -> bytes:
        """The host code of the block at RIP, numbers of Python's instructions aside."""
        self.ram.write(AT, raw + b"\x0f\x0b")
        found = self.translator.block(AT, USER, rip, lambda: 0)
        self.state.code_end = self.code.first
        start = self._copy(ctypes.addressof(self.state), found.record, rip, found.host)
        return ctypes.string_at(self.code.written_at + start, self.state.code_end - start)


@pytest.fixture(scope="module")
def library() -> Library:
    return load_library(Cache())


@pytest.mark.parametrize("name", FAMILIES)
def test_members_of_a_family_get_their_own_code(name: str, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    start, values, end = FAMILIES[name]
    size = 1 if values is SMALL else 2 if name == "cut jump" else 4
    order = [v for v in values if -(1 << 8 * size - 1) <= v < 1 << 8 * size - 1] * 2
    random.Random(name).shuffle(order)
    members = [bytes.fromhex(start) + value.to_bytes(size, "little", signed=True) + bytes.fromhex(end) for value in order]
    if name == "undefined":
        members = [bytes.fromhex(start)]
    clever = Copying(library)
    found = [clever.block(raw, 0x400000 + 16 * n) for n, raw in enumerate(members)]
    monkeypatch.setattr(templates, "addresses", lambda *_: ())
    monkeypatch.setattr(templates, "variable", lambda *_: (0, 0))
    plain = Copying(library)
    plain.translator.known_blocks.instructions.fill(clever.translator.instructions.raws)
    for n, raw in enumerate(members):
        assert found[n] == plain.block(raw, 0x400000 + 16 * n), raw.hex()


def test_a_family_is_lowered_twice(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    lowered: list[bytes] = []
    original = Templates._lowered

    def note(self: Templates, raw: bytes, mode: int, *rest: object) -> object:
        lowered.append(raw)
        return original(self, raw, mode, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Templates, "_lowered", note)
    bench = Copying(library)
    for distance in range(0x100, 0x1100, 0x100):
        bench.block(b"\xe8" + distance.to_bytes(4, "little"), 0x400000)
        bench.block(b"\x48\x8b\x80" + distance.to_bytes(4, "little"), 0x400000)
    assert len([raw for raw in lowered if raw[0] == 0xE8]) == 2
    assert len([raw for raw in lowered if raw[0] == 0x48]) == 2
