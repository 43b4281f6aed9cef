"""Faults that random operands hardly meet: addresses that are not canonical, reached through the stack segment and otherwise."""

import pytest
from iced_x86 import Decoder

from trapgate.soft.cpu import SoftVcpu

from .assemble import assemble
from .compare import Case
from .forms import Form
from .host import HostCpu
from .sample import judge, report
from .soft import make_soft_cpu
from .soft_runner import SoftCpu
from .state import CODE, FX_INIT, GPR_NAMES, SCRATCH, SCRATCH_SIZE, State

BEYOND = 1 << 63
INSIDE = SCRATCH + 0x800
# Text and the registers that hold an address which is not canonical; all others point into the scratch area.
CASES = (
    ("mov rax, [rbp + 8]", ("rbp",)),
    ("mov rax, [rbx + 8]", ("rbx",)),
    ("mov rax, [rsp + 8]", ("rsp",)),
    ("add dword ptr [rbp + 8], 1", ("rbp",)),
    ("bts dword ptr [rbp], 3", ("rbp",)),
    ("btr qword ptr [rbp], rdx", ("rdx",)),
    ("xchg [rbp], rcx", ("rbp",)),
    ("push rax", ("rsp",)),
    ("push 5", ("rsp",)),
    ("push qword ptr [rbx]", ("rsp",)),
    ("push qword ptr [rbx]", ("rbx",)),
    ("push qword ptr [rbp]", ("rbp",)),
    ("pop rax", ("rsp",)),
    ("pop qword ptr [rbx]", ("rsp",)),
    ("call rax", ("rsp",)),
    ("call qword ptr [rbx]", ("rbx",)),
    ("call rax", ("rax",)),
    ("call rax", ("rax", "rsp")),
    ("call qword ptr [rbx]", ("rbx", "rsp")),
    ("ret", ("rsp",)),
    ("leave", ("rbp",)),
    ("enter 8, 0", ("rsp",)),
    ("pushfq", ("rsp",)),
    ("popfq", ("rsp",)),
    ("movsb", ("rsi",)),
    ("stosq", ("rdi",)),
    ("cmpxchg16b [rbp]", ("rbp",)),
    ("xlatb", ("rbx",)),
    ("jmp qword ptr [rbp]", ("rbp",)),
)


@pytest.fixture(scope="module")
def soft() -> SoftCpu[SoftVcpu]:
    """The software CPU as a runner."""
    return make_soft_cpu(fx=False)


@pytest.mark.parametrize(("text", "beyond"), CASES, ids=[f"{text} {' '.join(names)}" for text, names in CASES])
def test_an_address_that_is_not_canonical(host: HostCpu, soft: SoftCpu[SoftVcpu], text: str, beyond: tuple[str, ...]) -> None:
    code = assemble(text)
    form = Form(code, Decoder(64, code, ip=CODE).decode(), text.split()[0], text)
    registers = [BEYOND if name in beyond else INSIDE for name in GPR_NAMES]
    case = Case(form, State(tuple(registers), 0x202, FX_INIT, bytes(SCRATCH_SIZE)))
    assert host.run(code, case.state).fault is not None
    texts = judge([case], host, soft)
    assert not texts, report(texts, 1)
