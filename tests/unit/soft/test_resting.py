"""A software CPU at rest: whatever it is amid, another one goes on with; what no CPU can be is refused, and changes nothing."""

from dataclasses import replace

import pytest

from trapgate.arch import msrs
from trapgate.cpustate import Between, CpuState
from trapgate.encoding import decode, encode
from trapgate.exits import DebugException, Exit, GuestException, Halted, MmioRead, MmioWrite, PortRead
from trapgate.isa.state import GUEST_BYTES
from trapgate.soft.resting import NOTHING, HeldState, SoftState
from trapgate.state import State, StateError
from unit.soft.bench import CODE, K64, Bench
from unit.soft.test_answers import DEVICE, HLT, PHYSICAL
from unit.soft.test_answers import bench as with_devices

TF = 1 << 8


def moved(one: Bench, two: Bench) -> None:
    """The second CPU becomes what the first one is; RAM too."""
    state = one.cpu.save()
    two.ram.load(one.ram.save())
    two.cpu.load(decode(encode(state), CpuState, [SoftState, Between]))
    assert two.cpu.save() == state


def bench(code: str) -> Bench:
    made, _ = with_devices(code + HLT)
    made.cpu.devices = None
    return made


def answer(made: Bench, exit_: Exit) -> None:
    if isinstance(exit_, MmioRead | PortRead):
        made.cpu.complete(0x11223344)
    elif isinstance(exit_, DebugException):
        made.cpu.deliver_debug(exit_.causes, exit_.hits, exit_.icebp)


def exits(made: Bench, most: int = 40) -> list[Exit]:
    """Every exit up to HLT, each answered."""
    found: list[Exit] = []
    while not isinstance(exit_ := made.cpu.run(), Halted):
        found.append(exit_)
        answer(made, exit_)
        assert len(found) < most
    return found


AMID = {
    "a read, changed, written": "8307 05",  # add dword [rdi], 5
    "two pages, one a device": "4883ef02 8307 05",  # sub rdi, 2; add [rdi], 5
    "16 bytes": "0f1007 0f1147 10",  # movups
    "string": "f3a4",  # rep movsb, from RAM to the device
    "string, from there": "48 87f7 f3a4",  # xchg rsi, rdi; rep movsb
    "push and pop": "ff37 8f4708",  # push [rdi]; pop [rdi+8]
    "IN": "ec e580",
    "INS": "48 87f7 f36c",
    "exchange": "870787470c",
}


@pytest.mark.parametrize("code", AMID.values(), ids=AMID)
@pytest.mark.parametrize("answered", [True, False])
def test_amid_each_access(code: str, answered: bool) -> None:
    """At each exit in turn, before its answer where it is a read, and after it."""
    alone = bench(code)
    alone.st.rcx = 3
    expected, left = exits(alone), alone.cpu.save()
    assert len(expected) > 1
    for at in range(len(expected)):
        one, two = bench(code), bench(code)
        one.st.rcx = 3
        met: list[Exit] = []
        while len(met) <= at:
            met.append(exit_ := one.cpu.run())
            if answered or len(met) <= at or isinstance(exit_, MmioWrite):
                answer(one, exit_)
        moved(one, two)
        waits = not answered and not isinstance(met[-1], MmioWrite)
        if waits and isinstance(met[-1], PortRead):
            answer(two, met[-1])
        again = [met[-1]] if waits and isinstance(met[-1], MmioRead) else []
        assert met + exits(two) == [*expected[: at + 1], *again, *expected[at + 1 :]], at
        assert two.cpu.save() == left
        assert two.ram.save() == alone.ram.save()


@pytest.mark.parametrize("code", ["cc", "0f0b", "48 8b042500000040"])  # int3; ud2; #PF
def test_an_exception_that_was_told_of(code: str) -> None:
    one, two = bench(code), bench(code)
    for made in (one, two):
        for vector in (3, 6, 14):
            made.gate(vector, K64, CODE + 0x100)
        made.ram.write(CODE + 0x100, b"\xf4")
        made.cpu.catch(frozenset((3, 6, 14)))
    assert isinstance(one.cpu.run(), GuestException)
    moved(one, two)
    assert one.cpu.run() == two.cpu.run() == Halted()
    assert one.cpu.save() == two.cpu.save()
    assert one.ram.save() == two.ram.save()


def test_amid_a_step_of_the_guests() -> None:
    """OUT under TF: the machine is asked, and the trap comes behind it."""
    one, two = bench("ee 90"), bench("ee 90")
    one.st.rflags |= TF
    exit_ = one.cpu.run()
    moved(one, two)
    trap = two.cpu.run()
    assert trap == one.cpu.run() != exit_
    assert isinstance(trap, DebugException)
    assert two.st.rip == CODE + 1


def test_what_waits_is_kept() -> None:
    one, two = bench("fb 90 90"), bench("fb 90 90")  # sti: nothing is taken before the nop
    for made in (one, two):
        made.gate(2, K64, CODE + 0x100)
        made.ram.write(CODE + 0x100, b"\xf4")
    one.cpu.step(True)
    one.cpu.run()
    one.cpu.step(False)
    one.cpu.nmi()
    moved(one, two)
    assert (two.cpu.save().shadow, two.cpu.save().nmi_waits, two.cpu.can_interrupt()) == (1, True, False)
    assert (one.cpu.run(), two.cpu.run()) == (Halted(), Halted())
    assert one.cpu.save() == two.cpu.save()


def wrong() -> list[tuple[str, CpuState]]:
    good = bench("90").cpu.save()
    control, soft = good.control, NOTHING

    def registers(number: int, value: int) -> CpuState:
        return replace(good, control=(*control[:number], value, *control[number + 1 :]))

    segment = replace(good.segments[0], base=1 << 63 >> 1)
    msr = [(index, 1 << 63 >> 1 if index == msrs.LSTAR else value) for index, value in good.msrs]
    mxcsr = good.area[:24] + b"\xff\xff\xff\xff" + good.area[28:]
    return [
        ("model", replace(good, model="Z80")),
        ("RFLAGS", replace(good, rflags=0)),
        ("CR0", registers(0, 1 << 31)),
        ("CR3", registers(2, 1 << 60)),
        ("CR4", registers(3, 1 << 30)),
        ("EFER", registers(4, 0xD01 & ~(1 << 10))),
        ("XCR0", registers(5, 6)),
        ("DR7", replace(good, debug=(*good.debug[:5], 0))),
        ("DR6", replace(good, debug=(*good.debug[:4], 0, good.debug[5]))),
        ("segment", replace(good, segments=(segment, *good.segments[1:]))),
        ("GDT", replace(good, tables=(1 << 62, *good.tables[1:]))),
        ("MSR", replace(good, msrs=tuple(msr))),
        ("an MSR too few", replace(good, msrs=good.msrs[1:])),
        ("MXCSR", replace(good, area=mxcsr)),
        ("area", replace(good, area=good.area[:-1])),
        ("engine", replace(good, underway=State())),
        ("two things", replace(good, underway=replace(soft, answers=(1,), held=HeldState(14, 0, 0, 0)))),
        ("trap", replace(good, underway=replace(soft, held=HeldState(14, 0, 0, 1)))),
    ]


@pytest.mark.parametrize("number", range(18), ids=lambda number: wrong()[number][0])
def test_what_no_cpu_can_be(number: int) -> None:
    made = bench("90")
    made.cpu.tsc_offset, made.st.rbx = 77, 5
    before, held = bytes(made.st)[:GUEST_BYTES], made.cpu.save()
    with pytest.raises(StateError):
        made.cpu.load(wrong()[number][1])
    assert bytes(made.st)[:GUEST_BYTES] == before
    assert made.cpu.save() == held


def test_what_a_field_cannot_hold() -> None:
    good = bench("90").cpu.save()
    for name, value in (("shadow", 3), ("hits", 16), ("general", (0,) * 15), ("rip", -1), ("cr8", 16), ("causes", 1)):
        with pytest.raises(StateError):
            replace(good, **{name: value})  # type: ignore[arg-type]


def test_a_device_is_where_the_tests_say() -> None:
    made = bench("8b07")
    assert exits(made) == [MmioRead(PHYSICAL, 4)]
    assert made.st.rdi == DEVICE


@pytest.mark.parametrize("counting", [False, True])
def test_what_was_translated_stays_known(counting: bool) -> None:
    """And where it is: whoever changes RAM tells of that."""
    made = Bench(counting=counting)
    made.ram.write(CODE, bytes.fromhex("ffc0 ffc3 f4"))  # inc eax; inc ebx; hlt
    made.cpu.budget(100)
    assert isinstance(made.cpu.run(), Halted)
    known = made.cpu.translator.known_blocks
    assert known.added > 0
    state = made.cpu.save()
    made.cpu.load(state)
    assert made.cpu.translator.known_blocks is known
    assert made.cpu.blocks.any
