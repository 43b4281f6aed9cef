"""A wrong CPU is caught at the step where it is wrong, though nothing is wrong in the end; only what is undefined is let off."""

import struct
from collections.abc import Callable

import pytest
from iced_x86 import Decoder, Mnemonic

from trapgate.soft.decode.rows import ROWS

from .assemble import assemble
from .compare import Case
from .forms import Form
from .host import HostCpu, HostCpuError
from .soft_tracer import SoftTracer
from .state import AF, CF, CODE, OF, SCRATCH, ZF
from .stepwise import compare_ends, compare_traces
from .test_host import state
from .trace import MOST_STEPS, MXCSR, RECORD_SIZE, RFLAGS, RIP, ST, X87, XMM, Trace, endless

TEXT = """
    mov rbx, 3
    and rcx, rbx
    add rax, rbx
    mov [0x10000100], rax
    movq xmm1, rax
    fld1
    push rax
"""


def _case(text: str) -> Case:
    code = assemble(text)
    return Case(Form(code, Decoder(64, b"\x90", ip=CODE).decode(), "nop", text), state())


def _flip(records: bytes, step: int, at: int, bit: int = 1) -> bytes:
    place = step * RECORD_SIZE + at
    return records[:place] + bytes((records[place] ^ bit,)) + records[place + 1 :]


def _flip_flag(records: bytes, step: int, flag: int) -> bytes:
    place = step * RECORD_SIZE + RFLAGS
    value = struct.unpack_from("<Q", records, place)[0] ^ flag
    return records[:place] + struct.pack("<Q", value) + records[place + 8 :]


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "step 2, add rax,rbx: rax is": lambda r: _flip(r, 2, 0),
    "step 3, mov [10000100h],rax: r15 is": lambda r: _flip(r, 3, 127),
    "step 0, mov rbx,3: rip is": lambda r: _flip(r, 0, RIP),
    "step 4, movq xmm1,rax: xmm1 is": lambda r: _flip(r, 4, XMM + 16),
    "step 5, fld1: st7 is": lambda r: _flip(r, 5, ST + 7 * 16),
    "step 5, fld1: FSW is": lambda r: _flip(r, 5, X87 + 3),
    "step 5, fld1: MXCSR is": lambda r: _flip(r, 5, MXCSR),
    "step 6, push rax: CF is": lambda r: _flip_flag(r, 6, CF),
    "step 1, and rcx,rbx: ZF is": lambda r: _flip_flag(r, 1, ZF),
    "step 2, add rax,rbx: AF is": lambda r: _flip_flag(r, 2, AF),
}


@pytest.mark.parametrize("sentence", SPOILT)
def test_every_kind_of_error_is_told(host: HostCpu, sentence: str) -> None:
    case = _case(TEXT)
    end, trace = next(host.trace_many([(case.form.code, case.state)]))
    assert compare_traces(case, (end, end), (trace, trace)) == []
    found = compare_traces(case, (end, end), (trace, trace._replace(records=SPOILT[sentence](trace.records))))
    instruction, register = sentence.split(": ")
    assert found[0].startswith(f"{instruction} [")
    assert found[1].startswith(register)
    assert len(found) == 2


def test_undefined_flags_are_let_off_until_they_are_defined(host: HostCpu) -> None:
    case = _case("imul rax, rbx\n mov rcx, rdx\n xor rdx, rdx\n inc rsi")
    end, trace = next(host.trace_many([(case.form.code, case.state)]))

    def differs(step: int, flag: int) -> bool:
        return bool(compare_traces(case, (end, end), (trace, trace._replace(records=_flip_flag(trace.records, step, flag)))))

    assert [differs(step, ZF) for step in range(4)] == [False, False, True, True]
    assert [differs(step, AF) for step in range(4)] == [False, False, False, True]
    assert [differs(step, OF) for step in range(4)] == [True] * 4


def test_a_shift_by_zero_defines_nothing_and_leaves_nothing_undefined(host: HostCpu) -> None:
    for count, let_off in ((0, False), (2, True)):
        case = _case(f"mov ecx, {count}\n shl rax, cl")
        end, trace = next(host.trace_many([(case.form.code, case.state)]))
        spoilt = trace._replace(records=_flip_flag(trace.records, 1, OF))
        assert bool(compare_traces(case, (end, end), (trace, spoilt))) == (not let_off)


def test_stores_are_compared_when_they_happen(host: HostCpu) -> None:
    right = _case("mov [0x10000200], rbx\n mov [0x10000200], rcx")
    wrong = _case("mov [0x10000200], rdx\n mov [0x10000200], rcx")
    (end, trace), (other_end, other) = (next(host.trace_many([(case.form.code, case.state)])) for case in (right, wrong))
    assert compare_ends(right, end, other_end, 0) == []
    found = compare_traces(right, (end, other_end), (trace, other))
    assert found[0].startswith("step 0, mov [10000200h],rbx [")
    assert f"the store is {SCRATCH + 0x200:#x}" in found[1]


@pytest.mark.parametrize("by_steps", [False, True])
def test_a_wrong_value_that_is_gone_at_the_end(host: HostCpu, monkeypatch: pytest.MonkeyPatch, by_steps: bool) -> None:
    """The software CPU executes INC as NOT; what follows overwrites RAX and the flags."""
    case = _case("inc rax\n mov rbx, rbx\n xor rax, rax\n add rcx, 1")
    work = [(case.form.code, case.state)]
    expected, trace = next(host.trace_many(work))
    right, same = next(SoftTracer(by_steps).trace_many(work))
    assert compare_traces(case, (expected, right), (trace, same)) == []
    monkeypatch.setitem(ROWS, Mnemonic.INC, ROWS[Mnemonic.NOT])
    got, other = next(SoftTracer(by_steps).trace_many(work))
    assert compare_ends(case, expected, got, 0) == []
    assert compare_traces(case, (expected, got), (trace, other))[0] == "step 0, inc rax [48ffc0]:"


def test_single_steps_leave_no_trace_of_themselves(host: HostCpu) -> None:
    """TF is neither in the flags that PUSHF stores nor gone with those that POPF loads."""
    code = assemble("pushfq\n pop rax\n push rax\n popfq\n inc rbx\n pushf\n inc rbx")
    plain = host.run(code, state())
    end, trace = next(host.trace_many([(code, state())]))
    assert end == plain
    assert trace.steps == 7


@pytest.mark.parametrize("by_steps", [False, True])
def test_a_run_without_end_is_compared_as_far_as_it_is_traced(host: HostCpu, by_steps: bool) -> None:
    case = _case("l: inc eax\n jmp l")
    work = [(case.form.code, case.state)]
    expected, trace = next(host.trace_many(work))
    assert endless(expected)
    assert trace.steps == MOST_STEPS
    got, other = next(SoftTracer(by_steps).trace_many(work))
    assert endless(got)
    assert compare_traces(case, (expected, got), (trace, other)) == []
    spoilt = other._replace(records=_flip(other.records, MOST_STEPS - 1, 0))
    assert compare_traces(case, (expected, got), (trace, spoilt)) != []


def test_traces_that_do_not_fit_are_refused() -> None:
    work = [(b"\xff\xc0\xeb\xfc", state())] * 30  # l: inc eax; jmp l
    with HostCpu() as cpu, pytest.raises(HostCpuError, match="do not fit"):
        list(cpu.trace_many(work))


def test_a_trace_is_empty_where_nothing_ran(host: HostCpu) -> None:
    end, trace = next(host.trace_many([(b"\x0f\x0b", state())]))
    assert end.fault is not None
    assert trace == Trace(b"", b"")
