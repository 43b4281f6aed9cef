"""Answers packets that resume, start again, end or leave the guest."""

import contextlib
from collections.abc import Callable

from trapgate.gdb.context import OK, Context, Malformed, State, data_of_hex, number, numbers, stop_reply, thread_id
from trapgate.gdb.description import PC
from trapgate.gdb.target import SIGKILL, SIGTRAP, Killed, Resume, Stopped, TargetError, Way

Actions = list[tuple[bool, tuple[int, int] | None, int]]  # step?, range, thread (-1: every other)


def parse_resume(step: bool, signal: bool) -> Callable[[bytes], tuple[bool, int | None]]:
    """A reader of `c`, `s` (with an address) or `C`, `S` (with a signal, then an address): step?, where to go on."""

    def parse(text: bytes) -> tuple[bool, int | None]:
        if signal:
            head, _, text = text.partition(b";")
            number(head)  # a bare machine has no signals to take: read and dropped
        return step, number(text) if text else None

    return parse


def resume(context: Context, arguments: tuple[bool, int | None]) -> None:
    """c, C, s, S: every thread, or the one that Hc chose, goes; the others of a step stay."""
    step, address = arguments
    chosen = context.resume_thread
    if address is not None:
        context.target.set_register(context.thread(), PC, address)
    threads = [chosen] if chosen > 0 else [context.thread()] if step else list(context.target.threads())
    context.resume([Resume(thread, step) for thread in threads])


def back(way: Way) -> Callable[[Context, None], bytes | None]:
    """An answer to bs or bc: back by an instruction, or to what stopped the guest last; not understood where it cannot."""

    def answer(context: Context, arguments: None) -> bytes | None:
        if not context.target.travels:
            return b""
        context.back(way)
        return None

    return answer


def parse_vcont(text: bytes) -> Actions:
    """action[:thread];...; the first action that matches a thread is the one that counts."""
    actions: Actions = []
    for part in text.split(b";"):
        action, colon, thread = part.partition(b":")
        whom = thread_id(thread) if colon else -1
        if whom == 0:
            raise Malformed("vCont for no thread")
        word, rest = action[:1], action[1:]
        within = None
        if word == b"r":
            start, end = numbers(b",")(rest)
            within = start, end
            rest = b""
        elif word in (b"C", b"S"):
            number(rest)
            rest = b""
        if word not in (b"c", b"C", b"s", b"S", b"r") or rest:
            raise Malformed(f"unknown action {action[:20]!r}")
        actions.append((word in (b"s", b"S", b"r"), within, whom))
    return actions


def vcont(context: Context, actions: Actions) -> bytes | None:
    """vCont: what each thread does now."""
    for _, _, thread in actions:
        context.check_thread(thread)
    chosen: list[Resume] = []
    for thread in context.target.threads():
        for step, within, whom in actions:
            if whom in (-1, thread):
                chosen.append(Resume(thread, step, within))
                break
    context.resume(chosen)
    return None


def vcont_actions(context: Context, arguments: None) -> bytes:
    """vCont?: what vCont can do."""
    return b"vCont;c;C;s;S;r"


def why_stopped(context: Context, arguments: None) -> bytes:
    """?: the last stop again. A new connection sees a plain SIGTRAP on the current thread."""
    return stop_reply(context, context.last_stop)


def detach(context: Context, arguments: bytes) -> bytes:
    """D: breakpoints away, the guest runs on; one that has ended is let go of."""
    if context.state is State.ENDED:
        context.target.kill()
    else:
        context.target.detach()
    context.state = State.DISCONNECTED
    return OK


def kill(context: Context, arguments: bytes) -> None:
    """k: no reply. The machine ends, at once or, where the client may start it again, when that leaves or kills again."""
    if context.extended and context.state is not State.ENDED:
        context.target.attach()
        context.end(Killed(SIGKILL))
    else:
        context.target.kill()
        context.state = State.DISCONNECTED


def polite_kill(context: Context, arguments: bytes) -> bytes:
    """vKill;pid: as k, with a reply."""
    kill(context, arguments)
    return OK


def parse_words(text: bytes) -> list[bytes]:
    """filename[;argument...], each in hex."""
    return [data_of_hex(word) for word in text.split(b";")]


def start(context: Context, words: list[bytes]) -> bytes:
    """vRun: the guest from its start, as gdb's `run` has it. The file's name is the client's affair: the image is ours."""
    try:
        if len(words) > 1:
            raise TargetError("a guest is given its words when trapgate is started: --append, --module")
        _from_the_start(context)
    except TargetError as error:
        context.tell(f"gdb cannot start the guest again: {error}")  # it does not show why
        raise
    return stop_reply(context, context.last_stop)


def restart(context: Context, arguments: bytes) -> None:
    """R: as vRun, but no reply; the client asks `?` next, and an error would be taken for the answer to that."""
    with contextlib.suppress(TargetError):
        _from_the_start(context)


def _from_the_start(context: Context) -> None:
    context.target.reset()
    context.state = State.STOPPED
    context.general_thread = 0
    context.last_stop = Stopped(context.target.threads()[0], SIGTRAP)


def extended_mode(context: Context, arguments: None) -> bytes:
    """!: the client stays when the guest ends, and may start it again; not understood where it cannot be."""
    context.extended = context.target.can_reset
    return OK if context.extended else b""
