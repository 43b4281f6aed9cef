"""What broken and hostile clients send: the six bugs that recur in stubs, and whatever else comes to mind."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdb.pretend import CODE, DATA, END, PretendTarget
from trapgate.gdb import answer_data
from trapgate.gdb.context import State
from trapgate.gdb.framing import PACKET_SIZE, Packet, Reader, frame
from trapgate.gdb.packets import PACKETS
from trapgate.gdb.session import Session


def replies(session: Session, payload: bytes) -> list[bytes]:
    """The payloads of everything that is sent in answer to a packet."""
    events = Reader(runs=True).feed(session.receive(frame(payload)))
    return [event.payload for event in events if isinstance(event, Packet)]


@pytest.fixture
def session() -> Session:
    return Session(PretendTarget())


# The six


@pytest.mark.parametrize("payload", [b"m1000,ffffffff", b"m1000,ffffffffffffffff", b"x1000,ffffffffffffffff"])
def test_1_a_length_larger_than_any_buffer(session: Session, payload: bytes) -> None:
    (reply,) = replies(session, payload)
    assert len(frame(reply)) <= PACKET_SIZE
    mapped = END - CODE
    assert len(reply) == (2 * mapped if payload[:1] == b"m" else mapped + 1)


def test_1_lengths_at_the_end_of_the_address_space(session: Session) -> None:
    assert replies(session, b"mffffffffffffffff,ffffffffffffffff") == [b"E14"]
    assert replies(session, b"Mffffffffffffffff,2:0000") == [b"E14"]
    assert replies(session, b"Z2,ffffffffffffffff,2") == [b"E22"]
    assert replies(session, b"Z2,1000,ffffffff") == [b"E22"]


@pytest.mark.parametrize(
    "payload", [b"M2000,4:0102", b"M2000,4:", b"M2000,4", b"M2000,1:0102", b"M2000,1:0", b"X2000,4:ab", b"M2000,2:01zz"]
)
def test_2_less_data_than_announced(session: Session, payload: bytes) -> None:
    before = replies(session, b"m2000,8")
    assert replies(session, payload) == [b"E22"]
    assert replies(session, b"m2000,8") == before


BAD = """m m1000 m1000, m,4 mzz,4 m1000,4,4 m-1,4 m11111111111111111,4 m0x10,1 m1_0,1 m\xb2,1 p pzz pffff P P0 P0= P0=11 P0=zz
Pff=00 G G00 G0 gg? Z0 Z0, Z0,1000 Z0,zz,1 Z0,1000,1;Y Z0,1000,1;X5,00 Z0,1000,1;X0, Z2,1000,1;X1,27 Z2,1000,0 z0,1 vCont; vCont;q
vCont;s:zz vCont;s:7f vCont;s:0 vCont;r1 vCont;r1,2,3 vCont;C vCont;sX czz Czz S Hg Hgzz Hg9 Hc7 T9 Tzz qRcmd,1 qRcmd,zz
qThreadExtraInfo, qThreadExtraInfo,9 qXfer:features:read: qXfer:features:read:target.xml:zz,1
qXfer:features:read:target.xml:ffffff,1 qXfer:features:read:../../etc/passwd:0,100 qXfer:threads:read:x:0,1
Q q v QNonStop:1 vFile:open:2f,0 vFile:open:zz,0,0 vFile:pread:0 vFile:pread:0,1 vFile:close:
vFile:fstat:x vFile:unlink:2f vAttach;1"""


@pytest.mark.parametrize("payload", BAD.split())
def test_3_a_senseless_packet_is_an_error_not_the_end(session: Session, payload: str) -> None:
    (reply,) = replies(session, payload.encode("latin-1"))
    assert reply == b"" or (reply[:1] == b"E" and len(reply) == 3), reply
    assert session.state is State.STOPPED
    assert replies(session, b"qC") == [b"QC1"]


def test_4_a_packet_longer_than_advertised_gets_an_error_at_once(session: Session) -> None:
    supported = dict(item.partition("=")[::2] for item in replies(session, b"qSupported")[0].decode().split(";"))
    assert int(supported["PacketSize"], 16) == PACKET_SIZE
    answer = session.receive(b"$" + b"a" * int(supported["PacketSize"], 16))
    assert answer.startswith(b"+$E22")
    assert session.receive(b"a" * 1000 + b"#00") == b""
    assert replies(session, b"qC") == [b"QC1"]


def test_4_the_longest_write_is_taken(session: Session) -> None:
    assert replies(session, b"G" + b"0" * 100_000) == [b"E22"]
    whole = 0x2000
    assert replies(session, b"M1000,%x:" % whole + b"ab" * whole) == [b"OK"]
    assert replies(session, b"M1000,%x:" % (whole + 1) + b"ab" * (whole + 1)) == [b"E14"]


def test_5_bad_run_lengths_in_requests_are_no_runs(session: Session) -> None:
    for raw in (b"m1000,4*", b"m1000*~", b"*", b"m*\x00"):
        answer = session.receive(b"$" + raw + b"#%02x" % (sum(raw) & 255))
        assert answer in (b"+$E22#a9", b"+$#00"), answer


@pytest.mark.parametrize(
    "payload",
    [b"vMustReplyEmpty", b"vUnknown", b"vUnknown;1", b"vContinue", b"qCRC:0,1", b"Z5,0,1", b"i", b"\xff", b"qTStatus", b""],
)
def test_6_unknown_packets_get_an_empty_reply(session: Session, payload: bytes) -> None:
    assert replies(session, payload) == [b""]


# And more


def test_wrong_checksum_is_asked_for_again(session: Session) -> None:
    assert session.receive(b"$?#00") == b"-"
    assert session.receive(b"$QStartNoAckMode#b0") == b"+$OK#9a"
    assert session.receive(b"$?#00").startswith(b"$E22")


def test_nack_repeats_the_last_packet(session: Session) -> None:
    assert session.receive(frame(b"qC")) == b"+$QC1#c5"
    assert session.receive(b"-") == b"$QC1#c5"
    assert session.receive(b"-") == b"$QC1#c5"


def test_a_first_packet_that_was_sent_again_while_we_started_is_answered_once(session: Session) -> None:
    words = frame(b"qSupported:swbreak+")
    answer = session.receive(b"+" + words + words)
    assert answer.startswith(b"+$PacketSize=")
    assert answer.count(b"$") == 1
    assert session.receive(words).startswith(b"+$PacketSize=")
    assert session.receive(frame(b"qC") + frame(b"qC")).count(b"QC1") == 2


def test_many_nacks_in_one_piece_are_answered_once(session: Session) -> None:
    session.receive(frame(b"qC"))
    assert session.receive(b"-" * 4096) == b"$QC1#c5"
    assert session.receive(b"-" + frame(b"qC") + b"--") == b"$QC1#c5" + b"+$QC1#c5" + b"$QC1#c5"


def test_a_session_attaches_and_detaches() -> None:
    target = PretendTarget()
    session = Session(target)
    assert target.log == ["attach"]
    session.receive(frame(b"?") + b"junk")
    session.disconnected()
    assert target.log == ["attach", "detach"]


def test_packets_while_running_are_refused_but_for_the_last_words(session: Session) -> None:
    assert replies(session, b"vCont;c") == []
    for payload in (b"g", b"m1000,4", b"vCont;c", b"c", b"Z0,1000,1", b"qRcmd,00"):
        assert replies(session, payload) == [b"E11"]
    assert replies(session, b"D") == [b"OK"]
    assert session.state is State.DISCONNECTED


def test_nothing_is_said_after_the_end(session: Session) -> None:
    replies(session, b"k")
    assert replies(session, b"qC") == []
    session.disconnected()


def test_interrupts_while_stopped_are_ignored(session: Session) -> None:
    assert session.receive(b"\x03\x03") == b""
    assert replies(session, b"qC") == [b"QC1"]


def test_errors_carry_words_for_clients_that_read_them(session: Session) -> None:
    replies(session, b"qSupported:error-message+")
    assert replies(session, b"Z1,bad,1")[-1] == b"E.no slot is left"
    assert replies(session, b"M2000,4:01") == [b"E.1 bytes of data where 4 were announced"]


_PREFIXES = st.sampled_from([row.prefix for row in PACKETS if row.prefix not in (b"k", b"D", b"vKill")])
_TAILS = st.one_of(
    st.binary(max_size=40),
    st.text("0123456789abcdef,;:=-XcCsSr", max_size=40).map(str.encode),
    st.sampled_from([b"%x,10" % DATA, b"0,4;X3,220127", b"1000,4;X6,262000110027X1,27", b"c", b"s:1", b"target.xml:0,fff"]),
)


@settings(max_examples=400)
@given(st.lists(st.tuples(_PREFIXES, _TAILS), max_size=8))
def test_fuzz_packets(packets: list[tuple[bytes, bytes]]) -> None:
    target = PretendTarget(cpus=2)
    session = Session(target)
    target.on_stop = session.stopped
    for prefix, tail in packets:
        answered = replies(session, prefix + tail)
        assert all(len(frame(reply)) <= 2 * PACKET_SIZE for reply in answered)
        if session.state is State.RUNNING:
            assert not answered
            target.interrupt()
            target.run(50)
        else:
            assert answered or prefix in (b"R", b"vCont;", b"c", b"s", b"C", b"S") or session.state is State.DISCONNECTED


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_fuzz_bytes(data: bytes) -> None:
    session = Session(PretendTarget())
    session.receive(b"+")
    session.receive(data)


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 64])
def test_a_search_finds_what_lies_in_two_pieces(session: Session, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_data, "_SEARCHED", piece)
    session.receive(frame(b"M2000,40:" + bytes(range(64)).hex().encode()))
    for start in range(60):
        for length in (1, 2, 4):
            pattern = bytes(range(start, start + length))
            reply = session.receive(frame(b"qSearch:memory:2000;40;" + pattern))
            assert reply == b"+" + frame(b"1,%x" % (0x2000 + start)), (start, length)


@pytest.mark.parametrize(
    "payload", ["vFile:open:2f,0,0", "vFile:open:2f6574632f706173737764,0,0", "vFile:pread:0,1,0", "vFile:fstat:0", "vFile:close:5"]
)
def test_3_no_file_of_the_host_is_opened(session: Session, payload: str) -> None:
    (reply,) = replies(session, payload.encode())
    assert reply in (b"F-1,2", b"F-1,9")  # ENOENT, EBADF
