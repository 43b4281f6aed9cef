"""The cases of the debug architecture on KVM, alone and with a debugger at them: the state that the software CPU ends in.

The guest is laid out by the software CPU's harness and copied. It ends with OUT instead of INT 30h, which fewer hosts execute.
"""

from collections.abc import Iterator
from functools import cache

import pytest

from kvm.guest import KVM, SLOWER, Guest, close_all, empty
from kvm.states import Hidden, copy, differences, registers
from programs.debug import harness
from programs.debug.cases import CASES, Case
from silicon.assemble import assemble
from trapgate.arch.debugregs import DEBUGCTL_BUS_LOCK, DR6_BS, DR6_RTM, DR7_GD, SLOTS, slot
from trapgate.arch.flags import RF, TF
from trapgate.arch.models import CpuModel
from trapgate.debug import slots
from trapgate.kvm import cpu as kvm
from trapgate.kvm import probe
from trapgate.machine import Machine, MachineConfig
from trapgate.soft import cpu as soft
from trapgate.stops import MachineExit, Paused
from trapgate.vcpu import Breakpoint, Kind, Owner

pytestmark = KVM
END = "mov dx, 0xF4\nmov al, 0\nout dx, al\nhlt"
LAST = -5  # the instruction before END
ELSEWHERE = Breakpoint(Owner.DEBUGGER, 0, Kind.EXEC, 0x1F0000, 1)
TESTABLE = [case for case in CASES if not case.armed.test_ctrl and not case.armed.msrs and "int 0x30" not in case.text]


@pytest.fixture(scope="module")
def lacks() -> set[str]:
    """What this host's KVM was not seen to do."""
    probes = (probe.iret, probe.int1, probe.int3, probe.interrupt, probe.watchpoint, probe.detect)
    return {one.name for one in (ask() for ask in probes) if not one.holds}


@pytest.fixture(scope="module")
def open_bits() -> int:
    """The bits of DR6 that are the host's own: RTM, where its CPU has that. KVM does not stand between the guest and DR6, so it can
    be written though the guest's CPUID has no RTM (SDM vol. 3, 18.2.3: bit 16 is reserved there)."""
    guest = Guest("mov eax, 0xFFFE0FF0\nmov dr6, rax\nmov rbx, dr6")
    guest.run()
    read = guest.vcpu.get("rbx")
    close_all()  # no test has begun that would
    assert read | DR6_RTM == 0xFFFF0FF0
    return 0 if read & DR6_RTM else DR6_RTM


@pytest.fixture(scope="module")
def open_flags(lacks: set[str]) -> int:
    """RF, where it outlives the instruction behind IRET (SDM vol. 3, 18.3.1.1: it must not), as in QEMU's TCG to a block's end."""
    if "IRET" in lacks:
        return 0
    guest = Guest("mov rbx, rsp\npush 0x10\npush rbx\npush 0x10002\npush 8\nlea rax, [rip+1f]\npush rax\niretq\n1: nop\nnop")
    guest.run()
    flags = guest.vcpu.get("rflags")
    close_all()
    return flags & RF


def at_the_end(vcpu: soft.SoftVcpu | kvm.KvmVcpu, open_flags: int) -> dict[str, int | Hidden]:
    """Registers behind the last OUT. KVM puts BS of the trap behind that into DR6 before it delivers it."""
    found = registers(vcpu)
    flags, value = found["rflags"], found["dr6"]
    assert isinstance(flags, int)
    assert isinstance(value, int)
    return found | {"rflags": flags & ~open_flags, "dr6": value & ~DR6_BS if flags & TF else value}


def without(bits: int, values: dict[str, int | Hidden]) -> dict[str, int | Hidden]:
    """Registers, where a case on DR6 leaves it, with some bits of it set."""
    return values | {name: value | bits for name in ("rax", "dr6") if isinstance(value := values[name], int)}


@pytest.fixture(autouse=True)
def ending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "machine_code", cache(lambda text: assemble(f"{text}\n{END}")))


def needs(case: Case, how: str, lacks: set[str]) -> Iterator[str]:
    """What the host must do for this case, by the names of the probes."""
    if case.armed.dr7 & DR7_GD and how != "alone":
        yield "DR accesses"
    enabled = [slot(case.armed.dr7, n) for n in range(SLOTS)]
    takes_registers = how == "beside a breakpoint" or (how == "beside a software breakpoint" and "INT3" in lacks)
    if takes_registers and any(one.enabled for one in enabled):  # what the guest arms lies idle until the next exit
        yield "DR accesses"
    if any(one.enabled and one.rw for one in enabled):
        yield "watchpoint"
    if case.armed.ring == 3 or (case.armed.tf and how == "stepped"):  # IRET loads TF, and the trap comes an instruction later
        yield "IRET"
    for word, name in (("int1", "INT1"), ("0xF1", "INT1"), ("int3", "INT3"), ("int 0x", "INT n")):
        if word in case.text:
            yield name


@cache
def host(cpu: str) -> tuple[bool, bool]:
    """Whether KVM's CPU is AMD's, and whether a guest with this model has bus-lock traps."""
    vcpu = empty("kvm", MachineConfig(memory=2 << 20, cpu=cpu)).vcpu
    assert isinstance(vcpu, kvm.KvmVcpu)
    return vcpu.amd_host, "bus-lock-detect" not in vcpu.lost_features


def skip_for_another_cpu(case: Case) -> None:
    """Skips where the host has another CPU than the case is about."""
    amd, bus_locks = host(case.cpu)
    if amd is not CpuModel.parse(case.cpu).amd:
        pytest.skip("the case is about a CPU of the other vendor")
    if not bus_locks and (case.armed.debugctl & DEBUGCTL_BUS_LOCK or case.name.startswith("DR6")):
        pytest.skip("this host's CPU or KVM has no bus-lock trap, on which DR6 depends")


def on_kvm(case: Case, guest: harness.Guest) -> Machine:
    """The same guest on KVM."""
    machine = empty("kvm", MachineConfig(memory=2 << 20, cpu=case.cpu))
    vcpu = machine.vcpu
    assert isinstance(vcpu, kvm.KvmVcpu)
    machine.ram.write(0, guest.memory)
    copy(guest.vcpu, vcpu)
    machine.clock.at(5_000_000_000 * SLOWER, machine.pause)
    return machine


@pytest.mark.parametrize("how", ["alone", "beside a breakpoint", "beside a software breakpoint", "stepped"])
@pytest.mark.parametrize("case", TESTABLE, ids=lambda case: case.name)
def test_case(case: Case, how: str, lacks: set[str], open_bits: int, open_flags: int) -> None:
    if missing := sorted(lacks & set(needs(case, how, lacks))):
        pytest.skip(f"this host's KVM does not do {', '.join(missing)}")
    skip_for_another_cpu(case)
    guest = harness.Guest(case.text, case.armed, case.cpu, LAST if case.resume_at == -1 else case.resume_at)
    machine = on_kvm(case, guest)
    guest.run()
    if how == "beside a breakpoint":
        try:
            machine.vcpu.arm([ELSEWHERE], [])
        except slots.SlotsError as error:
            pytest.skip(str(error))
    if how == "beside a software breakpoint":
        machine.vcpu.arm([], [ELSEWHERE.address])
    stop = machine.resume(step=how == "stepped")
    while not isinstance(stop, (MachineExit, Paused)):
        stop = machine.resume(step=how == "stepped")
    assert isinstance(stop, MachineExit), stop
    machine.vcpu.arm([], [])
    found, expected = at_the_end(machine.vcpu, open_flags), at_the_end(guest.vcpu, open_flags)  # type: ignore[arg-type]
    wrong = differences(machine.ram, guest.machine.ram)
    if case.name.startswith("DR6"):  # the others read no bit of DR6 that they have written
        found, expected = without(open_bits, found), without(open_bits, expected)
        wrong = [one for one in wrong if (one[1] ^ one[2]) & ~open_bits]
    assert found == expected
    assert wrong == []
