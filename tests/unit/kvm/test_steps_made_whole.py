"""Single steps on invented hosts: those that KVM swallows or leaks, and those over HLT."""

import pytest

from trapgate.arch.debugregs import DR6_BS
from trapgate.debug.router import Share, Verdict
from trapgate.exits import DebugException, Halted, PortRead, PortWrite
from trapgate.kvm import abi
from unit.kvm.fake_kvm import CODE, FakeVcpuFd, debug_exit, vcpu
from unit.kvm.sharing import ANY, NONE, TF, verdict

# --- steps that KVM swallows or leaks


def test_a_step_over_in_is_finished_when_no_trap_comes(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, code=b"\xec" + b"\x90" * 8)  # IN AL, DX

    def port(one: FakeVcpuFd) -> None:
        one.shared.exit_reason = abi.EXIT_IO
        io = one.shared.exit.io
        io.direction, io.size, io.port, io.count, io.data_offset = 0, 1, 0x60, 1, 64
        one.general.rip = CODE + 1  # KVM completes it with the next entry, and `immediate_exit` says no more

    fd.script.append(port)
    cpu.step(True)
    assert cpu.run() == PortRead(0x60, 1)
    cpu.complete(0x5A)
    assert fd.io[64] == 0x5A
    assert verdict(cpu, cpu.run(), True) == Verdict(Share(DR6_BS), Share())


def test_repeated_outs_are_one_exit_each(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch)

    def port(one: FakeVcpuFd) -> None:
        one.shared.exit_reason = abi.EXIT_IO
        io = one.shared.exit.io
        io.direction, io.size, io.port, io.count, io.data_offset = 1, 2, 0x80, 3, 128
        one.io[128:134] = bytes(range(1, 7))

    fd.script.append(port)
    assert [cpu.run() for _ in range(3)] == [PortWrite(0x80, 2, value) for value in (0x0201, 0x0403, 0x0605)]


def test_the_pushed_tf_is_taken_out_again(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, code=b"\x9c" + b"\x90" * 8)  # PUSHFQ

    def pushes(one: FakeVcpuFd) -> None:
        cpu.ram.write_int(0x7FF8, 8, 0x302)
        debug_exit(0xFFFF4FF0, CODE + 1, rsp=0x7FF8)(one)

    fd.script.append(pushes)
    cpu.step(True)
    cpu.run()
    assert cpu.ram.read_int(0x7FF8, 8) == 0x202


def test_syscall_ends_on_its_entry_with_a_clean_r11(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, code=b"\x0f\x05" + b"\x90" * 8)
    fd.script.append(debug_exit(NONE | 1, 0x6000, r11=0x302))
    cpu.step(True)
    assert verdict(cpu, cpu.run(), True) == Verdict(Share(DR6_BS), Share())
    assert fd.guest_debug[0][1][0] == 0x6000  # a net was on LSTAR
    assert fd.general.r11 == 0x202


def test_popf_gives_the_guest_its_tf(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, code=b"\x9d" + b"\x90" * 8)
    cpu.ram.write_int(0x8000, 8, 0x302)
    fd.script.append(debug_exit(0xFFFF4FF0, CODE + 1, rsp=0x8008, rflags=0x202))
    cpu.step(True)
    assert verdict(cpu, cpu.run(), True) == Verdict(Share(DR6_BS), Share())  # not yet the guest's: TF was 0 before
    assert fd.general.rflags & TF


def test_btf_is_off_for_the_step_and_decides_the_guests_share(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch)
    fd.general.rflags |= TF
    fd.msrs[0x1D9] = 2
    during: list[int] = []

    def nop(one: FakeVcpuFd) -> None:
        during.append(one.msrs[0x1D9])
        debug_exit(0xFFFF4FF0, CODE + 1, rflags=2)(one)

    fd.script.append(nop)
    cpu.step(True)
    assert verdict(cpu, cpu.run(), True) == Verdict(Share(DR6_BS), Share())  # a NOP is no branch
    assert (during, fd.msrs[0x1D9]) == ([0], 2)


# --- HLT


@pytest.mark.parametrize("tf", [False, True])
def test_a_stepped_hlt_is_done_by_hand(tf: bool, monkeypatch: ANY) -> None:
    """Of a stepped HLT hosts tell the step or the HLT, so none is asked; the guest's own single step wakes it."""
    cpu, fd = vcpu(monkeypatch, code=b"\xf4" + b"\x90" * 8)
    fd.general.rflags |= 0x200 | (TF if tf else 0)
    fd.state.interrupt_shadow = 1
    cpu.step(True)
    event = cpu.run()
    if tf:
        assert verdict(cpu, event, True) == Verdict(Share(DR6_BS), Share(DR6_BS))
    else:
        assert event == Halted()
        assert cpu.can_interrupt()
    assert (fd.general.rip, fd.state.interrupt_shadow) == (CODE + 1, 0)


def test_a_guests_breakpoint_on_hlt_comes_first(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, code=b"\xf4" + b"\x90" * 8)
    fd.debug.db[0], fd.debug.dr7 = CODE, 0x402
    fd.script.append(debug_exit(NONE | 1, CODE))
    cpu.step(True)
    event = cpu.run()
    assert isinstance(event, DebugException)
    assert (event.hits, event.fault, fd.general.rip) == (1, True, CODE)


def test_hlt_of_a_user_program_faults_as_any_instruction(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, code=b"\xf4" + b"\x90" * 8, cpl=3)
    fd.script.append(debug_exit(NONE | 2, 0x6000 + 16 * 13, rsp=0x7000))  # the net on #GP
    cpu.step(True)
    assert verdict(cpu, cpu.run(), True) == Verdict(Share(DR6_BS), Share())
    assert fd.general.rip == 0x6000 + 16 * 13
