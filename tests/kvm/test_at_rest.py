"""A vCPU on KVM at rest: another VM goes on with it; what no CPU can be is refused, and changes nothing."""

from dataclasses import replace

import pytest

from kvm.guest import KVM, Guest
from trapgate.arch import msrs
from trapgate.cpustate import Between, CpuState
from trapgate.encoding import decode, encode
from trapgate.kvm.resting import KvmState
from trapgate.state import State, StateError
from trapgate.stops import MachineExit
from trapgate.vcpu import EngineError

pytestmark = KVM
TEXT = """
    mov ecx, 0xC0000082
    mov eax, 0x12345678
    xor edx, edx
    wrmsr
    mov rax, 0x1234
    mov dr1, rax
    mov ecx, 5
1:  add [rdi], rcx
    push rcx
    int3
    pop rcx
    std
    loop 1b
    cld
    mov ecx, 0xC0000082
    rdmsr
    mov rsi, dr1
"""
REGISTERS = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rip", "rflags", "cs", "ss", "cr0", "cr3", "efer", "dr1", "mxcsr", "xmm3",
    "st0", "fctrl",
)  # fmt: skip


def quiet(state: CpuState) -> CpuState:
    """Without the counter, which goes on while nobody runs."""
    return replace(state, tsc_offset=0)


def outcome(guest: Guest) -> tuple[object, ...]:
    assert isinstance(guest.machine.resume(), MachineExit)
    return *(guest.vcpu.get(name) for name in REGISTERS), guest.machine.ram.save()


@pytest.mark.parametrize("steps", [0, 3, 7, 9, 11, 14, 15, 16, 20, 31])
def test_another_vm_goes_on(steps: int) -> None:
    one, two = Guest(TEXT), Guest(TEXT)
    for name, value in (("xmm3", 0x1122334455667788), ("st0", 0x3FFF8000000000000001), ("fctrl", 0x27F), ("mxcsr", 0x1F00)):
        one.vcpu.set(name, value)
    for _ in range(steps):
        one.machine.resume(step=True)
    one.vcpu.step(False)
    state = one.vcpu.save()
    two.machine.ram.load(one.machine.ram.save())
    two.vcpu.load(decode(encode(state), CpuState, [KvmState, Between]))
    assert quiet(two.vcpu.save()) == quiet(state)
    assert outcome(one) == outcome(two)


def test_what_it_cannot_be_changes_nothing() -> None:
    vcpu = Guest(TEXT).vcpu
    good = vcpu.save()
    wrong = [
        replace(good, rflags=0),
        replace(good, control=(1 << 31, *good.control[1:])),
        replace(good, msrs=tuple((index, 1 << 62 if index == msrs.LSTAR else value) for index, value in good.msrs)),
        replace(good, underway=State()),
    ]
    for state in wrong:
        with pytest.raises(StateError):
            vcpu.load(state)
        assert quiet(vcpu.save()) == quiet(good)


def test_what_cannot_be_kept() -> None:
    vcpu = Guest("mov al, 1\nout 0x80, al\nin al, 0x80").vcpu
    vcpu.run()
    vcpu.run()
    with pytest.raises(EngineError, match="amid an instruction"):
        vcpu.save()


@pytest.mark.parametrize("index", [msrs.SYSENTER_ESP, msrs.SYSENTER_EIP, msrs.LSTAR, msrs.SFMASK, msrs.PAT])
def test_what_a_kvm_keeps_beyond_the_model_is_left_out(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An AMD CPU ignores the upper halves of where SYSENTER leads; its KVM may keep them."""
    one, two = Guest("nop").vcpu, Guest("nop").vcpu
    known = one.fd.msr
    monkeypatch.setattr(one.fd, "msr", lambda asked: 0xFFFF_FE00_0000_3000 if asked == index else known(asked))
    if index in (msrs.SYSENTER_ESP, msrs.SYSENTER_EIP, msrs.LSTAR):
        state = one.save()
        two.load(state)
        assert quiet(two.save()) == quiet(state)
        assert dict(state.msrs)[index] == (0x3000 if one.model.amd and index != msrs.LSTAR else 0xFFFF_FE00_0000_3000)
    else:
        with pytest.raises(StateError, match="cannot hold"):
            two.load(one.save())
