"""Interrupt controllers and timers, the kernel's and ours: one guest, the same interrupts; and a debugger that finds it in HLT."""

import contextlib
import threading
import time

import pytest

from kvm.guest import CHIPS, ENGINES, HANDLERS, KVM, LOG, PD, SLOWER, Guest, Loaded, Log
from trapgate.arch.layout import IOAPIC_BASE, LAPIC_BASE, TEST_IRQ_PORT
from trapgate.arch.models import DEFAULT_MODEL
from trapgate.arch.msrs import MsrError
from trapgate.stops import ExitKind, MachineExit, Paused, StepDone
from trapgate.vcpu import Breakpoint, Kind, Owner

pytestmark = KVM

APIC, IOAPIC = 0x200000, 0x400000  # where the guest sees them
TF = 1 << 8
ENABLE = f"mov dword ptr [{APIC + 0xF0}], 0x1FF"
EOI = f"mov dword ptr [{APIC + 0xB0}], 0"
ONCE = f"mov dword ptr [{APIC + 0x3E0}], 0xB\nmov dword ptr [{APIC + 0x320}], 0x40"
PIC = (
    "mov al, 0x11\nout 0x20, al\nout 0xA0, al\nmov al, 0x40\nout 0x21, al\nmov al, 0x48\nout 0xA1, al\nmov al, 4\nout 0x21, al\n"
    "mov al, 2\nout 0xA1, al\nmov al, 1\nout 0x21, al\nout 0xA1, al\nmov al, 0\nout 0x21, al\nout 0xA1, al"
)
NO_PIC = "mov al, 0xFF\nout 0x21, al\nout 0xA1, al"
NEXT = f"sti\n{{label}}: cmp qword ptr [{LOG}], {LOG + 64} + 64 * {{count}}\nje {{label}}b\ncli"


def timer(count: int) -> str:
    return f"{ENABLE}\n{ONCE}\nmov dword ptr [{APIC + 0x380}], {count}"


def drive(gsi: int, level: int) -> str:
    return f"mov dx, {TEST_IRQ_PORT + gsi}\nmov al, {level}\nout dx, al"


def pin(number: int, entry: int) -> str:
    """A redirection entry."""
    low, at = entry & 0xFFFF_FFFF, 0x10 + 2 * number
    return f"mov dword ptr [{IOAPIC}], {at}\nmov dword ptr [{IOAPIC + 0x10}], {low}"


def until(count: int) -> str:
    """Wait for the interrupt after the first `count`."""
    return NEXT.format(label=20 + count, count=count)


def load(text: str, engine: str, cpu: str = DEFAULT_MODEL) -> Loaded:
    guest = Loaded(text, engine, cpu=cpu)
    guest.machine.ram.write_int(PD + 8, 8, LAPIC_BASE | 0x87)
    guest.machine.ram.write_int(PD + 16, 8, IOAPIC_BASE | 0x87)
    return guest


def finish(guest: Loaded) -> list[Log]:
    guest.machine.clock.at(guest.machine.clock.now() + 20_000_000_000 * SLOWER, guest.machine.pause)
    end = guest.machine.resume()
    assert isinstance(end, MachineExit), end
    assert end.kind is ExitKind.EXIT_PORT
    return guest.log


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("gsi", [0, 4, 9, 12])
def test_a_line_reaches_the_guest_through_the_8259s(gsi: int, engine: str) -> None:
    text = f"{PIC}\n{drive(gsi, 1)}\n{until(0)}\n{drive(gsi, 0)}"
    assert [one.vector for one in finish(load(text, engine))] == [0x40 + gsi]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("gsi", "at"), [(0, 2), (4, 4), (20, 20)])
def test_a_line_reaches_the_guest_through_the_io_apic(gsi: int, at: int, engine: str) -> None:
    """Edge-triggered: one interrupt however long the line stays up; line 0 is at pin 2."""
    text = f"{NO_PIC}\n{ENABLE}\n{pin(at, 0x50)}\n{drive(gsi, 1)}\n{until(0)}\n{EOI}\nsti\nnop\nnop\ncli\n{drive(gsi, 0)}\n"
    text += f"{drive(gsi, 1)}\n{until(1)}\n{EOI}\n{drive(gsi, 0)}"
    assert [one.vector for one in finish(load(text, engine))] == [0x50, 0x50]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_level_interrupts_until_it_is_gone(engine: str) -> None:
    text = f"{NO_PIC}\n{ENABLE}\n{pin(9, 0x8050)}\n{drive(9, 1)}\n{until(0)}\n{EOI}\n{until(1)}\n"
    text += f"{drive(9, 0)}\n{EOI}\nsti\nnop\nnop\ncli"
    assert [one.vector for one in finish(load(text, engine))] == [0x50, 0x50]


@pytest.mark.parametrize("engine", [CHIPS, "soft"])
def test_x2apic_and_its_deadline_timer(engine: str) -> None:
    """What the kernel's local APIC has and ours on KVM has not."""
    text = (
        "mov eax, 1\ncpuid\nmov esi, ecx\nmov ecx, 0x1B\nrdmsr\nor eax, 0x400\nwrmsr\nmov ecx, 0x80F\nmov eax, 0x1FF\n"
        "xor edx, edx\nwrmsr\n"
        "mov ecx, 0x832\nmov eax, 0x40040\nwrmsr\nmfence\nrdtsc\nadd eax, 1000000\nadc edx, 0\nmov ecx, 0x6E0\nwrmsr\n"
        "sti\nhlt\ncli\nmov ecx, 0x80B\nxor eax, eax\nxor edx, edx\nwrmsr\nmov ecx, 0x6E0\nrdmsr\nmov edi, eax"
    )
    guest = load(text, engine, "SapphireRapids")
    assert [one.vector for one in finish(guest)] == [0x40]
    get = guest.machine.vcpu.get
    assert get("rsi") & (1 << 21 | 1 << 24) == 1 << 21 | 1 << 24
    assert get("rdi") == 0  # disarmed


@pytest.mark.parametrize("engine", ENGINES)
def test_channel_2_counts_while_port_61h_lets_it(engine: str) -> None:
    """How kernels measure their TSC: mode 0, the output read from port 61h."""
    text = (
        "in al, 0x61\nand al, 0xFC\nor al, 1\nout 0x61, al\nmov al, 0xB0\nout 0x43, al\nmov al, 0xA9\nout 0x42, al\nmov al, 4\n"
        "out 0x42, al\nrdtsc\nmov esi, eax\n1: in al, 0x61\ntest al, 0x20\njz 1b\nrdtsc\nsub eax, esi\nmov ebx, eax"
    )
    guest = load(text, engine)
    finish(guest)
    assert guest.machine.vcpu.get("rbx") >= 1_000_000  # 1193 ticks are a millisecond


@pytest.mark.parametrize("engine", ENGINES)
def test_hlt_that_nothing_can_end_ends_the_machine(engine: str) -> None:
    machine = load("cli\nhlt", engine).machine
    machine.clock.at(20_000_000_000 * SLOWER, machine.pause)
    end = machine.resume()
    assert isinstance(end, MachineExit), end
    assert end.kind is ExitKind.DEAD


@pytest.mark.parametrize("engine", ENGINES)
def test_a_guest_in_hlt_can_be_paused_and_goes_on_waiting(engine: str) -> None:
    """Ctrl-C while HLT waits: the guest stands behind it, and no sooner than its interrupt comes does it go on."""
    guest = load(f"sti\nhlt\nmov ebx, 1\ncli\n{EOI}", engine)
    machine = guest.machine
    for _ in range(2):
        for _ in range(100):  # a slow host comes to it later
            threading.Timer(0.05, machine.pause).start()
            assert machine.resume() == Paused()
            if machine.vcpu.get("rip") == guest.starts[2]:
                break
        assert machine.vcpu.get("rip") == guest.starts[2]
    machine.lapic.nmi()
    assert [one.vector for one in finish(guest)] == [2]
    assert machine.vcpu.get("rbx") == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_a_halted_guest_burns_no_cpu(engine: str) -> None:
    slower = SLOWER * SLOWER  # what is not HLT costs more there, too
    guest = load(f"{timer(7_500_000 * slower)}\nsti\nhlt\ncli\n{EOI}", engine)
    before = time.process_time()
    finish(guest)
    assert time.process_time() - before < 0.15 * slower


@pytest.mark.parametrize("kicked", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_from_hlt_waits_for_the_interrupt_and_leaves_no_tf(engine: str, kicked: bool) -> None:
    for _ in range(10 if kicked else 1):
        guest = load(f"{timer(100_000)}\nsti\nhlt\nmov ebx, 1\ncli\n{EOI}", engine)
        with guest.kicked() if kicked else contextlib.nullcontext():
            step_from_hlt(guest, engine)
        guest.machine.close()


def step_from_hlt(guest: Loaded, engine: str) -> None:
    machine, behind = guest.machine, guest.starts[6]
    while machine.vcpu.get("rip") != behind:
        assert machine.resume(step=True) == StepDone()
        assert guest.log == []
    if engine == "soft":  # it tells of HLT itself besides
        assert machine.resume(step=True) == StepDone()
    assert machine.resume(step=True) == StepDone()
    assert machine.vcpu.get("rip") == HANDLERS + 0x200 + 16 * 0x40 + 2  # behind the handler's first instruction, PUSH
    assert [(one.vector, one.rip, one.rflags & TF) for one in finish(guest)] == [(0x40, behind, 0)]
    assert machine.vcpu.get("rbx") == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_interrupts_stay_out_of_steps(engine: str) -> None:
    """The timer has long run out: it comes with the first instruction that is not stepped."""
    guest = load(f"{timer(1)}\nsti\nnop\nnop\nnop\nnop\ncli\n{EOI}", engine)
    at = guest.starts[5:9]
    while guest.machine.vcpu.get("rip") != at[0]:
        guest.machine.resume(step=True)
    time.sleep(0.01)
    for where in at[1:]:
        assert guest.machine.resume(step=True) == StepDone()
        assert guest.machine.vcpu.get("rip") == where
    assert [(one.vector, one.rip) for one in finish(guest)] == [(0x40, at[-1])]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["hardware", "software"])
def test_an_interrupt_that_waits_at_a_breakpoint_comes_once(kind: str, engine: str) -> None:
    """Ours comes before the instruction of the breakpoint, the kernel's behind it, for the breakpoint is passed over by a step."""
    guest = load(f"{NO_PIC}\n{ENABLE}\n{pin(4, 0x50)}\nsti\nnop\nnop\nnop\ncli\n{EOI}", engine)
    at = guest.starts[8]
    ours = Breakpoint(Owner.DEBUGGER, 0, Kind.EXEC, at, 1)
    guest.machine.vcpu.arm(*(([ours], []) if kind == "hardware" else ([], [at])))
    assert not isinstance(guest.machine.resume(), MachineExit)
    assert guest.machine.vcpu.get("rip") == at
    guest.machine.board.interrupts.line(4)(True)
    (log,) = finish(guest)
    assert (log.vector, log.rflags & TF) == (0x50, 0)
    assert log.rip == guest.starts[9 if engine == CHIPS else 8]


def test_priorities_and_msrs_are_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guest, "engine", CHIPS)
    guest = Guest("mov rax, cr8\nmov rbx, rax\nmov eax, 9\nmov cr8, rax")
    guest.vcpu.set("cr8", 5)
    assert guest.vcpu.get("cr8") == 5
    assert guest.vcpu.read_msr(0x1B) == LAPIC_BASE | 0x900
    guest.vcpu.write_msr(0x1B, LAPIC_BASE | 0xD00)
    assert guest.vcpu.read_msr(0x808) == 0x50
    with pytest.raises(MsrError, match="0x1b"):
        guest.vcpu.write_msr(0x1B, 1)
    guest.run()
    assert (guest.vcpu.get("rbx"), guest.vcpu.get("cr8")) == (5, 9)
