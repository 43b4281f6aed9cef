"""The target description and the table of packets agree with what gdb expects of them."""

import xml.etree.ElementTree as ElementTree

import pytest

from gdb.pretend import CODE, PretendTarget
from trapgate.gdb.architecture import Architecture
from trapgate.gdb.description import LAYOUTS, NUMBERS, PC, WIDE, size, target_xml
from trapgate.gdb.framing import PACKET_SIZE, Packet, Reader, frame
from trapgate.gdb.packets import PACKETS, find
from trapgate.gdb.session import Session
from trapgate.gdb.target import Stopped, Why

ROOTS = {one: ElementTree.fromstring(target_xml(one)) for one in Architecture}
WITH_AVX = {one: ElementTree.fromstring(target_xml(one, avx=True)) for one in Architecture}
BUILTIN = {
    "int",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint32",
    "uint64",
    "uint128",
    "data_ptr",
    "code_ptr",
    "i387_ext",
    "ieee_single",
    "ieee_double",
}


X87 = "st0 st1 st2 st3 st4 st5 st6 st7 fctrl fstat ftag fiseg fioff foseg fooff fop"
SEGMENTS = "eflags cs ss ds es fs gs"
NARROW = "eax ecx edx ebx esp ebp esi edi eip"  # in gdb's order, as in its own descriptions
WIDE_ONES = "rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip"
CORES = {
    Architecture.I386: f"{NARROW} {SEGMENTS} {X87}",
    Architecture.X86_64: f"{WIDE_ONES} {SEGMENTS} {X87}",
    Architecture.ANY: f"{WIDE_ONES} {SEGMENTS} {X87} {NARROW}",
    Architecture.I8086: f"{WIDE_ONES} {SEGMENTS} {X87} {NARROW}",
}
each = pytest.mark.parametrize("which", Architecture)


def names(root: ElementTree.Element) -> dict[str, list[str]]:
    """The registers of each feature."""
    return {feature.attrib["name"]: [reg.attrib["name"] for reg in feature.iter("reg")] for feature in root.iter("feature")}


@each
@pytest.mark.parametrize("avx", [False, True])
def test_every_register_is_described_once_in_order(which: Architecture, avx: bool) -> None:
    registers = list((WITH_AVX if avx else ROOTS)[which].iter("reg"))
    layout = LAYOUTS[which, avx]
    assert sorted(int(reg.attrib["regnum"]) for reg in registers) == list(range(len(layout.registers)))
    assert len({reg.attrib["name"] for reg in registers}) == len(registers)
    for reg in registers:
        register = layout.registers[int(reg.attrib["regnum"])]
        assert reg.attrib["name"] == register.gdb_name
        assert int(reg.attrib["bitsize"]) == 8 * size(register)


@each
def test_gdbs_features_are_whole_and_in_gdbs_order(which: Architecture) -> None:
    found = names(ROOTS[which])
    assert found["org.gnu.gdb.i386.core"] == CORES[which].split()
    count = 8 if which is Architecture.I386 else 16
    assert found["org.gnu.gdb.i386.sse"] == [*(f"xmm{n}" for n in range(count)), "mxcsr"]
    # gdb knows these two of i386:x86-64 only: elsewhere they are among ours
    assert found.get("org.gnu.gdb.i386.segments") == (["fs_base", "gs_base"] if which is Architecture.X86_64 else None)
    every = {name for group in found.values() for name in group}
    assert {"fs_base", "gs_base", "cr0", "efer", "cs_base", "cs_attributes", "ip"} <= every


@each
def test_avx_has_a_feature_of_its_own_behind_sse(which: Architecture) -> None:
    """gdb manual, i386 Features: it requires that of SSE."""
    without, found = names(ROOTS[which]), names(WITH_AVX[which])
    assert "org.gnu.gdb.i386.avx" not in without
    assert found.pop("org.gnu.gdb.i386.avx") == [f"ymm{n}h" for n in range(8 if which is Architecture.I386 else 16)]
    assert found == without
    assert list(names(WITH_AVX[which]))[:3] == [f"org.gnu.gdb.i386.{name}" for name in ("core", "sse", "avx")]


@each
@pytest.mark.parametrize("avx", [False, True])
def test_g_begins_with_the_core_and_its_registers_come_first(which: Architecture, avx: bool) -> None:
    layout = LAYOUTS[which, avx]
    assert layout.in_g[: len(layout.core)] == layout.core
    assert layout.registers[: len(layout.in_g)] == layout.in_g
    sizes = {Architecture.I386: 16 * 4 + 8 * 10 + 8 * 4 + 8 * 16 + 4, Architecture.X86_64: 552, Architecture.ANY: 552 - 16 + 9 * 4}
    more = avx * 16 * (8 if which is Architecture.I386 else 16)
    assert sum(map(size, layout.in_g)) == sizes[Architecture.ANY if which is Architecture.I8086 else which] + more
    assert [layout.registers[number] for number, _ in layout.expedited] == [register for _, register in layout.expedited]


@pytest.mark.parametrize("which", [Architecture.ANY, Architecture.I8086])
def test_what_serves_every_architecture_has_the_same_bytes_in_each(which: Architecture) -> None:
    assert not [reg.attrib["name"] for reg in ROOTS[which].iter("reg") if reg.attrib["type"] in ("data_ptr", "code_ptr")]


@each
def test_types_are_defined_before_they_are_used(which: Architecture) -> None:
    for feature in ROOTS[which].iter("feature"):
        known = set(BUILTIN)
        for element in feature:
            for user in (element, *element):
                assert user.attrib.get("type", "int") in known, user.attrib
            known.add(element.attrib.get("id", "int"))


@pytest.mark.parametrize("flags", list(ROOTS[Architecture.X86_64].iter("flags")), ids=lambda flags: flags.attrib["id"])
def test_flags_do_not_overlap(flags: ElementTree.Element) -> None:
    bits = [bit for field in flags for bit in range(int(field.attrib["start"]), int(field.attrib["end"]) + 1)]
    assert bits == sorted(set(bits))
    assert bits[-1] < 8 * int(flags.attrib["size"])


def test_some_bits_by_name() -> None:
    places = {
        (flags.attrib["id"], field.attrib["name"]): int(field.attrib["start"])
        for flags in ROOTS[Architecture.X86_64].iter("flags")
        for field in flags
    }
    known = {("cr0", "PG"): 31, ("cr4", "SMAP"): 21, ("efer", "NXE"): 11, ("dr6", "noBLD"): 11, ("dr6", "BS"): 14}
    assert known.items() <= places.items()
    assert places["i386_eflags", "ID"] == 21
    assert places["i386_mxcsr", "FZ"] == 15


def test_what_is_named_to_the_debugger() -> None:
    said = {which: ROOTS[which].findtext("architecture") for which in Architecture}
    assert said == {
        Architecture.I8086: "i8086",
        Architecture.I386: None,
        Architecture.X86_64: "i386:x86-64",
        Architecture.ANY: None,
    }
    assert ElementTree.fromstring(target_xml(Architecture.I386, named=True)).findtext("architecture") == "i386"


def test_every_row_of_the_table_is_reachable_and_told_of() -> None:
    for row in PACKETS:
        found = find(row.prefix if row.whole else row.prefix + b"0")
        assert found is not None
        assert found[0] is row
    session = Session(PretendTarget())
    reply = session.receive(frame(b"qSupported"))
    for capability in (
        f"PacketSize={PACKET_SIZE:x}",
        "swbreak+",
        "hwbreak+",
        "binary-upload+",
        "vContSupported+",
        "QStartNoAckMode+",
    ):
        assert capability.encode() in reply


def test_console_output_only_while_the_guest_runs() -> None:
    target = PretendTarget()
    session = Session(target)
    assert session.say("early") == b""
    session.receive(frame(b"c"))
    events = Reader(runs=True).feed(session.say("bus lock\n") + session.stopped(Stopped(1, text="why")))
    payloads = [event.payload for event in events if isinstance(event, Packet)]
    assert payloads[0] == b"O" + b"bus lock\n".hex().encode()
    assert payloads[1] == b"O" + b"why\n".hex().encode()
    assert payloads[2].startswith(b"T05thread:1;")


def test_a_false_condition_can_be_interrupted() -> None:
    target = PretendTarget()
    session = Session(target)
    sent: list[bytes] = []
    target.on_stop = lambda stop: sent.append(session.stopped(stop))
    session.receive(frame(b"Z0,%x,1;X3,220027" % CODE) + frame(b"c"))
    target.run(500)
    assert set(sent) == {b""}
    assert len(sent) > 10
    session.receive(b"\x03")
    target.run(500)
    assert b"T02" in sent[-1]


def test_hardware_and_software_conditions_are_kept_apart() -> None:
    target = PretendTarget()
    session = Session(target)
    session.receive(frame(b"Z1,%x,1;X3,220027" % CODE) + frame(b"Z0,%x,1" % CODE) + frame(b"c"))
    assert session.stopped(Stopped(1, why=Why.HARDWARE)) == b""
    assert b"T05" in session.stopped(Stopped(1, why=Why.SOFTWARE))
    session.receive(frame(b"Z1,%x,1" % CODE) + frame(b"c"))
    assert b"T05" in session.stopped(Stopped(1, why=Why.HARDWARE))


def test_index_of_the_program_counter_is_gdbs() -> None:
    assert NUMBERS[PC] == 16
    assert WIDE.registers[16].gdb_name == "rip"
    assert WIDE.registers[NUMBERS["rip"]].gdb_name == "ip"
