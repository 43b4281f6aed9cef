"""Implicit accesses beyond the table: NMIs, #DBs without end, page walks, real mode, and who is stopped where."""

from collections.abc import Callable

from programs.debug.cases import BS, DB, NONE, UD, WRITE, arm
from programs.debug.harness import CASE, GDT, IDT, IF, PD, PML4, PT, TF, TSS, U32, Armed, Guest, handler
from programs.debug.implicit import FRAME0, FRAME3
from trapgate.build import make_machine
from trapgate.machine import ClockKind, MachineConfig
from trapgate.stops import BreakpointHit, ExitKind, MachineExit, Paused, SoftwareHit, StepDone
from trapgate.vcpu import Breakpoint, Kind, Owner

NMI = 2


def ours(*wanted: tuple[Kind, int, int]) -> list[Breakpoint]:
    return [Breakpoint(Owner.DEBUGGER, n, *one) for n, one in enumerate(wanted)]


def counted(guest: Guest, then: Callable[[], None], after: int) -> list[int]:
    """Call `then` once, behind that many #DBs; the list grows by each."""
    vcpu, deliver, seen = guest.vcpu, guest.vcpu.deliver_debug, list[int]()

    def counting(causes: int, hits: int, icebp: bool) -> None:
        deliver(causes, hits, icebp)
        seen.append(vcpu.get("rip"))
        if len(seen) == after:
            then()

    vcpu.deliver_debug = counting  # type: ignore[method-assign]
    return seen


def test_a_debug_exception_that_raises_itself_for_ever_can_be_paused() -> None:
    """With an IST stack its frame comes to the same place again: CVE-2015-8104 hung the CPU. The debugger keeps its hold."""
    guest = Guest("nop\nnop", Armed((0, 0xCFF8), arm(1, WRITE, 8), tf=True))
    ram = guest.machine.ram
    ram.write_int(TSS + 0x24, 8, 0xD000)
    ram.write(IDT + 16 * DB + 4, b"\x01")
    seen = counted(guest, guest.machine.pause, 100)
    assert guest.machine.resume() == Paused()
    assert set(seen) == {handler(DB)}
    assert 100 <= len(seen) < 110
    assert guest.log == []
    assert guest.vcpu.get("dr6") == BS | 2


def test_without_a_stack_of_its_own_it_runs_out_of_stack() -> None:
    guest = Guest("nop\nnop", Armed((0, IDT + 16 * DB), arm(1, 3, 8), tf=True))
    seen = counted(guest, guest.machine.pause, 4000)
    end = guest.machine.resume()
    assert isinstance(end, MachineExit)
    assert end.kind is ExitKind.SHUTDOWN
    assert len(seen) > 500


def test_an_nmi_pushes_a_frame_too() -> None:
    guest = Guest("nop\nnop", Armed((0, FRAME0), arm(1, WRITE, 8), ring=0), resume_at=0)
    guest.vcpu.arm((), (CASE,))
    assert guest.machine.resume() == SoftwareHit(CASE)
    guest.vcpu.arm((), ())
    guest.vcpu.nmi()
    assert guest.run() == []
    log = [(one.vector, one.dr6, one.rip) for one in guest.log]
    assert log[:2] == [(DB, NONE | 2, handler(NMI)), (NMI, NONE, CASE)]


def test_an_nmi_waits_behind_mov_ss() -> None:
    guest = Guest("mov ss, [rdi+128]\nnop\nnop", Armed(ring=0), resume_at=2)
    guest.vcpu.arm((), (CASE,))
    assert guest.machine.resume() == SoftwareHit(CASE)
    guest.vcpu.arm((), ())
    assert guest.machine.resume(step=True) == StepDone()
    guest.vcpu.nmi()
    assert guest.run() == []
    assert [(one.vector, one.rip) for one in guest.log[:-1]] == [(NMI, guest.starts[2])]


def test_page_walks_hit_nothing() -> None:
    """Page tables are read and their accessed bits set by physical address."""
    guest = Guest("mov eax, [0x80000]\nmov [0x81000], eax\nnop", Armed())
    guest.vcpu.arm(ours((Kind.ACCESS, PML4, 0x1000), (Kind.ACCESS, PD, 0x1000), (Kind.ACCESS, PT, 0x1000)), ())
    assert guest.run() == []
    assert [guest.machine.ram.read_int(PT + 8 * page, 8) & 0x60 for page in (0x80, 0x81)] == [0x20, 0x60]


def test_a_step_into_a_handler_reports_the_frame() -> None:
    guest = Guest("ud2\nnop", Armed())
    points = ours((Kind.WRITE, FRAME3, 8), (Kind.READ, IDT + 16 * UD, 1))
    guest.vcpu.arm(points, (CASE,))
    assert guest.machine.resume() == SoftwareHit(CASE)
    assert guest.machine.resume(step=True) == BreakpointHit(tuple(points), fault=False)
    assert guest.vcpu.get("rip") == handler(UD)
    assert guest.machine.resume(step=True) == StepDone()
    assert guest.vcpu.get("rip") == handler(UD) + 2


def test_the_frame_of_the_guests_own_trap_behind_a_step() -> None:
    """The step ends first, with the guest's #DB queued; its delivery then hits the debugger's watchpoint, with nothing run."""
    guest = Guest("nop\nnop", Armed(tf=True))
    points = ours((Kind.WRITE, FRAME3, 8))
    guest.vcpu.arm(points, (CASE,))
    assert guest.machine.resume() == SoftwareHit(CASE)
    assert guest.machine.resume(step=True) == StepDone()
    assert guest.vcpu.get("rip") == CASE + 1
    assert guest.machine.resume() == BreakpointHit(tuple(points), fault=False)
    assert guest.vcpu.get("rip") == handler(DB)
    assert guest.vcpu.get("dr6") == BS


def test_a_segment_that_the_debugger_loads_hits_nothing() -> None:
    guest = Guest("nop\nnop", Armed())
    guest.vcpu.arm(ours((Kind.READ, GDT + U32, 8)), (CASE,))
    assert guest.machine.resume() == SoftwareHit(CASE)
    guest.vcpu.set("ds", U32 | 3)
    assert guest.vcpu.get("ds") == U32 | 3
    assert guest.run() == []


def test_real_mode_vectors_and_frames() -> None:
    config = MachineConfig(memory=1 << 20, clock=ClockKind.INSTRUCTIONS)
    machine = make_machine(config)
    machine.ram.write(0x1000, bytes.fromhex("cd20 ebfe"))  # int 20h; jmp .
    machine.ram.write(4 * 0x20, (0x2000).to_bytes(4, "little"))
    machine.ram.write(0x2000, b"\xcf")  # iret
    vcpu = machine.vcpu
    for name, value in (("cs", 0), ("ss", 0), ("rip", 0x1000), ("rsp", 0x7000), ("rflags", IF | TF | 2)):
        vcpu.set(name, value)
    points = ours((Kind.READ, 4 * 0x20, 1), (Kind.WRITE, 0x6FFF, 1), (Kind.READ, 0x6FFA, 1))
    vcpu.arm(points, ())
    assert machine.resume() == BreakpointHit(tuple(points[:2]), fault=False)
    assert vcpu.get("rip") == 0x2000
    assert machine.resume() == BreakpointHit(tuple(points[2:]), fault=False)
    assert vcpu.get("rip") == 0x1002
