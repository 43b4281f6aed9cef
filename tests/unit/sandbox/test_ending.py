"""The machine code that ends a process under a filter is what is said beside it, and finds what lies behind it."""

from iced_x86 import Decoder, Formatter, FormatterSyntax, OpKind

from trapgate.sandbox import ending
from trapgate.sandbox.calls import NUMBERS
from trapgate.sandbox.policy import HOSTILE


def test_the_code_is_what_is_said_beside_it() -> None:
    code = b"".join(bytes.fromhex(text) for text, _ in ending.CODE)
    formatter = Formatter(FormatterSyntax.NASM)
    formatter.branch_leading_zeros = False
    formatter.rip_relative_addresses = False
    formatter.show_branch_size = False
    found = list(Decoder(64, code))
    assert [formatter.format(one).replace("[rel ", "[") for one in found] == [words for _, words in ending.CODE]
    starts = {one.ip for one in found}
    assert all(one.near_branch_target in starts for one in found if one.op0_kind == OpKind.NEAR_BRANCH64)
    places = {one.memory_displacement for one in found if one.is_ip_rel_memory_operand}
    assert places == {ending.TERMINAL, ending.HAS_TERMINAL, ending.TABLE, ending.LINES}
    assert len(code) <= ending.TERMINAL


def test_each_call_has_its_line() -> None:
    names = HOSTILE.split()
    data = ending.image(names, b"T" * 60)
    assert data[ending.TERMINAL : ending.TABLE] == b"T" * 60 + b"\1\0\0\0"
    lines = [data[at : at + 256] for at in range(ending.LINES, len(data), 256)]
    words = [line[: line[-1]].decode() for line in lines]
    named = {NUMBERS[name]: name for name in names}
    for number in range(ending.LINES - ending.TABLE):
        assert ending.STOPPED.format(named.get(number, ending.OTHER)) in words[data[ending.TABLE + number]]
    assert all(line.startswith("trapgate: error: ") and line.endswith("\n") for line in words)
    assert not ending.image(names, None)[ending.HAS_TERMINAL]
