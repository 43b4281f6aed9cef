"""The evaluator by itself: operations against numbers worked out by hand, control flow, memory, and what it refuses."""

from collections.abc import Callable

import pytest

from trapgate.arch.flags import AF, CF, OF, PF, SF, ZF
from trapgate.isa import catalog
from trapgate.isa.evaluate import Ending, Host, HostInstruction, OutOfReach, Undefined, evaluate
from trapgate.isa.flags import read as read_flags
from trapgate.isa.state import TLB_ENTRIES, offset
from trapgate.isa.vocabulary import TRANSIENTS, Trace, Value

FORMS = {form.name: form for form in catalog.forms()}


def outcome(body: Callable[[Trace], Value], **transients: int) -> int:
    """The 64-bit result of a body that computes one value."""
    m = Trace()
    m.result(body(m).zext(64))
    ending = evaluate(m, Host(), dict.fromkeys(TRANSIENTS, 0) | transients)
    assert ending.how == "return"
    assert ending.value is not None
    return ending.value


def run(name: str, host: Host, holes: dict[str, int] | None = None, **transients: int) -> tuple[Ending, dict[str, int]]:
    """Evaluate a form; how it ended and the transients it leaves."""
    values = dict.fromkeys(TRANSIENTS, 0) | transients
    return evaluate(FORMS[name].trace(), host, values, holes), values


def put(host: Host, name: str, value: int) -> None:
    host.state[offset(name) : offset(name) + 8] = value.to_bytes(8, "little")


def get(host: Host, name: str) -> int:
    return int.from_bytes(host.state[offset(name) : offset(name) + 8], "little")


def status(host: Host) -> int:
    """The six flags, by the body that reads them."""
    m = Trace()
    m.result(read_flags(m))
    value = evaluate(m, host, {}).value
    assert value is not None
    return value


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (lambda m: m["T0"].trunc(8) + 1, 0x00),
        (lambda m: m["T0"].trunc(8) - 0x80, 0x7F),
        (lambda m: -m["T1"], (1 << 64) - 0x12345678),
        (lambda m: m["T0"].trunc(16).sext(64).sar(4), (1 << 64) - 1),
        (lambda m: m["T1"].trunc(32).bswap(), 0x78563412),
        (lambda m: m["T1"].trunc(32).leading_zeros(), 3),
        (lambda m: m["T1"].trunc(32).trailing_zeros(), 3),
        (lambda m: m["T2"].leading_zeros() + m["T2"].trailing_zeros(), 128),
        (lambda m: m["T1"].popcount(), 13),
        (lambda m: m["T1"].trunc(32).rotl(m.const(36, 32)), 0x23456781),
        (lambda m: m["T1"].trunc(32).rotr(m.const(4, 32)), 0x81234567),
        (lambda m: m["T0"].trunc(8).slt(1), 1),
        (lambda m: m["T0"].trunc(8).ult(1), 0),
        (lambda m: m["T0"].trunc(8).sle(-1), 1),
        (lambda m: (m["T1"] == 0x12345678).select(m.const(5, 64), m.const(6, 64)), 5),
        (lambda m: m.emit("udiv", 64, m["T1"], m.const(0x1000, 64)), 0x12345),
        (lambda m: m.emit("urem", 64, m["T1"], m.const(0x1000, 64)), 0x678),
        (lambda m: m.emit("fshl", 16, m.const(0x1234, 16), m.const(0xABCD, 16), m.const(20, 16)), 0x234A),
        (lambda m: m.emit("fshr", 16, m.const(0x1234, 16), m.const(0xABCD, 16), m.const(4, 16)), 0x4ABC),
    ],
)
def test_operations(body: Callable[[Trace], Value], expected: int) -> None:
    assert outcome(body, T0=0xFFFF, T1=0x12345678) == expected


def test_loops_variables_and_otherwise() -> None:
    m = Trace([64])
    total, left = m.variable(64, 0), m.variable(64, m.arguments[0])
    with m.loop():
        with m.when(left.value == 0):
            m.leave()
        with m.when(left.value.bit(0)):
            total.set(total.value + left.value)
        with m.otherwise():
            total.set(total.value + 100)
        left.set(left.value - 1)
    m.result(total.value)
    assert evaluate(m, Host(), {}, arguments=[5]) == Ending("return", value=5 + 100 + 3 + 100 + 1)


def test_a_called_function_gets_its_arguments() -> None:
    m = Trace()
    m.result(m.call("walk", 64, m["EA"], 7))
    host = Host(functions={"walk": lambda address, wanted: address * 10 + wanted})
    assert evaluate(m, host, {"EA": 4}) == Ending("return", value=47)


@pytest.mark.parametrize(
    ("name", "a", "b", "result", "flags"),
    [
        ("add.RR.8", 0x7F, 0x01, 0x80, SF | OF | AF),
        ("add.RR.8", 0xFF, 0x01, 0x00, ZF | PF | CF | AF),
        ("sub.RR.8", 0x00, 0x01, 0xFF, SF | PF | CF | AF),
        ("sub.RR.16", 0x8000, 0x0001, 0x7FFF, OF | PF | AF),
        ("xor.RR.64", 0x5A, 0x5A, 0x00, ZF | PF),
        ("sub.RR.32", 0xAABBCCDD_00000005, 3, 2, 0),
    ],
)
def test_arithmetic_and_its_flags(name: str, a: int, b: int, result: int, flags: int) -> None:
    """Values of SDM vol. 1, 3.4.3.1: worked out by hand."""
    host = Host()
    put(host, "r8", a)
    put(host, "r9", b)
    ending, _ = run(name, host, {"R0": offset("r8"), "R1": offset("r9")})
    assert ending == Ending("jump", "NEXT")
    assert (get(host, "r8"), status(host)) == (result, flags)


def test_branches_and_dead_flags() -> None:
    host = Host()
    put(host, "r8", 3)
    assert run("cmp.RI.32.jb", host, {"R0": offset("r8"), "Uimm": 4})[0] == Ending("jump", "TAKEN")
    assert run("cmp.RI.32.jb", host, {"R0": offset("r8"), "Uimm": 3})[0] == Ending("jump", "NEXT")
    before = status(host)
    run("add.RI.32!", host, {"R0": offset("r8"), "Uimm": 0xFFFFFFFF})
    assert (get(host, "r8"), status(host)) == (2, before)


def test_division_faults_or_divides() -> None:
    host = Host()
    for name, value in (("rax", 100), ("rdx", 0), ("r8", 7)):
        put(host, name, value)
    assert run("div.R.64", host, {"R1": offset("r8")})[0].target == "NEXT"
    assert (get(host, "rax"), get(host, "rdx")) == (14, 2)
    put(host, "r8", 0)
    assert run("div.R.64", host, {"R1": offset("r8")})[0] == Ending("jump", "COLD_raise_de")
    assert (get(host, "rax"), get(host, "rdx")) == (14, 2)


def test_memory_behind_the_tlb() -> None:
    page, ram = 0x40_3000, bytearray(range(256)) * 16
    host = Host(regions=[(0x7000_0000, ram)])
    entry = offset("tlb") + (page >> 12) % TLB_ENTRIES * 32
    host.state[entry : entry + 8] = page.to_bytes(8, "little")
    host.state[entry + 24 : entry + 32] = (0x7000_0000 - page).to_bytes(8, "little")
    holes = {"RTLBR": offset("tlb"), "RTLBW": offset("tlb") + 8, "RTLBA": offset("tlb") + 24}
    ending, after = run("load.32", host, holes, EA=page + 0x102)
    assert (ending.target, after["T0"]) == ("NEXT", 0x05040302)
    assert run("load.32", host, holes, EA=page + 0xFFD)[0] == Ending("jump", "COLD_slow_load32")  # crosses the page
    assert run("store.32", host, holes, EA=page + 0x102)[0] == Ending("jump", "COLD_slow_store32")  # may only be read
    host.state[entry + 8 : entry + 16] = page.to_bytes(8, "little")
    assert run("store.16", host, holes, EA=page + 0x102, T0=0xBEEF)[0].target == "NEXT"
    assert ram[0x101:0x105] == b"\x01\xef\xbe\x04"


def test_crc32_is_castagnoli() -> None:
    """The check value of CRC-32C: E3069283h for "123456789"."""
    host = Host()
    put(host, "r8", 0xFFFFFFFF)
    run("crc32.T.64", host, {"R0": offset("r8")}, T0=int.from_bytes(b"12345678", "little"))
    run("crc32.T.8", host, {"R0": offset("r8")}, T0=ord("9"))
    assert get(host, "r8") ^ 0xFFFFFFFF == 0xE3069283


def test_what_it_refuses() -> None:
    with pytest.raises(HostInstruction, match="stmxcsr") as caught:
        run("stmxcsr", Host())
    assert isinstance(caught.value, NotImplementedError)
    assert caught.value.template == "stmxcsr ($0)"
    with pytest.raises(Undefined, match="64 bits by 64"):
        outcome(lambda m: m["T0"] << m["T1"], T1=64)
    with pytest.raises(Undefined, match="division"):
        outcome(lambda m: m.emit("udiv", 64, m["T0"], m["T1"]))
    with pytest.raises(OutOfReach, match="0x10"):
        outcome(lambda m: m.load(m["HOST"], 32), HOST=0x10)
    with pytest.raises(AssertionError, match="Bimm"):
        run("add.RI.8", Host(), {"R0": offset("rax"), "Bimm": 0x100})
