"""IN, OUT, INS and OUTS (SDM vol. 1, chapter 19)."""

import pytest

from trapgate.exits import PortRead, PortWrite
from trapgate.soft.state.fault import GuestFault
from unit.soft.bench import CODE, DATA, TSS, Bench


@pytest.mark.parametrize(
    ("code", "size", "left"), [("e460", 1, 0x1122334455667788), ("66ed", 2, 0x112233445566BEEF), ("ed", 4, 0xDEADBEEF)]
)
def test_in(code: str, size: int, left: int) -> None:
    bench = Bench("64")
    bench.st.rax, bench.st.rdx = 0x1122334455667788, 0xFFFF03F8
    assert bench.run(code) == PortRead(0x60 if size == 1 else 0x3F8, size)
    assert bench.cpu.pending_read is not None
    bench.cpu.complete(0xDEADBEEF if size > 1 else 0x88)
    assert bench.st.rax == left


def test_out() -> None:
    bench = Bench("64")
    bench.st.rax, bench.st.rdx = 0x1122334455667788, 0x3F8
    assert bench.run("ee") == PortWrite(0x3F8, 1, 0x88)
    assert bench.run("e7f4") == PortWrite(0xF4, 4, 0x55667788)


def allowed(bench: Bench, code: str) -> bool:
    """Whether the ports may be reached."""
    try:
        bench.run(code)
    except GuestFault as fault:
        return (fault.vector, fault.error) != (13, 0)
    return True


def test_the_bitmap() -> None:
    bench = Bench("64", cpl=3)
    bench.ram.write(TSS + 0x80, b"\xff" * 0x180)
    bench.st.rdx = 0x3F8
    assert not allowed(bench, "ee")
    bench.ram.write_int(TSS + 0x80 + 0x7F, 1, 0xFE)
    assert allowed(bench, "ee")
    assert not allowed(bench, "66ef")  # 3F9h is closed
    bench.ram.write_int(TSS + 0x80 + 0x7F, 1, 0x7F)
    bench.st.rdx = 0x3FF
    assert allowed(bench, "ee")
    assert not allowed(bench, "66ef")  # 400h lies in the next byte
    bench.st.tr_limit = 0x80 + 0x7F  # two bytes are read
    assert not allowed(bench, "ee")
    bench.st.rflags |= 3 << 12
    bench.cpu.update_mode()
    assert allowed(bench, "66ef")


def test_virtual_8086_mode_has_the_bitmap_only() -> None:
    bench = Bench("v86")
    bench.ram.write(TSS + 0x80, b"\xff" * 0x180)
    bench.st.rflags |= 3 << 12
    bench.cpu.update_mode()
    assert not allowed(bench, "e660")


def test_rep_ins_goes_element_by_element() -> None:
    bench = Bench("64")
    st = bench.st
    st.rcx, st.rdi, st.rdx = 2, DATA, 0x1F0
    for value, rip in ((0x1111, CODE), (0x2222, CODE + 3)):
        assert bench.run("66f36d") == PortRead(0x1F0, 2)
        bench.cpu.complete(value)
        assert st.rip == rip
    assert (bench.ram.read_int(DATA, 4), st.rdi, st.rcx) == (0x22221111, DATA + 4, 0)
    assert bench.run("66f36d") is None
    assert st.rip == CODE + 6


def test_outs_backwards_with_an_override() -> None:
    bench = Bench("64")
    st = bench.st
    st.gs_base, st.rsi, st.rdx = DATA, 8, 0xE9
    st.rflags |= 1 << 10
    bench.ram.write(DATA + 8, b"X")
    assert bench.run("656e") == PortWrite(0xE9, 1, ord("X"))
    assert st.rsi == 7


def test_ins_needs_a_writable_page_before_the_port_is_read() -> None:
    bench = Bench("64")
    bench.st.rdi, bench.st.rdx = 0x40000000, 0x60
    with pytest.raises(GuestFault) as caught:
        bench.run("6c")
    assert (caught.value.vector, caught.value.error) == (14, 2)
    assert bench.st.rdi == 0x40000000


def test_16_bit_addresses_wrap() -> None:
    bench = Bench("real")
    bench.st.rsi, bench.st.rcx, bench.st.rdx = 0xFFFFF, 1, 0x60
    bench.run("f36e")
    assert (bench.st.rsi, bench.st.rcx) == (0xF0000, 0)
