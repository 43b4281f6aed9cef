"""Which instructions lock, and what."""

import pytest

from trapgate.finder import locks

LOCK_ADD = bytes.fromhex("f0 83 07 01".replace(" ", ""))  # lock add dword ptr [rdi], 1
LOCKED = {
    "f0830701": ("lock add dword ptr [rdi],1", 4, None, ["rdi"]),
    "8707": ("xchg [rdi],eax", 4, None, ["rdi"]),
    "f0480fc70cb7": ("lock cmpxchg16b [rdi+rsi*4]", 16, None, ["rdi", "rsi"]),
    "f0ff0504000000": ("lock inc dword ptr [rip+4]", 4, 0x100B, ["rip"]),
    "f0ff042540302010": ("lock inc dword ptr [10203040h]", 4, 0x10203040, []),
    "f064ff042508000000": ("lock inc dword ptr fs:[8]", 4, None, ["fs"]),
}


@pytest.mark.parametrize("code", LOCKED)
def test_locked_instructions(code: str) -> None:
    words, size, address, registers = LOCKED[code]
    found = locks.at(bytes.fromhex(code), 0x1000, 64)
    assert found is not None
    assert locks.words(found) == words
    assert (locks.operand_size(found), locks.operand_address(found), locks.operand_registers(found)) == (size, address, registers)


@pytest.mark.parametrize("code", ["830701", "87c7", "90", "f090", "", "f0", "0f0b", "8b07"])
def test_others(code: str) -> None:
    assert locks.at(bytes.fromhex(code), 0x1000, 64) is None


def test_the_one_in_front_of_an_address() -> None:
    code = b"\x55\x48\x89\xe5" + LOCK_ADD + b"\xc3"
    found = locks.ending(code, 0x1000, 0x1008, 64)
    assert found is not None
    assert (found.ip, found.len) == (0x1004, 4)
    for end in (0x1004, 0x1006, 0x1007, 0x1009):
        assert locks.ending(code, 0x1000, end, 64) is None, hex(end)


def test_guesses_end_where_they_must() -> None:
    code = b"\x90" * 11 + LOCK_ADD
    assert [(one.ip, one.len) for one in locks.guesses(code, 0x100F, 64)] == [(0x100B, 4)]
    assert list(locks.guesses(b"\x90" * 15, 0x100F, 64)) == []
    assert list(locks.guesses(b"", 0, 64)) == []


def test_code_of_32_bits() -> None:
    found = locks.at(bytes.fromhex("f0ff0540302010"), 0x1000, 32)
    assert found is not None
    assert locks.operand_address(found) == 0x10203040
