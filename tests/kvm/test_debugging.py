"""Whose #DB is it, for real: injections, steps, breakpoints of both owners, on the host's /dev/kvm."""

import pytest

from kvm.guest import CASE, CHIPS, DATA, DR6, HANDLERS, IDT, KVM, PD, Guest
from silicon.assemble import assemble
from trapgate.arch.debugregs import DR6_BLD, DR6_BS
from trapgate.debug.slots import SlotsError
from trapgate.exits import PortWrite
from trapgate.kvm import probe
from trapgate.stops import BreakpointHit, MachineExit, SoftwareHit, StepDone
from trapgate.vcpu import Breakpoint, Kind, Owner

pytestmark = KVM

TF = 1 << 8
ARM = "mov eax, {address}\nmov dr0, rax\nmov eax, 0x402\nmov dr7, rax\nmov rbx, dr7\nmov rcx, dr0\nnop\nnop\nnop\nnop"
ARMED_NOP = CASE + 0x17  # the second NOP of ARM
OWN_TF = "pushfq\nor dword ptr [rsp], 0x100\npopfq\nnop\nnop\nnop"
STEPPED = [StepDone()]


OURS = pytest.mark.parametrize("engine", ["kvm"], indirect=True)  # the kernel's interrupts never come by here


@pytest.fixture(autouse=True, params=["kvm", CHIPS])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guest, "engine", request.param)


def ours(address: int, number: int = 0) -> Breakpoint:
    return Breakpoint(Owner.DEBUGGER, number, Kind.EXEC, address, 1)


def in_case(guest: Guest, step: bool = True) -> list[int]:
    """Where the guest stopped within the case, not its handlers."""
    return [rip for _, rip in guest.run(step=step) if rip >= CASE]


@pytest.mark.parametrize(
    ("causes", "hits", "reads"),
    [(DR6_BLD, 0, 0xFFFF07F0), (DR6_BS, 0, 0xFFFF4FF0), (DR6_BLD | DR6_BS, 1, 0xFFFF47F1), (0, 0, DR6), (0, 5, DR6 | 5)],
)
@pytest.mark.parametrize("payload", [True, False])
def test_the_guests_handler_reads_exactly_what_was_injected(causes: int, hits: int, reads: int, payload: bool) -> None:
    guest = Guest("nop\nnop")
    if payload and not guest.vcpu.payload:
        pytest.skip("this host lacks KVM_CAP_EXCEPTION_PAYLOAD")
    guest.vcpu.payload = payload
    guest.vcpu.deliver_debug(causes, hits, icebp=False)
    guest.run()
    assert [(one.vector, one.rip, one.dr6) for one in guest.log] == [(1, CASE, reads)]


def test_an_injection_survives_a_kick_and_a_changed_register() -> None:
    guest = Guest("nop\nnop")
    guest.vcpu.deliver_debug(DR6_BLD, 0, icebp=False)
    guest.vcpu.kick()
    assert type(guest.vcpu.run()).__name__ == "Interrupted"
    guest.vcpu.set("r15", 99)
    guest.run()
    assert [one.dr6 for one in guest.log] == [0xFFFF07F0]
    assert guest.vcpu.get("r15") == 99


def test_an_exception_that_waits_in_kvm_survives_a_changed_register() -> None:
    """KVM queues the guest's own single-step trap behind an OUT, when the OUT completes; KVM_SET_REGS alone would drop it."""
    text = "pushfq\nor dword ptr [rsp], 0x100\nmov dx, 0x80\npopfq\nout dx, al\nnop"
    left, changed = Guest(text), Guest(text)
    while changed.bare().run() != PortWrite(0x80, 1, 0):
        pass
    changed.vcpu.set("r15", 99)
    left.run()
    changed.run()
    assert [one.dr6 for one in left.log] == [0xFFFF4FF0]
    assert changed.log == left.log
    assert changed.vcpu.get("r15") == 99


def test_while_stepping_an_injection_stands_on_the_handler_at_once() -> None:
    guest = Guest("nop\nnop")
    guest.vcpu.step(True)
    guest.vcpu.deliver_debug(DR6_BS, 0, icebp=False)
    assert guest.vcpu.get("rip") == HANDLERS + 0x200 + 16
    guest.vcpu.step(False)
    guest.run()
    (log,) = guest.log
    assert (log.dr6, log.rflags & TF) == (0xFFFF4FF0, 0)


def test_steps_go_one_by_one_and_leave_no_trace() -> None:
    guest = Guest("nop\nmov eax, 1\npushfq\npop rbx\nnop")
    assert in_case(guest) == guest.starts[1:8]
    assert guest.vcpu.get("rbx") & TF == 0
    assert guest.log == []
    assert guest.vcpu.get("dr6") == DR6


def test_steps_over_io_mmio_and_cr8_are_finished() -> None:
    text = (
        "mov eax, 4\nmov dx, 0xE9\nout dx, al\nin al, 0x80\nmov eax, 5\nmov cr8, rax\nmov eax, 2\nmov cr8, rax\nmov ebx, [rsi]\nnop"
    )
    guest = Guest(text)
    guest.machine.ram.write_int(0x3000 + 8, 8, 0xFEE00087)
    guest.vcpu.set("rsi", 0x200020)
    assert in_case(guest) == guest.starts[1:13]
    assert guest.vcpu.get("cr8") == 2
    assert guest.log == []


def test_a_step_over_hlt_stands_behind_it() -> None:
    guest = Guest("hlt\nnop")
    assert guest.machine.resume(step=True) == StepDone()
    assert guest.vcpu.get("rip") == CASE + 1


@pytest.mark.parametrize("how", ["alone", "stepped", "beside a breakpoint"])
def test_the_guests_own_tf_traps_once_whoever_looks_on(how: str) -> None:
    guest = Guest(OWN_TF)
    if how == "beside a breakpoint":
        guest.vcpu.arm([ours(guest.starts[7])], [])
    guest.run(step=how == "stepped")
    assert [(one.vector, one.rip, one.dr6, one.rflags & TF) for one in guest.log] == [(1, guest.starts[4], 0xFFFF4FF0, TF)]


@pytest.mark.parametrize("how", ["alone", "stepped", "beside a breakpoint"])
def test_the_guests_own_breakpoint_is_its_own(how: str, lies_idle: str) -> None:
    if lies_idle and how == "beside a breakpoint":
        pytest.skip(lies_idle)
    guest = Guest(ARM.format(address=ARMED_NOP))
    assert ARMED_NOP in guest.starts
    if how == "beside a breakpoint":
        guest.vcpu.arm([ours(ARMED_NOP + 1)], [])
    stops = guest.run(step=how == "stepped")
    assert [(one.vector, one.rip, one.dr6, one.dr7) for one in guest.log] == [(1, ARMED_NOP, DR6 | 1, 0x402)]
    assert (guest.vcpu.get("rbx"), guest.vcpu.get("rcx")) == (0x402, ARMED_NOP)  # and reads its own registers
    hits = [(rip, stop.hits) for stop, rip in stops if isinstance(stop, BreakpointHit)]
    assert hits == ([(ARMED_NOP + 1, (ours(ARMED_NOP + 1),))] if how == "beside a breakpoint" else [])


def test_a_hardware_breakpoint_stops_before_its_instruction_once() -> None:
    guest = Guest("nop\nnop\nnop")
    guest.vcpu.arm([ours(CASE + 1, 3)], [])
    assert guest.run() == [(BreakpointHit((ours(CASE + 1, 3),), True), CASE + 1)]
    assert guest.log == []


def test_in_a_loop_it_stops_each_time() -> None:
    guest = Guest("mov ecx, 3\n1: nop\nloop 1b")
    guest.vcpu.arm([ours(guest.starts[1])], [])
    stops = guest.run()
    assert [rip for _, rip in stops] == [guest.starts[1]] * 3


def test_software_breakpoints_use_registers_while_there_are_any() -> None:
    guest = Guest("nop\nnop\nnop\nnop\nnop")
    at = [CASE + 1, CASE + 3]
    guest.vcpu.arm([], at)
    stop = guest.machine.resume()
    assert (stop, guest.vcpu.get("rip")) == (SoftwareHit(CASE + 1), CASE + 1)
    assert guest.machine.ram.read(CASE, 5) == b"\x90" * 5  # no INT3 anywhere
    assert [rip for _, rip in guest.run()] == [CASE + 3]


def test_without_a_free_register_software_breakpoints_are_int3_bytes() -> None:
    if not (found := probe.int3()).holds:
        pytest.skip(f"this host's KVM does not tell of INT3: {found.seen}")
    guest = Guest("nop\n" * 12)
    guest.vcpu.arm([ours(CASE + 0x100 + n, n) for n in range(4)], [CASE + 2, CASE + 5])
    assert guest.run() == [(SoftwareHit(CASE + 2), CASE + 2), (SoftwareHit(CASE + 5), CASE + 5)]
    assert guest.log == []
    guest.vcpu.arm([], [])
    assert guest.machine.ram.read(CASE, 12) == b"\x90" * 12


def test_a_step_onto_a_software_breakpoint_stops_there_as_such() -> None:
    guest = Guest("nop\nnop\nnop")
    guest.vcpu.arm([], [CASE + 1])
    assert guest.machine.resume(step=True) == StepDone()
    assert guest.machine.resume(step=True) == SoftwareHit(CASE + 1)
    assert guest.machine.resume(step=True) == StepDone()
    assert guest.vcpu.get("rip") == CASE + 2


def test_what_does_not_fit_is_refused_and_the_old_ones_stay() -> None:
    guest = Guest("nop\nnop\nnop")
    guest.vcpu.arm([ours(CASE + 1)], [])
    with pytest.raises(SlotsError, match="5 debug registers needed"):
        guest.vcpu.arm([ours(CASE + n, n) for n in range(5)], [])
    assert [rip for _, rip in guest.run()] == [CASE + 1]


def test_int3_bytes_are_hidden_and_kept_apart_from_what_is_written() -> None:
    guest = Guest("nop\n" * 12)
    vcpu = guest.vcpu
    vcpu.arm([ours(CASE + 0x100 + n, n) for n in range(4)], [CASE + 2])
    vcpu.configure()
    assert guest.machine.ram.read(CASE, 4) == b"\x90\x90\xcc\x90"
    assert vcpu.read_virtual(CASE, 4) == b"\x90" * 4
    assert vcpu.write_virtual(CASE + 1, b"\x40\x41\x42")
    assert guest.machine.ram.read(CASE, 4) == b"\x90\x40\xcc\x42"
    assert vcpu.read_virtual(CASE, 4) == b"\x90\x40\x41\x42"
    vcpu.arm([], [])
    assert guest.machine.ram.read(CASE, 4) == b"\x90\x40\x41\x42"


def test_a_step_into_a_fault_ends_on_the_handler_with_a_clean_frame() -> None:
    guest = Guest("nop\nmov rax, [rsi]\nnop")
    guest.vcpu.set("rsi", 1 << 30)
    assert guest.machine.resume(step=True) == StepDone()
    assert guest.machine.resume(step=True) == StepDone()
    assert guest.vcpu.get("rip") == HANDLERS + 0x200 + 16 * 14
    frame = guest.vcpu.read_virtual(guest.vcpu.get("rsp"), 32)
    words = [int.from_bytes(frame[n : n + 8], "little") for n in range(0, 32, 8)]
    assert words[1:3] == [CASE + 1, 8]
    assert words[3] & TF == 0
    assert guest.machine.resume(step=True) == StepDone()
    assert guest.vcpu.get("rip") == HANDLERS + 0x200 + 16 * 14 + 1


def test_a_guest_that_arms_all_four_pushes_the_debuggers_out_with_a_note() -> None:
    notes: list[str] = []
    guest = Guest(
        "\n".join(["mov eax, 0x7000"] + [f"mov dr{n}, rax\ninc eax" for n in range(4)] + ["mov eax, 0x4AA\nmov dr7, rax\nnop\nnop"])
    )
    guest.vcpu.note = notes.append
    guest.vcpu.arm([ours(CASE)], [])
    stop = guest.machine.resume()
    assert isinstance(stop, BreakpointHit)
    while not isinstance(stop, MachineExit):
        stop = guest.machine.resume(step=True)
    assert len(notes) == 1
    assert "no longer fit" in notes[0]


@OURS
@pytest.mark.parametrize("event", ["interrupt", "nmi"])
def test_what_waits_is_delivered_before_a_step_and_leaves_no_tf(event: str) -> None:
    guest = Guest("sti\nnop\nnop\nnop")
    vcpu = guest.vcpu
    guest.machine.resume(step=True)
    guest.machine.resume(step=True)
    if event == "nmi":
        vcpu.nmi()
    else:
        vcpu.interrupt(0x40)
    assert guest.machine.resume(step=True) == StepDone()
    vector = 2 if event == "nmi" else 0x40
    assert vcpu.get("rip") == HANDLERS + 0x200 + 16 * vector + 2  # behind the handler's first instruction, PUSH
    guest.run()
    assert [(one.vector, one.rip, one.rflags & TF) for one in guest.log] == [(vector, guest.starts[2], 0)]


def test_debug_registers_keep_their_fixed_bits() -> None:
    vcpu = Guest("nop").vcpu
    vcpu.set("dr6", 0)
    vcpu.set("dr7", 0)
    assert (vcpu.get("dr6"), vcpu.get("dr7")) == (0xFFFF07F0, 0x400)
    for name, value in (("dr6", 1 << 32), ("dr7", 1 << 40)):
        with pytest.raises(ValueError, match="63:32"):
            vcpu.set(name, value)
    with pytest.raises(KeyError):
        vcpu.get("dr5")


def test_a_moved_rip_forgets_what_waited() -> None:
    guest = Guest("nop\nnop\nnop")
    guest.vcpu.arm([], [CASE + 1])
    assert guest.machine.resume() == SoftwareHit(CASE + 1)
    guest.vcpu.resume_over()
    guest.vcpu.set("rip", CASE)
    assert [rip for _, rip in guest.run()] == [CASE + 1]


def test_a_breakpoint_on_a_faulting_instruction_stops_once_before_it_has_run() -> None:
    """The handler maps what was missing, and the instruction runs when it is tried again."""
    guest = Guest("mov rax, [rsi]\nnop")
    maps = f"mov ebx, [rsp+24]\nmov dword ptr [{PD + 8}], 0x87\nmov rsp, [rsp+32]\nmov eax, {CASE}\njmp rax"
    guest.machine.ram.write(0xE000, assemble(maps))
    guest.machine.ram.write_int(IDT + 16 * 14, 2, 0xE000)
    guest.machine.ram.write_int(IDT + 16 * 14 + 6, 2, 0)
    guest.vcpu.set("rsi", 0x200000)
    guest.vcpu.arm([ours(CASE)], [])
    assert [rip for _, rip in guest.run()] == [CASE]
    assert guest.vcpu.get("rbx") & TF == 0
    assert guest.vcpu.get("rbx") & 2  # the flags that the fault pushed


def test_a_repeated_instruction_is_passed_as_one() -> None:
    guest = Guest("mov ecx, 9\nrep stosb\nnop")
    guest.vcpu.arm([ours(guest.starts[1])], [])
    assert [rip for _, rip in guest.run()] == [guest.starts[1]]
    assert guest.vcpu.get("rcx") == 0


@OURS
@pytest.mark.parametrize("kind", ["hardware", "software"])
def test_an_interrupt_on_a_breakpoint_does_not_bring_it_back(kind: str) -> None:
    guest = Guest("sti\nnop\nnop\nnop")
    at = guest.starts[2]
    guest.vcpu.arm(*(([ours(at)], []) if kind == "hardware" else ([], [at])))
    assert not isinstance(guest.machine.resume(), MachineExit)
    assert guest.vcpu.get("rip") == at
    guest.vcpu.interrupt(0x40)
    assert isinstance(guest.machine.resume(), MachineExit)
    assert [(one.vector, one.rip, one.rflags & TF) for one in guest.log] == [(0x40, at, 0)]


@pytest.mark.parametrize("how", ["beside a breakpoint", "stepped"])
def test_under_rf_the_guests_own_breakpoint_on_an_emulated_instruction_is_passed(how: str) -> None:
    """KVM emulates OUTS, and looks for breakpoints before it without a look at RF (SDM vol. 3, 18.3.1.1)."""
    access = "nop\n1: outsb\nnop"
    returns = f"inc dword ptr [{DATA}]\nor dword ptr [rsp+16], 0x10000\niretq"
    guest = Guest(f"lea rax, [rip+1f]\nmov dr0, rax\nmov eax, 0x402\nmov dr7, rax\n{access}")
    if not (found := probe.iret()).holds:
        pytest.skip(f"this host's KVM does not run IRET: {found.seen}")
    guest.machine.ram.write(0xE000, assemble(returns))
    guest.machine.ram.write_int(IDT + 16, 2, 0xE000)
    guest.machine.ram.write_int(IDT + 16 + 6, 2, 0)
    guest.vcpu.set("rsi", DATA + 8)
    guest.vcpu.set("rdx", 0x80)
    armed = guest.starts[4]
    guest.machine.vcpu.arm([], [armed])
    assert guest.machine.resume() == SoftwareHit(armed)  # on hosts where it would lie idle for a while, it is armed by now
    guest.vcpu.arm([ours(guest.starts[-5])] if how == "beside a breakpoint" else [], [])
    stops = guest.run(step=how == "stepped")
    assert [rip for stop, rip in stops if isinstance(stop, BreakpointHit)] == (
        [guest.starts[-5]] if how == "beside a breakpoint" else []
    )
    assert guest.machine.ram.read_int(DATA, 4) == 1
