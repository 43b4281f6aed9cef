"""Holds THE table of packets: wire prefix, reader of its arguments, answer, and the capability that qSupported tells of.

A new packet is a row here, an answer in an `answer_*` file, and a transcript among the tests.
"""

from collections.abc import Callable
from typing import TypeVar

from trapgate.gdb import answer_data as data
from trapgate.gdb import answer_file as files
from trapgate.gdb import answer_query as query
from trapgate.gdb import answer_run as run
from trapgate.gdb.context import Context, anything, nothing, numbers
from trapgate.gdb.framing import PACKET_SIZE
from trapgate.gdb.target import BreakKind, Way
from trapgate.values import dataclass

Arguments = TypeVar("Arguments")


@dataclass(frozen=True, slots=True)
class Row:
    """A packet: `answer` takes what follows the prefix and gives the reply's payload, or None for no reply (now).

    `whole` packets have nothing after their prefix; `running` ones are heard while the guest runs, `ended` ones once it is gone.
    """

    prefix: bytes
    answer: Callable[[Context, bytes], bytes | None]
    capability: str
    whole: bool
    running: bool
    ended: bool


def _row(
    prefix: bytes,
    parse: Callable[[bytes], Arguments],
    answer: Callable[[Context, Arguments], bytes | None],
    capability: str = "",
    *,
    running: bool = False,
    ended: bool = False,
) -> Row:
    return Row(prefix, lambda context, text: answer(context, parse(text)), capability, parse is nothing, running, ended)


def supported(context: Context, client: frozenset[str]) -> bytes:
    """qSupported: what the table can do; remembers what the client can."""
    context.features = client
    back = ("ReverseStep+", "ReverseContinue+") if context.target.travels else ()
    return ";".join((*(row.capability for row in PACKETS if row.capability), *back)).encode()


def must_reply_empty(context: Context, arguments: bytes) -> bytes:
    """vMustReplyEmpty: the client's probe for stubs that choke on unknown packets."""
    return b""


_BREAK_CAPABILITY = {
    BreakKind.SOFTWARE: "swbreak+",
    BreakKind.HARDWARE: "hwbreak+;ConditionalBreakpoints+",
}

PACKETS: tuple[Row, ...] = (
    # the session
    _row(b"qSupported", query.parse_features, supported, f"PacketSize={PACKET_SIZE:x}"),
    _row(b"QStartNoAckMode", nothing, query.no_ack_mode, "QStartNoAckMode+"),
    _row(b"QThreadSuffixSupported", nothing, query.suffixes),
    _row(b"QEnableErrorStrings", nothing, query.error_strings),
    _row(b"!", nothing, run.extended_mode, ended=True),
    _row(b"?", nothing, run.why_stopped, ended=True),
    _row(b"vMustReplyEmpty", anything, must_reply_empty),
    _row(b"qAttached", anything, query.attached),
    _row(b"qSymbol:", anything, query.symbols),
    _row(b"qRcmd,", query.parse_command, query.monitor),
    _row(b"qXfer:features:read:", query.parse_transfer, query.description, "qXfer:features:read+"),
    _row(b"qXfer:siginfo:read:", query.parse_transfer, query.transfer(query.signal_details), "qXfer:siginfo:read+"),
    # names of what the guest runs, as a file
    _row(b"qXfer:exec-file:read:", query.parse_transfer, query.transfer(files.executable), "qXfer:exec-file:read+"),
    _row(b"vFile:setfs:", anything, files.file_system),
    _row(b"vFile:open:", files.parse_open, files.open_file),
    _row(b"vFile:pread:", files.parse_read, files.read_file),
    _row(b"vFile:fstat:", files.parse_descriptor, files.file_status),
    _row(b"vFile:stat:", files.parse_path, files.path_status),
    _row(b"vFile:close:", files.parse_descriptor, files.close_file),
    # threads
    _row(b"qXfer:threads:read:", query.parse_transfer, query.transfer(query.threads), "qXfer:threads:read+"),
    _row(b"qfThreadInfo", nothing, query.first_threads),
    _row(b"qsThreadInfo", nothing, query.more_threads),
    _row(b"qThreadExtraInfo,", query.parse_thread, query.thread_words),
    _row(b"qC", nothing, query.current_thread),
    _row(b"Hg", query.parse_thread, query.select_general),
    _row(b"Hc", query.parse_thread, query.select_resume),
    _row(b"T", query.parse_thread, query.alive),
    # registers and memory
    _row(b"g", nothing, data.read_registers),
    _row(b"G", anything, data.write_registers),
    _row(b"p", numbers(), data.read_register),
    _row(b"P", data.parse_write_register, data.write_register),
    _row(b"m", data.parse_read, data.read_memory),
    _row(b"x", data.parse_read, data.read_binary, "binary-upload+"),
    _row(b"M", data.parse_hex_write, data.write_memory),
    _row(b"X", data.parse_binary_write, data.write_memory),
    _row(b"qSearch:memory:", data.parse_search, data.search_memory),
    _row(b"qqemu.PhyMemMode", nothing, data.physical_mode),
    _row(b"Qqemu.PhyMemMode:", numbers(), data.set_physical_mode),
    # breakpoints: Z0 to Z4, z0 to z4
    *(
        _row(b"Z%d," % kind.value, data.parse_breakpoint(kind), data.insert_breakpoint, _BREAK_CAPABILITY.get(kind, ""))
        for kind in BreakKind
    ),
    *(_row(b"z%d," % kind.value, data.parse_breakpoint(kind), data.remove_breakpoint) for kind in BreakKind),
    # running
    _row(b"vCont?", nothing, run.vcont_actions, "vContSupported+"),
    _row(b"vCont;", run.parse_vcont, run.vcont),
    _row(b"c", run.parse_resume(step=False, signal=False), run.resume),
    _row(b"C", run.parse_resume(step=False, signal=True), run.resume),
    _row(b"s", run.parse_resume(step=True, signal=False), run.resume),
    _row(b"S", run.parse_resume(step=True, signal=True), run.resume),
    _row(b"bs", nothing, run.back(Way.STEP)),
    _row(b"bc", nothing, run.back(Way.CONTINUE)),
    _row(b"vRun;", run.parse_words, run.start, ended=True),
    _row(b"R", anything, run.restart, ended=True),
    _row(b"D", anything, run.detach, running=True, ended=True),
    _row(b"k", anything, run.kill, running=True, ended=True),
    _row(b"vKill", anything, run.polite_kill, running=True, ended=True),
)

_BY_FIRST = {
    first: sorted((row for row in PACKETS if row.prefix.startswith(first)), key=lambda row: len(row.prefix), reverse=True)
    for first in {row.prefix[:1] for row in PACKETS}
}


def find(payload: bytes) -> tuple[Row, bytes] | None:
    """The row of a packet (the longest prefix that fits) and what follows the prefix; None for an unknown packet."""
    for row in _BY_FIRST.get(payload[:1], ()):
        if payload == row.prefix or (not row.whole and payload.startswith(row.prefix)):
            return row, payload[len(row.prefix) :]
    return None
