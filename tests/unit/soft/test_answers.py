"""Device accesses that are answered amid a run: no exit, each made once, and what an answer brings about seen right behind it."""

from collections.abc import Callable

import pytest

from trapgate.exits import DebugException, Exit, Halted, Interrupted, MmioRead, MmioWrite, PortRead
from trapgate.isa import state as s
from trapgate.soft.cpu import SoftVcpu
from unit.soft.bench import CODE, Bench

DEVICE = 0x3FF000  # the last page below 4 MiB is mapped to where no RAM is
PHYSICAL = 0xD0000000
HLT = "f4"


class Recorder:
    """Answers with a running number, and does something at each access where a test asks for it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int, int]] = []
        self.also: Callable[[], None] = lambda: None

    def _note(self, kind: str, at: int, size: int, value: int = 0) -> int:
        self.seen.append((kind, at, size, value))
        self.also()
        return len(self.seen)

    def port_read(self, port: int, size: int) -> int:
        return self._note("in", port, size)

    def port_write(self, port: int, size: int, value: int) -> None:
        self._note("out", port, size, value)

    def memory_read(self, address: int, size: int) -> int:
        return self._note("load", address, size)

    def memory_write(self, address: int, size: int, value: int) -> None:
        self._note("store", address, size, value)


def bench(code: str) -> tuple[Bench, Recorder]:
    """64-bit code at CODE, RDI on a device, RSI on RAM."""
    made, devices = Bench("64"), Recorder()
    made.ram.write(CODE, bytes.fromhex(code))
    made.ram.write_int(0x102008, 8, 0x103007)  # the second 2 MiB by small pages, the last of which is a device
    for n in range(512):
        made.ram.write_int(0x103000 + 8 * n, 8, (2 << 20) + n * 4096 | 7)
    made.ram.write_int(0x103000 + 8 * 511, 8, PHYSICAL | 0x17)
    made.st.rdi, made.st.rsi = DEVICE, CODE + 0x1000
    made.cpu.devices = devices
    return made, devices


def exits_of(made: Bench, most: int = 20) -> list[object]:
    found: list[object] = []
    while not isinstance(exit_ := made.cpu.run(), Halted):
        found.append(exit_)
        if isinstance(exit_, MmioRead):
            made.cpu.complete(0xFF)
        assert len(found) < most
    return found


def test_ports_are_answered_without_an_exit() -> None:
    made, devices = bench("ec 66ed e580 66e781 ee" + HLT)  # in al, dx; in ax, dx; in eax, 80h; out 81h, ax; out dx, al
    made.st.rax, made.st.rdx = 0x1122334455667788, 0xFFFF03F8
    assert made.cpu.run() == Halted()
    assert devices.seen == [
        ("in", 0x3F8, 1, 0), ("in", 0x3F8, 2, 0), ("in", 0x80, 4, 0), ("out", 0x81, 2, 3), ("out", 0x3F8, 1, 3),
    ]  # fmt: skip
    assert made.st.rax == 3


@pytest.mark.parametrize(("size", "left"), [(1, 0x1122334455667701), (2, 0x1122334455660001), (4, 1)])
def test_in_changes_what_its_size_says(size: int, left: int) -> None:
    made, _ = bench({1: "ec", 2: "66ed", 4: "ed"}[size] + HLT)
    made.st.rax = 0x1122334455667788
    made.cpu.run()
    assert made.st.rax == left


def test_a_kick_from_a_port_is_seen_behind_it() -> None:
    made, devices = bench("ee 90 90" + HLT)
    devices.also = made.cpu.kick
    assert made.cpu.run() == Interrupted()
    assert made.st.rip == CODE + 1
    assert made.cpu.run() == Halted()
    assert len(devices.seen) == 1


def test_with_a_breakpoint_of_the_guest_ports_are_exits() -> None:
    made, devices = bench("ec" + HLT)
    made.st.cr4, made.st.rdx = made.st.cr4 | 8, 0x81
    made.cpu.set("dr0", 0x80)
    made.cpu.set("dr7", 0x20402)  # I/O
    assert made.cpu.run() == PortRead(0x81, 1)
    made.cpu.complete(0x55)
    assert made.cpu.run() == Halted()
    assert (made.st.rax & 0xFF, devices.seen) == (0x55, [])


def test_a_place_in_code_that_is_gone_is_not_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step's own block finds no room, and all are forgotten: whatever comes to lie at the old place is something else."""
    made, _ = bench("8b07" + HLT)  # mov eax, [rdi]
    begin, limit = made.cpu._begin_step, int(made.st.code_limit)

    def without_room(site: int = 0) -> Exit | None:
        made.st.code_limit = made.st.code_end
        try:
            return begin(site)
        finally:
            made.st.code_limit = limit

    monkeypatch.setattr(made.cpu, "_begin_step", without_room)
    exits_of(made)
    assert made.cpu.blocks.generation == 1
    assert not made.cpu.device_sites


def test_a_load_is_an_exit_once_and_answered_from_then_on() -> None:
    made, devices = bench("b90a000000 8b07 90 ffc9 75f9" + HLT)  # mov ecx, 10; 1: mov eax, [rdi]; nop; dec ecx; jnz 1b
    exits = exits_of(made)
    assert set(exits) == {MmioRead(PHYSICAL, 4)}
    assert set(devices.seen) == {("load", PHYSICAL, 4, 0)}
    assert (len(exits), len(devices.seen)) == (2, 8)  # there are two places: in the block with MOV ECX, and in the loop's own


def test_a_store_and_what_it_brings_about_right_behind_it() -> None:
    loop = "b90a000000 8807 ffc3 ffc9 75f8" + HLT  # mov ecx, 10; 1: mov [rdi], al; inc ebx; dec ecx; jnz 1b
    made, devices = bench(loop)
    made.st.rax = 0x1234
    exits = exits_of(made)
    assert all(one == MmioWrite(PHYSICAL, 1, 0x34) for one in exits)
    assert len(exits) + len(devices.seen) == 10
    assert len(exits) <= 2
    made.st.rip, made.st.rbx = CODE, 0
    seen: list[tuple[int, int]] = []
    devices.also = made.cpu.kick
    while not isinstance(exit_ := made.cpu.run(), Halted):
        assert exit_ == Interrupted()
        seen.append((made.st.rip, made.st.rbx))
    assert seen == [(CODE + 7, n) for n in range(10)]  # behind each store, before the INC


def test_an_instruction_with_two_accesses_makes_each_once() -> None:
    made, devices = bench("b903000000 ffc3 a5 4883ef04 4883ee04 ffc9 75f1" + HLT)  # 1: inc ebx; movsd; back; dec ecx; jnz 1b
    made.st.rsi = DEVICE + 0x100
    exits = exits_of(made)
    assert not devices.seen
    assert exits == [MmioRead(PHYSICAL + 0x100, 4), MmioWrite(PHYSICAL, 4, 0xFF)] * 3


def test_ram_at_the_place_of_a_device_access_is_ram() -> None:
    made, devices = bench("8b07 4889f7 e2f9" + HLT)  # 1: mov eax, [rdi]; mov rdi, rsi; loop 1b
    made.st.rcx = 6
    made.ram.write_int(CODE + 0x1000, 4, 0xCAFE)
    assert exits_of(made) == [MmioRead(PHYSICAL, 4)]
    assert (made.st.rax, devices.seen) == (0xCAFE, [])
    made.st.rip, made.st.rdi, made.st.rcx = CODE, DEVICE, 1
    exits_of(made)
    made.st.rip, made.st.rdi, made.st.rcx = CODE, (4 << 20) - 2, 1  # half on the device, half on a page that is not mapped
    made.gate(14, 0x08, CODE + 0x800)
    made.ram.write(CODE + 0x800, b"\xf4")
    assert made.cpu.run() == Halted()
    assert made.st.cr2 == 4 << 20


def test_places_are_forgotten_with_their_code() -> None:
    made, devices = bench("b903000000 8b07 90 ffc9 75f9" + HLT)
    exits_of(made)
    assert made.cpu.device_sites
    made.ram.write(CODE + 7, b"\x90")
    assert not made.cpu.device_sites
    devices.seen.clear()
    made.st.rip = CODE
    assert exits_of(made)


def test_an_nmi_before_the_step_does_not_confuse_two_places() -> None:
    """The instruction that is to start again is not the next one: the handler's access must not be taken for it."""
    made, devices = bench("90 8b07" + HLT)
    made.gate(2, 0x08, CODE + 0x800)
    made.ram.write(CODE + 0x800, bytes.fromhex("8807 48cf"))  # mov [rdi], al; iretq
    handler_access = made.cpu._reasons[s.EXIT_ACCESS]

    def access(cpu: SoftVcpu) -> Exit | None:  # the NMI comes as the block meets the device
        if not made.cpu.in_step and not devices.seen:
            devices.seen.append(("nmi", 0, 0, 0))
            made.cpu.nmi()
        return handler_access(cpu)

    made.cpu._reasons[s.EXIT_ACCESS] = access
    assert exits_of(made) == [MmioWrite(PHYSICAL, 1, 0), MmioRead(PHYSICAL, 4)]
    for _ in range(2):
        made.st.rip = CODE
        exits_of(made)
        assert made.st.rip == CODE + 4
    assert devices.seen[1:] == [("load", PHYSICAL, 4, 0)]


def test_instructions_that_change_registers_only_leave_no_run_loop() -> None:
    made, _ = bench("0f31 0fa2 0f31" + HLT)  # rdtsc; cpuid; rdtsc; hlt
    loops: list[int] = []
    boundary = made.cpu._boundary

    def counted() -> object:
        loops.append(made.st.rip)
        return boundary()

    made.cpu._boundary = counted  # type: ignore[assignment, method-assign]
    assert made.cpu.run() == Halted()
    made.st.rip, made.st.rax, made.st.rdx = CODE, 1 << 40, 1 << 40
    loops.clear()
    assert made.cpu.run() == Halted()
    assert loops == [CODE]
    assert made.st.rax | made.st.rdx << 32 == made.cpu.tsc()  # time stands still here
    made.st.rip = CODE
    made.cpu.step(True)
    for n in (2, 4, 6):
        assert isinstance(made.cpu.run(), DebugException)
        assert made.st.rip == CODE + n


def test_one_that_faults_comes_to_its_handler() -> None:
    made, _ = bench("0f31" + HLT)
    made.ram.write(CODE, bytes.fromhex("0f32"))  # rdmsr
    made.st.rcx = 0x12345
    made.gate(13, 0x08, CODE + 0x800)
    made.ram.write(CODE + 0x800, b"\xf4")
    assert made.cpu.run() == Halted()
    assert made.words(made.st.rsp, 2, 8) == [0, CODE]


@pytest.mark.parametrize("step", [False, True])
def test_an_answer_goes_with_the_access_that_somebody_moved_rip_away_from(step: bool) -> None:
    made, _ = bench("8b07" + "90" + "8b1f" + HLT)  # mov eax, [rdi]; nop; mov ebx, [rdi]
    made.cpu.devices = None
    made.cpu.step(step)
    assert isinstance(made.cpu.run(), MmioRead)
    made.cpu.complete(0x11)
    made.cpu.set("rip", CODE + 3)
    made.cpu.step(False)
    assert isinstance(made.cpu.run(), MmioRead)
    made.cpu.complete(0x22)
    assert isinstance(made.cpu.run(), Halted)
    assert made.st.rbx == 0x22 and made.st.rax != 0x11
