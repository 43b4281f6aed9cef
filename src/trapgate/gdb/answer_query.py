"""Answers queries: features, threads, objects to transfer, symbols, and the way to `monitor` commands."""

from collections.abc import Callable
from xml.sax.saxutils import quoteattr

from trapgate.gdb import siginfo
from trapgate.gdb.context import OK, Context, Malformed, data_of_hex, number, split, thread_id
from trapgate.gdb.description import target_xml
from trapgate.gdb.framing import PAYLOAD_SIZE
from trapgate.gdb.monitor import MonitorError, execute
from trapgate.gdb.target import Stopped, TargetError

_THREADS_IN_A_REPLY = 256


def parse_features(text: bytes) -> frozenset[str]:
    """The features that the client says it has: `name+`, or `name=value` (e.g. xmlRegisters=i386)."""
    items = text.decode("ascii", "replace").lstrip(":").split(";")
    return frozenset(item.rstrip("+").partition("=")[0] for item in items if item.endswith("+") or "=" in item)


def no_ack_mode(context: Context, arguments: None) -> bytes:
    """QStartNoAckMode: no `+` any more from the next packet on."""
    context.acks = False
    return OK


def suffixes(context: Context, arguments: None) -> bytes:
    """QThreadSuffixSupported: not so; but only lldb asks."""
    context.lldb = True
    return b""


def error_strings(context: Context, arguments: None) -> bytes:
    """QEnableErrorStrings, of lldb's: errors have their text behind them."""
    context.error_strings = True
    return OK


def select_general(context: Context, thread: int) -> bytes:
    """Hg: the thread of register and memory packets."""
    context.general_thread = context.check_thread(thread)
    return OK


def select_resume(context: Context, thread: int) -> bytes:
    """Hc: the thread of c and s."""
    context.resume_thread = context.check_thread(thread)
    return OK


def current_thread(context: Context, arguments: None) -> bytes:
    """qC."""
    return b"QC%x" % context.thread()


def alive(context: Context, thread: int) -> bytes:
    """T thread."""
    context.check_thread(thread)
    return OK


def attached(context: Context, arguments: bytes) -> bytes:
    """qAttached: the guest was there before us, so gdb leaves it by detaching."""
    return b"1"


def first_threads(context: Context, arguments: None) -> bytes:
    """qfThreadInfo: the list of threads, from its start."""
    context.threads_left = list(context.target.threads())
    return more_threads(context, arguments)


def more_threads(context: Context, arguments: None) -> bytes:
    """qsThreadInfo: more of the list, `l` at its end."""
    now, context.threads_left = context.threads_left[:_THREADS_IN_A_REPLY], context.threads_left[_THREADS_IN_A_REPLY:]
    return b"m" + b",".join(b"%x" % thread for thread in now) if now else b"l"


def thread_words(context: Context, thread: int) -> bytes:
    """qThreadExtraInfo: what `info threads` shows."""
    context.check_thread(thread)
    return f"vCPU {thread - 1}: {context.target.describe(thread)}".encode().hex().encode()


def parse_transfer(text: bytes) -> tuple[str, int, int]:
    """annex:offset,length."""
    annex, offset, length = split(text, b":", b",")
    return annex.decode("ascii", "replace"), number(offset), number(length)


def parse_thread(text: bytes) -> int:
    """A single thread, or 0 or -1."""
    return thread_id(text)


def transfer(produce: Callable[[Context, str], bytes | None]) -> Callable[[Context, tuple[str, int, int]], bytes]:
    """qXfer:object:read: a piece of what `produce` gives for an annex (None: no such annex); `l` marks the last piece."""

    def answer(context: Context, arguments: tuple[str, int, int]) -> bytes:
        annex, offset, length = arguments
        whole = produce(context, annex)
        if whole is None:
            return b"E00"
        if offset > len(whole):
            raise Malformed("offset beyond the end")
        piece = whole[offset : offset + min(length, PAYLOAD_SIZE // 2)]
        return (b"l" if offset + len(piece) >= len(whole) else b"m") + piece

    return answer


def features(context: Context, annex: str) -> bytes | None:
    """The target description: of what the guest is when its reading begins."""
    if annex != "target.xml":
        return None
    return target_xml(context.described or context.describe(), context.avx, named=context.lldb)


def description(context: Context, arguments: tuple[str, int, int]) -> bytes:
    """qXfer:features:read: whoever begins to read it again, as gdb at `unset tdesc filename`, is told what the guest is now."""
    annex, offset, _ = arguments
    if annex == "target.xml" and not offset:
        context.describe()
    return transfer(features)(context, arguments)


def threads(context: Context, annex: str) -> bytes | None:
    """The threads with their names and states, in XML."""
    if annex:
        return None
    lines = [
        f'<thread id="{thread:x}" core="{thread - 1}" name="vCPU {thread - 1}">{_text(context.target.describe(thread))}</thread>'
        for thread in context.target.threads()
    ]
    return "\n".join(['<?xml version="1.0"?>', "<threads>", *lines, "</threads>"]).encode()


def signal_details(context: Context, annex: str) -> bytes | None:
    """siginfo: the last stop as a siginfo_t."""
    stop = context.last_stop
    return None if annex or not isinstance(stop, Stopped) else siginfo.raw(stop)


def _text(words: str) -> str:
    return quoteattr(words)[1:-1]


def symbols(context: Context, arguments: bytes) -> bytes:
    """qSymbol: no symbol is needed."""
    return OK


def monitor(context: Context, command: bytes) -> bytes:
    """qRcmd: a `monitor` command; what it says goes ahead as console output."""
    try:
        for line in execute(context.target, context.thread(), command.decode("utf-8", "replace")):
            context.say(line + "\n")
    except (MonitorError, TargetError) as error:
        context.say(f"{error}\n")
    return OK


parse_command = data_of_hex
