"""A wrong CPU is caught: every kind of difference is told, and only undefined bits are let off."""

import random
from collections.abc import Callable, Iterable, Iterator

import pytest

from . import catalog
from .compare import Case, compare, explain
from .host import HostCpu
from .inputs import make_state
from .sample import choose, judge
from .state import AF, CF, OF, PF_FAULT, RAX, RDI, RSI, SCRATCH, UD, ZF, Fault, Outcome, Runner, State


class Wrong:
    """A CPU that spoils every outcome of another."""

    def __init__(self, inner: Runner, spoil: Callable[[Outcome], Outcome]) -> None:
        self.inner, self.spoil = inner, spoil

    def run(self, code: bytes, state: State) -> Outcome:
        """The spoilt outcome."""
        return self.spoil(self.inner.run(code, state))

    def run_many(self, cases: Iterable[tuple[bytes, State]]) -> Iterator[Outcome]:
        """The spoilt outcomes."""
        return map(self.spoil, self.inner.run_many(list(cases)))


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


SPOILT: dict[str, Callable[[Outcome], Outcome]] = {
    "CF is": lambda o: o._replace(rflags=o.rflags ^ CF),
    "rax is": lambda o: o._replace(gpr=(o.gpr[RAX] ^ 1 << 63, *o.gpr[1:])),
    "r15 is": lambda o: o._replace(gpr=(*o.gpr[:15], o.gpr[15] ^ 1)),
    "xmm15 is": lambda o: o._replace(fx=_flip(o.fx, 415)),
    "st7 is": lambda o: o._replace(fx=_flip(o.fx, 32 + 7 * 16 + 9)),
    "MXCSR is": lambda o: o._replace(fx=_flip(o.fx, 24)),
    "memory at 0x10001fff (1 bytes) is": lambda o: o._replace(memory=_flip(o.memory, 0x1FFF)),
    "rip is": lambda o: o._replace(rip=o.rip + 1),
    "ended with #UD": lambda o: o._replace(fault=Fault(4, UD)),
}


@pytest.mark.parametrize("sentence", SPOILT)
def test_every_kind_of_error_is_told(host: HostCpu, sentence: str) -> None:
    cases = choose(catalog.forms("add"), 20, "spoilt")
    texts = judge(cases, host, Wrong(host, SPOILT[sentence]))
    assert len(texts) >= 18
    assert all(sentence in text for text in texts)


def test_undefined_flags_are_let_off_and_no_others(host: HostCpu) -> None:
    case = choose(catalog.forms("and"), 1, "undefined")[0]
    right = host.run(case.form.code, case.state)
    assert compare(case, right, right._replace(rflags=right.rflags ^ AF)) == []
    assert compare(case, right, right._replace(rflags=right.rflags ^ ZF)) != []


def test_a_shift_by_one_defines_of_and_one_by_two_does_not(host: HostCpu) -> None:
    for form in catalog.forms("shl"):
        if form.text in ("shl ebx,1", "shl ebx,5"):
            case = Case(form, make_state(form, random.Random(2)))
            right = host.run(form.code, case.state)
            wrong = compare(case, right, right._replace(rflags=right.rflags ^ OF))
            assert bool(wrong) == (form.text == "shl ebx,1")


@pytest.mark.parametrize(("address", "right"), [(8, True), (9, False), (4, True), (SCRATCH, False)])
def test_of_two_operands_that_are_not_there_either_may_fault(address: int, right: bool) -> None:
    """REPE CMPSB; RSI is 4, RDI is 8. An operand that is there cannot fault."""
    form = next(form for form in catalog.forms("cmpsb") if form.code == b"\xf3\xa6")
    state = make_state(form, random.Random(1))
    gpr = list(state.gpr)
    gpr[RSI], gpr[RDI] = 4, 8 if address < SCRATCH else SCRATCH
    host = Outcome(tuple(gpr), state.rflags, state.fx, state.memory, 0, Fault(11, PF_FAULT, 4, 4))
    ours = host._replace(fault=Fault(11, PF_FAULT, 4, address))
    assert (compare(Case(form, state._replace(gpr=tuple(gpr))), host, ours) == []) == right


def test_a_message_says_what_ran_on_what(host: HostCpu) -> None:
    form = next(form for form in catalog.forms("add") if form.text == "add bl,cl")
    case = Case(form, make_state(form, random.Random(4)))
    right = host.run(form.code, case.state)
    text = explain(case, compare(case, right, right._replace(rip=9)))
    assert "add bl,cl" in text
    assert form.code.hex() in text
    assert f"rbx={case.state.gpr[3]:#x}" in text
    assert "rip is code+0x9" in text
