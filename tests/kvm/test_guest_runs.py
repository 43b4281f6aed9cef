"""Small guests on the host's /dev/kvm: exits, I/O, interrupts, kicks, registers, memory."""

import threading
import time

import pytest

from kvm.guest import CASE, CHIPS, DATA, KVM, STACK, Guest
from trapgate.arch.msrs import MsrError
from trapgate.exits import Interrupted, MmioRead, MmioWrite, PortRead, PortWrite
from trapgate.stops import ExitKind, MachineExit, Paused

pytestmark = KVM


OURS = pytest.mark.parametrize("engine", ["kvm"], indirect=True)  # the kernel's interrupts never come by here


@pytest.fixture(params=["kvm", CHIPS], autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guest, "engine", request.param)


def test_a_guest_runs_to_its_end() -> None:
    guest = Guest("mov eax, 5\nadd rax, 37\nmov [rdi], rax")
    end = guest.machine.resume()
    assert isinstance(end, MachineExit)
    assert (end.kind, end.status) == (ExitKind.EXIT_PORT, 1)
    assert guest.vcpu.read_virtual(DATA, 8) == (42).to_bytes(8, "little")


def test_ports_and_mmio_reach_the_machine_in_order_and_answers_come_back() -> None:
    text = "mov dx, 0x3FF\nmov al, 0x5A\nout dx, al\nin eax, dx\nmov rbx, rax\nmov rcx, [0x1FFFF8]\nmov [0x300000], ecx"
    vcpu = Guest(text.replace("[0x300000]", "dword ptr [rsi]")).bare()
    vcpu.set("rsi", 0x1FFFFC)
    assert vcpu.run() == PortWrite(0x3FF, 1, 0x5A)
    assert vcpu.run() == PortRead(0x3FF, 4)
    vcpu.complete(0x11223344)
    assert vcpu.get("rax") == 0x11223344  # the instruction is complete as soon as anybody looks
    vcpu.set("rbx", 1)
    assert vcpu.run() == PortWrite(0xF4, 1, 0)
    assert vcpu.get("rbx") == 0x11223344


def test_memory_that_is_no_ram_is_mmio() -> None:
    guest = Guest("mov rax, [rsi]\nmov [rsi+8], eax")
    guest.machine.ram.write_int(0x3000 + 8, 8, 0xFEE00087)  # the second 2 MiB: where the local APIC is
    guest.vcpu.set("rsi", 0x200000 + 0x100000)
    vcpu = guest.bare()
    first = vcpu.run()
    assert first == MmioRead(0xFEE00000 + 0x100000, 8)
    vcpu.complete(0x1122334455667788)
    assert vcpu.run() == MmioWrite(0xFEE00000 + 0x100008, 4, 0x55667788)
    assert vcpu.get("rax") == 0x1122334455667788


def test_a_kick_from_another_thread_ends_an_endless_loop() -> None:
    vcpu = Guest("1: jmp 1b").vcpu
    timer = threading.Timer(0.05, vcpu.kick)
    timer.start()
    before = time.monotonic()
    assert vcpu.run() == Interrupted()
    assert time.monotonic() - before < 5
    assert vcpu.get("rip") == CASE
    timer.join()


def test_a_kick_before_the_run_is_not_lost_and_counts_once() -> None:
    vcpu = Guest("nop").bare()
    vcpu.kick()
    assert vcpu.run() == Interrupted()
    assert vcpu.run() == PortWrite(0xF4, 1, 0)


def test_a_machine_pauses_and_goes_on() -> None:
    guest = Guest("1: test byte ptr [rdi], 1\njz 1b")
    threading.Timer(0.05, guest.machine.pause).start()
    assert guest.machine.resume() == Paused()
    assert guest.vcpu.write_virtual(DATA, b"\1")
    assert isinstance(guest.machine.resume(), MachineExit)


@OURS
def test_an_interrupt_waits_for_the_window_and_is_delivered() -> None:
    guest = Guest("nop\nsti\n1: test byte ptr [rdi], 1\njz 1b")
    vcpu = guest.vcpu
    assert not vcpu.can_interrupt()
    vcpu.want_interrupt(True)
    assert vcpu.run() == Interrupted()
    assert vcpu.can_interrupt()
    assert vcpu.get("rip") >= guest.starts[2]
    vcpu.interrupt(0x40)
    vcpu.want_interrupt(False)
    vcpu.write_virtual(DATA, b"\1")
    assert vcpu.run() == PortWrite(0xF4, 1, 0)
    (log,) = guest.log
    assert (log.vector, log.cs) == (0x40, 8)
    assert log.rflags & 1 << 9


@OURS
def test_an_interrupt_wakes_a_halted_guest() -> None:
    guest = Guest("sti\nhlt\nnop")
    vcpu = guest.vcpu
    assert type(vcpu.run()).__name__ == "Halted"
    assert vcpu.can_interrupt()
    vcpu.interrupt(0x40)
    assert vcpu.run() == PortWrite(0xF4, 1, 0)
    assert [(one.vector, one.rip) for one in guest.log] == [(0x40, guest.starts[2])]


def test_registers_keep_what_is_stored() -> None:
    vcpu = Guest("nop").vcpu
    wide = (1 << 128) - 0x1234
    values = {
        "rax": 1 << 63, "r15": 7, "cr2": 0x1234, "fs_base": 0x7FFF_0000, "gs_base": 5, "k_gs_base": 9, "lstar": 0x8888,
        "xmm0": wide, "xmm15": 3, "mxcsr": 0x1FA0, "st3": 0x3FFF_8000_0000_0000_0000, "fctrl": 0x27F, "dr0": 0x1111, "dr7": 0x402,
        "gdt_base": 0x4000, "idt_limit": 0x3FF, "cr8": 3, "star": 1 << 48,
    }  # fmt: skip
    for name, value in values.items():
        vcpu.set(name, value)
    assert {name: vcpu.get(name) for name in values} == values


def test_what_the_cpu_forbids_is_a_value_error_and_changes_nothing() -> None:
    vcpu = Guest("nop").vcpu
    before = vcpu.get("cr0")
    for name, value in (("cr0", 1 << 40), ("mxcsr", 1 << 31), ("cs", 0x1B)):
        with pytest.raises(ValueError, match=r"."):
            vcpu.set(name, value)
    assert vcpu.get("cr0") == before
    with pytest.raises(KeyError):
        vcpu.get("nonsense")
    with pytest.raises(MsrError):
        vcpu.read_msr(0x12345678)


def test_virtual_memory_is_short_where_unmapped() -> None:
    vcpu = Guest("nop").vcpu
    before = vcpu.ram.read(0, 0x20000)
    assert vcpu.translate(STACK) == STACK
    assert vcpu.translate(1 << 40) is None
    assert len(vcpu.read_virtual(0x1FFFF0, 64)) == 16
    assert not vcpu.write_virtual(0x1FFFF0, bytes(64))
    assert vcpu.read_virtual(0x1FFFF0, 16) == bytes(16)
    assert vcpu.ram.read(0, 0x20000) == before  # no accessed bit


def test_a_triple_fault_is_a_shutdown_that_tells_the_state_or_that_it_cannot() -> None:
    guest = Guest("ud2")
    guest.vcpu.set("idt_limit", 0)
    end = guest.machine.resume()
    assert isinstance(end, MachineExit)
    assert end.kind is ExitKind.SHUTDOWN
    assert (f"RIP {CASE:#x}" in end.story) is not ("does not tell where" in end.story)
    assert guest.vcpu.amd_host or f"RIP {CASE:#x}" in end.story


def test_the_vm_is_given_back(open_files: None) -> None:
    Guest("nop").machine.close()


@pytest.mark.parametrize("step", [False, True], ids=["run", "stepped"])
def test_kicks_at_any_moment_change_nothing(step: bool) -> None:
    text = "mov ecx, 60\nmov edx, 0x80\n1: mov eax, ecx\nout dx, al\nin al, dx\nadd rbx, rcx\npushfq\npop rsi\nor r8, rsi\nloop 1b"
    guest = Guest(text)
    ended = threading.Event()

    def pester() -> None:
        while not ended.wait(0.0003):
            guest.vcpu.kick()

    thread = threading.Thread(target=pester)
    thread.start()
    try:
        guest.run(step=step, limit=2000)
    finally:
        ended.set()
        thread.join()
    assert guest.vcpu.get("rbx") == 60 * 61 // 2
    assert guest.vcpu.get("r8") & 0x100 == 0
    assert guest.log == []
