"""The target description and the table of packets agree with what gdb expects of them."""

import xml.etree.ElementTree as ElementTree

import pytest

from gdb.pretend import CODE, PretendTarget
from trapgate.gdb.description import BY_NAME, IN_G, REGISTERS, size, target_xml
from trapgate.gdb.framing import PACKET_SIZE, Packet, Reader, frame
from trapgate.gdb.packets import PACKETS, find
from trapgate.gdb.session import Session
from trapgate.gdb.target import Stopped, Why

ROOT = ElementTree.fromstring(target_xml())
BUILTIN = {
    "int",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint32",
    "uint128",
    "data_ptr",
    "code_ptr",
    "i387_ext",
    "ieee_single",
    "ieee_double",
}


def test_every_register_is_described_once_in_order() -> None:
    numbers = [int(reg.attrib["regnum"]) for reg in ROOT.iter("reg")]
    assert numbers == list(range(len(REGISTERS)))
    sizes = [int(reg.attrib["bitsize"]) for reg in ROOT.iter("reg")]
    assert sizes == [8 * size(register) for register in REGISTERS]


def test_gdbs_features_are_whole_and_in_gdbs_order() -> None:
    names = {feature.attrib["name"]: [reg.attrib["name"] for reg in feature.iter("reg")] for feature in ROOT.iter("feature")}
    core = (
        "rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip eflags cs ss ds es fs gs st0 st1 st2 st3 st4 st5 st6 st7"
    )
    assert names["org.gnu.gdb.i386.core"] == (core + " fctrl fstat ftag fiseg fioff foseg fooff fop").split()
    assert names["org.gnu.gdb.i386.sse"] == [*(f"xmm{n}" for n in range(16)), "mxcsr"]
    assert names["org.gnu.gdb.i386.segments"] == ["fs_base", "gs_base"]
    assert sum(map(size, IN_G)) == 552


def test_types_are_defined_before_they_are_used() -> None:
    for feature in ROOT.iter("feature"):
        known = set(BUILTIN)
        for element in feature:
            for user in (element, *element):
                assert user.attrib.get("type", "int") in known, user.attrib
            known.add(element.attrib.get("id", "int"))


@pytest.mark.parametrize("flags", list(ROOT.iter("flags")), ids=lambda flags: flags.attrib["id"])
def test_flags_do_not_overlap(flags: ElementTree.Element) -> None:
    bits = [bit for field in flags for bit in range(int(field.attrib["start"]), int(field.attrib["end"]) + 1)]
    assert bits == sorted(set(bits))
    assert bits[-1] < 8 * int(flags.attrib["size"])


def test_some_bits_by_name() -> None:
    places = {
        (flags.attrib["id"], field.attrib["name"]): int(field.attrib["start"]) for flags in ROOT.iter("flags") for field in flags
    }
    known = {("cr0", "PG"): 31, ("cr4", "SMAP"): 21, ("efer", "NXE"): 11, ("dr6", "noBLD"): 11, ("dr6", "BS"): 14}
    assert known.items() <= places.items()
    assert places["i386_eflags", "ID"] == 21
    assert places["i386_mxcsr", "FZ"] == 15


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


def test_index_of_rip_is_gdbs() -> None:
    assert BY_NAME["rip"] == 16
