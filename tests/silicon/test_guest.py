"""The guest kernel that runs cases on a software CPU, tried on QEMU: whole state in and out, faults as values, and the runner's
protocol."""

import random
from collections.abc import Iterator

import pytest

from . import catalog, qemu_runner
from .host import HostCpu
from .qemu_runner import QemuCpu
from .sample import choose, judge, report
from .state import CODE, PF_FAULT, SCRATCH, SCRATCH_SIZE, SIGKILL, SIGSEGV, UD, Fault, State
from .test_host import MEMORY, random_fx, state

# Instructions that QEMU 7 gets right in every bit; it has known faults in others (BLSI's CF, ADCX, TEST of group 3 /1, SHRD, RET
# 8000h).
SOUND = (
    "mov",
    "lea",
    "push",
    "pop",
    "movsb",
    "cmpsq",
    "scasw",
    "cmovle",
    "setnp",
    "jbe",
    "mul",
    "imul",
    "cmpxchg16b",
    "movzx",
    "pdep",
)


@pytest.fixture(scope="module")
def qemu() -> Iterator[QemuCpu]:
    """QEMU as a runner."""
    if not qemu_runner.available():
        pytest.skip("qemu-system-x86_64 is not installed")
    with QemuCpu(timeout=1.0) as cpu:
        yield cpu


def test_the_whole_state_goes_in_and_out(qemu: QemuCpu) -> None:
    before = state(rflags=0x202 | 0xCD5, fx=random_fx(random.Random(3)))
    after = qemu.run(b"\x90", before)
    assert (after.gpr, after.rflags, after.memory, after.rip, after.fault) == (before.gpr, before.rflags, before.memory, 1, None)
    assert after.fx[24:28] == before.fx[24:28]
    assert after.fx[32:] == before.fx[32:]


@pytest.mark.parametrize("mnemonic", SOUND)
def test_it_agrees_with_the_host(host: HostCpu, qemu: QemuCpu, mnemonic: str) -> None:
    cases = choose(catalog.forms(mnemonic), 60, f"guest {mnemonic}")
    texts = judge(cases, host, qemu)
    assert not texts, report(texts, len(cases))


def test_faults_are_those_of_the_host(host: HostCpu, qemu: QemuCpu) -> None:
    for text in (
        "0f0b",
        "8b042500200010",
        "8904253cffff0f",
        "9048f7f1",
        "f4",
        "a10000000000000080",
        "ff24253c000000",
    ):
        before = State(state().gpr, 0x202, state().fx, MEMORY)._replace(gpr=(1, 0, *state().gpr[2:]))
        native, emulated = (cpu.run(bytes.fromhex(text), before) for cpu in (host, qemu))
        assert native.fault is not None
        assert (native.fault, native.rip, native.gpr) == (emulated.fault, emulated.rip, emulated.gpr), text


def test_guard_pages_and_undefined_opcodes(qemu: QemuCpu) -> None:
    assert qemu.run(bytes.fromhex("0f0b"), state()).fault == Fault(4, UD)
    assert qemu.run(bytes.fromhex("8b042500200010"), state()).fault == Fault(SIGSEGV, PF_FAULT, 4, SCRATCH + SCRATCH_SIZE)
    assert qemu.run(bytes.fromhex("c6042500000011"), state()).rip == 0
    assert qemu.run(bytes.fromhex("8d05f9ffffff"), state()).gpr[0] == CODE - 1  # lea eax, [rip - 7]


def test_a_hang_costs_one_case(qemu: QemuCpu) -> None:
    ends = [after.fault for after in qemu.run_many([(b"\x90", state()), (b"\xeb\xfe", state()), (b"\x90", state())])]
    assert ends == [None, Fault(SIGKILL, None), None]
