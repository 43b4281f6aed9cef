"""What a step on KVM must make up for: handlers, flags images, branches."""

import pytest

from trapgate.kvm.stepping import Handler, Nets, Tables, branched, decode, handler, popped_flags, pushed_flags, tf_after

TF = 1 << 8
MEMORY = bytearray(0x2000)


def read(address: int, length: int) -> bytes:
    return bytes(MEMORY[address : address + length])


def gate64(vector: int, offset: int) -> None:
    raw = offset & 0xFFFF | 8 << 16 | 0x8E00 << 32 | (offset >> 16 & 0xFFFF) << 48 | offset >> 32 << 64
    MEMORY[0x100 + 16 * vector : 0x110 + 16 * vector] = raw.to_bytes(16, "little")


LONG = Tables(0x100, 0xFFF, 64, syscall=0xFFFF_8000_0000_1000)
ENTRY = 0xFFFF_FFFF_8123_4567


def test_long_mode_gates_and_their_frames() -> None:
    gate64(14, ENTRY)
    gate64(3, ENTRY + 8)
    assert handler(read, LONG, 14) == Handler(ENTRY, 24)  # an error code lies below RIP
    assert handler(read, LONG, 3) == Handler(ENTRY + 8, 16)


def test_gates_that_are_not_there() -> None:
    MEMORY[0x100 + 16 * 20 : 0x110 + 16 * 20] = bytes(16)
    assert handler(read, LONG, 20) is None  # not present
    assert handler(read, Tables(0x100, 16 * 3 + 14, 64, 0), 3) is None  # beyond the limit
    assert handler(read, Tables(0x1FF8, 0xFFF, 64, 0), 0) is None  # unmapped


def test_protected_and_real_mode() -> None:
    MEMORY[0x800:0x808] = bytes.fromhex("ffff0010 009bcf00")  # base 1000h
    MEMORY[0x900 + 8 * 13 : 0x908 + 8 * 13] = (0x4567 | 0 << 16 | 0x8E00 << 32 | 0x12 << 48).to_bytes(8, "little")
    assert handler(read, Tables(0x900, 0x7FF, 32, 0, gdt_base=0x800), 13) == Handler(0x12_4567 + 0x1000, 12)
    MEMORY[0xC:0x10] = bytes.fromhex("34 12 00 f0")
    assert handler(read, Tables(0, 0x3FF, 16, 0), 3) == Handler(0xF1234, 4)


@pytest.mark.parametrize(
    ("code", "first"),
    [
        ("48 f7 f1", 0),
        ("0f 23 f8", 1),
        ("d8 c1", 16),
        ("8e d8", 13),
        ("0f b5 07", 13),
        ("cd 30", 0x30),
        ("cc", 3),
        ("f1", 1),
        ("90", 14),
        ("48 8b 06", 14),
    ],
)
def test_the_likeliest_handler_comes_first(code: str, first: int) -> None:
    for vector in (0, 1, 3, 6, 7, 11, 12, 13, 14, 16, 0x30):
        gate64(vector, 0x1000 + vector)
    found = Nets().of(read, LONG, decode(bytes.fromhex(code), 64))
    assert found[0].entry == 0x1000 + first
    assert 0x1000 + 14 in [one.entry for one in found]


def test_gates_are_read_at_once() -> None:
    for vector in (6, 7, 13, 14):
        gate64(vector, 0x1000 + vector)
    asked: list[int] = []

    def counted(address: int, length: int) -> bytes:
        asked.append(address)
        return read(address, length)

    assert len(Nets().of(counted, LONG, decode(b"\x90", 64))) == 4
    assert asked == [LONG.idt_base]


def test_gates_that_have_changed_are_seen() -> None:
    gate64(14, 0x1000)
    found, nop = Nets(), decode(b"\x90", 64)
    assert [found.of(read, LONG, nop)[0].entry for _ in range(2)] == [0x1000, 0x1000]
    gate64(14, 0x2000)
    assert found.of(read, LONG, nop)[0].entry == 0x2000
    gate64(0x30, 0x3000)
    int30 = decode(b"\xcd\x30", 64)
    assert found.of(read, LONG, int30)[0].entry == 0x3000
    gate64(0x30, 0x4000)  # beyond those of exceptions
    assert found.of(read, LONG, int30)[0].entry == 0x4000
    assert found.of(read, Tables(0x100, 0xFFF, 64, syscall=0x5000), decode(b"\x0f\x05", 64))[0].entry == 0x5000
    assert found.of(read, Tables(0x100, 0xFFF, 64, syscall=0x6000), decode(b"\x0f\x05", 64))[0].entry == 0x6000


def test_syscall_ends_at_lstar_with_its_flags_in_r11() -> None:
    assert Nets().of(read, LONG, decode(b"\x0f\x05", 64))[0] == Handler(LONG.syscall, None)


@pytest.mark.parametrize(
    ("code", "pushed", "popped"),
    [("9c", 8, (0, 0)), ("66 9c", 2, (0, 0)), ("9d", 0, (0, 8)), ("48 cf", 0, (16, 8)), ("cf", 0, (8, 4)), ("90", 0, (0, 0))],
)
def test_flags_images(code: str, pushed: int, popped: tuple[int, int]) -> None:
    instruction = decode(bytes.fromhex(code), 64)
    assert (pushed_flags(instruction), popped_flags(instruction)) == (pushed, popped)


def test_tf_behind_an_instruction() -> None:
    popf, syscall, sysret, nop = (decode(bytes.fromhex(code), 64) for code in ("9d", "0f 05", "48 0f 07", "90"))
    assert tf_after(popf, False, TF, 0, 0)
    assert not tf_after(popf, True, 0, 0, 0)
    assert not tf_after(syscall, True, None, 0, TF)
    assert tf_after(syscall, True, None, 0, 0)
    assert tf_after(sysret, False, None, TF, 0)
    assert tf_after(nop, True, None, 0, 0)
    assert not tf_after(None, False, None, TF, 0)


def test_bytes_that_are_no_instruction() -> None:
    assert decode(b"", 64) is None
    assert decode(b"\x0f", 64) is None
    gate64(14, 0x1000 + 14)
    assert Nets().of(read, LONG, None)[0].entry == 0x1000 + 14


def test_branches() -> None:
    jump, conditional, nop = (decode(bytes.fromhex(code), 64) for code in ("eb 00", "74 00", "90"))
    assert branched(jump, 2, 2)
    assert not branched(conditional, 2, 2)
    assert branched(conditional, 8, 2)
    assert not branched(nop, 1, 1)
