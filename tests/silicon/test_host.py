"""The harness itself: whole state in and out, faults as values, hangs survived, system calls refused, the same answer twice."""

import random
import struct
import time

import pytest

from . import catalog
from .host import HostCpu, HostCpuError
from .sample import choose, judge, report
from .state import (
    CF,
    CODE,
    CODE_SIZE,
    DE,
    DF,
    FX_INIT,
    FX_SIZE,
    GP,
    PF_FAULT,
    RAX,
    RCX,
    RSP,
    SCRATCH,
    SCRATCH_SIZE,
    SIGFPE,
    SIGILL,
    SIGKILL,
    SIGSEGV,
    SIGSYS,
    UD,
    ZF,
    Fault,
    State,
)

MEMORY = random.Random(5).randbytes(SCRATCH_SIZE)


def state(rflags: int = 0x202, fx: bytes = FX_INIT, **registers: int) -> State:
    """A state whose registers differ from each other, but for those given."""
    names = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"]
    gpr = [registers.get(name, 0x1111_1111_1111_1111 * n) for n, name in enumerate(names)]
    gpr[RSP] = registers.get("rsp", SCRATCH + 0x1000)
    return State(tuple(gpr), rflags, fx, MEMORY)


def random_fx(rng: random.Random) -> bytes:
    """An FXSAVE image with every register different, all x87 registers in use and exceptions masked."""
    head = struct.pack("<HHBBHQQII", 0x37F, 0x3800 & 0, 0xFF, 0, 0, 0, 0, 0x1F80 | DF, 0x2FFFF)
    stack = b"".join(rng.randbytes(10) + bytes(6) for _ in range(8))
    return (head + stack + rng.randbytes(256)).ljust(FX_SIZE, b"\0")


def test_nothing_changes_but_what_the_code_changes(host: HostCpu) -> None:
    before = state(rflags=0x202 | CF | DF | ZF, fx=random_fx(random.Random(3)))
    after = host.run(b"\x90", before)
    assert (after.gpr, after.rflags, after.memory, after.rip, after.fault) == (before.gpr, before.rflags, before.memory, 1, None)
    assert after.fx[:28] == before.fx[:28]
    assert after.fx[32:] == before.fx[32:]


def test_an_addition(host: HostCpu) -> None:
    after = host.run(bytes.fromhex("4801c8"), state(rax=(1 << 64) - 1, rcx=1))  # add rax, rcx
    assert after.gpr[RAX] == 0
    assert after.gpr[RCX] == 1
    assert after.rip == 3
    assert after.rflags & (CF | ZF) == CF | ZF


def test_the_stack_and_return_addresses_are_at_fixed_addresses(host: HostCpu) -> None:
    after = host.run(bytes.fromhex("e810000000"), state())  # call $+0x15
    assert after.rip == 0x15
    assert after.gpr[RSP] == SCRATCH + 0xFF8
    assert after.memory[0xFF8:0x1000] == (CODE + 5).to_bytes(8, "little")
    assert after.memory[:0xFF8] == MEMORY[:0xFF8]
    assert after.memory[0x1000:] == MEMORY[0x1000:]


@pytest.mark.parametrize(
    ("text", "fault", "at"),
    [
        ("0f0b", Fault(SIGILL, UD), 0),
        ("904831c948f7f1", Fault(SIGFPE, DE), 4),  # nop; xor rcx,rcx; div rcx
        ("f4", Fault(SIGSEGV, GP), 0),
        ("8b042500200010", Fault(SIGSEGV, PF_FAULT, 4, SCRATCH + SCRATCH_SIZE), 0),  # mov eax,[the guard page]
        ("8904253cffff0f", Fault(SIGSEGV, PF_FAULT, 6, SCRATCH - 0xC4), 0),
        ("0f05", Fault(SIGSYS, None), 2),
        ("cd80", Fault(SIGSYS, None), 2),
    ],
)
def test_a_fault_is_a_value(host: HostCpu, text: str, fault: Fault, at: int) -> None:
    after = host.run(bytes.fromhex(text), state())
    assert (after.fault, after.rip) == (fault, at)
    assert after.gpr[RSP] == SCRATCH + 0x1000


def test_a_bad_stack_pointer_harms_nobody(host: HostCpu) -> None:
    after = host.run(b"\x50", state(rsp=0x1234_5678_9ABC_DEF0))  # push rax, not canonical
    assert after.fault is not None
    assert after.rip == 0


def test_a_hang_costs_one_case() -> None:
    with HostCpu(batch=4, timeout=0.2) as cpu:
        start = time.monotonic()
        ends = [after.fault for after in cpu.run_many([(b"\x90", state()), (b"\xeb\xfe", state()), (b"\x90", state())])]
        assert ends == [None, Fault(SIGKILL, None), None]
        assert cpu.restarts == 1
        assert time.monotonic() - start < 30


def test_a_worker_whose_memory_was_broken_is_replaced(host: HostCpu) -> None:
    host.run(bytes.fromhex("64c7042500000000efbeadde"), state())  # mov dword fs:[0], 0DEADBEEFh: the C library's own thread block
    assert host.run(bytes.fromhex("4801c8"), state(rax=2, rcx=3)).gpr[RAX] == 5


def test_a_worker_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{HostCpu.__module__}.SCRATCH", SCRATCH + 1)
    with HostCpu() as cpu, pytest.raises(HostCpuError, match=r"mmap of .* at 0x"):
        cpu.run(b"\x90", state())


def test_code_that_does_not_fit_is_refused(host: HostCpu) -> None:
    with pytest.raises(ValueError, match=f"{CODE_SIZE + 1} bytes of code"):
        host.run(b"\x90" * (CODE_SIZE + 1), state())


@pytest.mark.parametrize("mnemonic", ["add", "shl", "div", "cmps" + "b", "cmpxchg16b", "mul", "ret", "bts"])
def test_the_host_agrees_with_itself(host: HostCpu, mnemonic: str) -> None:
    cases = choose(catalog.forms(mnemonic), 300, f"self {mnemonic}")
    texts = judge(cases, host, host)
    assert not texts, report(texts, len(cases))


def test_it_is_quick_enough(host: HostCpu) -> None:
    host.run(b"\x90", state())
    before, count = state(), 5000
    start = time.process_time()
    assert sum(1 for _ in host.run_many([(b"\x48\x01\xc8", before)] * count)) == count
    assert count / (time.process_time() - start) > 10_000  # measured: 110,000 a second


def test_garbage_harms_nobody() -> None:
    rng = random.Random(11)
    near = [state()._replace(gpr=tuple(SCRATCH + 0x1000 + rng.randrange(-0x800, 0x800) for _ in range(16))) for _ in range(50)]
    cases = [(rng.randbytes(rng.randrange(1, 16)), rng.choice(near)) for _ in range(3000)]
    with HostCpu(timeout=0.2) as cpu:
        ends = [after.fault for after in cpu.run_many(cases)]
        assert cpu.run(b"\x90", state()).rip == 1
    vectors = {fault.vector for fault in ends if fault is not None}
    assert len(ends) == 3000
    assert {UD, GP, PF_FAULT} <= vectors
    assert ends.count(None) > 500
