"""The guest kernel that runs cases on a software CPU, tried on QEMU: whole state in and out, faults as values, and the runner's
protocol."""

import random
import struct
import time
from collections.abc import Iterator

import pytest

from trapgate.exits import Exit, Interrupted, PortWrite, Shutdown
from trapgate.memory import Ram

from . import catalog, guest_kernel, qemu_runner
from .host import HostCpu
from .inputs import narrow
from .qemu_runner import QemuCpu
from .sample import choose, judge, report
from .soft_runner import GuestFailed, SoftCpu
from .state import CODE, PF_FAULT, SCRATCH, SCRATCH_SIZE, SIGKILL, SIGSEGV, SLOT_SIZE, UD, Fault, State
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
    forms = [form for form in catalog.forms(mnemonic) if not form.instruction.is_string_instruction or not narrow(form.instruction)]
    cases = choose(forms, 60, f"guest {mnemonic}")  # with ECX and 32-bit pointers QEMU is like AMD's CPUs, whatever the host
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


class QemuEngine:
    """A vCPU as `SoftCpu` sees one: QEMU executes what lies in a `Ram` of ours, copied there and back."""

    def __init__(self, qemu: QemuCpu, ram: Ram, final: Exit | None = None) -> None:
        self.qemu, self.ram, self.final, self.started = qemu, ram, final, 0

    def start(self, registers: dict[str, int]) -> None:
        """Count the starts; QEMU's ROM has set the registers already."""
        assert registers["rip"] == guest_kernel.UPPER + guest_kernel.KERNEL + guest_kernel.ENTRY
        self.started += 1

    def run(self) -> Exit:
        """Execute the batch whose control page lies in the Ram."""
        go, slot, count, done, fx = struct.unpack("<5Q", self.ram.read(guest_kernel.CONTROL, 40))
        first = (slot - guest_kernel.UPPER - guest_kernel.SLOTS) // SLOT_SIZE
        assert (go, done, fx) == (1, 0, 1)
        if self.final is not None:
            return self.final
        slots = slice(guest_kernel.SLOTS, guest_kernel.SLOTS + (first + count) * SLOT_SIZE)
        self.qemu.view[slots] = self.ram.read(slots.start, slots.stop - slots.start)
        finished = self.qemu.batch_from(first, count)
        self.ram.write(slots.start, self.qemu.view[slots])
        self.ram.write(guest_kernel.CONTROL, self.qemu.view[guest_kernel.CONTROL : guest_kernel.CONTROL + 40])
        if not finished:
            self.qemu.stop()
            return Interrupted()
        return PortWrite(guest_kernel.DONE_PORT, 1, 0)

    def kick(self) -> None:
        """Nothing to do: QEMU's own timeout ends a hang."""

    def get(self, register: str) -> int:
        """A register, as a number."""
        return 0x1234


def test_the_runner_for_a_vcpu_feeds_a_guest(host: HostCpu, qemu: QemuCpu) -> None:
    ram = Ram(guest_kernel.memory_size(64))
    engine = QemuEngine(qemu, ram)
    soft = SoftCpu(engine, ram, QemuEngine.start, batch=50)
    cases = choose(catalog.forms("mul"), 120, "vcpu")
    texts = judge(cases, host, soft)
    assert not texts, report(texts, len(cases))
    assert engine.started == 1
    assert ram.read(guest_kernel.KERNEL, 64) == qemu.view[guest_kernel.KERNEL : guest_kernel.KERNEL + 64]


def test_the_runner_survives_a_hang_and_tells_a_lost_kernel(qemu: QemuCpu) -> None:
    ram = Ram(guest_kernel.memory_size(64))
    engine = QemuEngine(qemu, ram)
    soft = SoftCpu(engine, ram, QemuEngine.start, timeout=0.5, clock=time.monotonic)
    ends = [after.fault for after in soft.run_many([(b"\x90", state()), (b"\xeb\xfe", state()), (b"\x90", state())])]
    assert ends == [None, Fault(SIGKILL, None), None]
    assert engine.started == 2
    engine.final = Shutdown("#GP in #GP")
    with pytest.raises(GuestFailed, match=r"Shutdown.*around case 0"):
        soft.run(b"\x90", state())
