"""Holds one gdb session without I/O: bytes in, bytes out, against a `Target`.

STOPPED and RUNNING alternate (`context.State`); whatever the client does, every packet but `k` and `R` gets exactly one reply: an
unknown one an empty reply, a senseless one E22, one that comes while the guest runs E11, one for a guest that has ENDED E03.
DISCONNECTED is final.
"""

from collections.abc import Callable

from trapgate.gdb import framing
from trapgate.gdb.answer_data import condition_holds
from trapgate.gdb.context import MALFORMED, Context, Malformed, State, stop_reply
from trapgate.gdb.packets import find
from trapgate.gdb.target import Stop, Stopped, Target, TargetError

MOST_ANSWERED = 8 << 20
"""Bytes of answers to one piece of what a client sends (`server` takes 2 KiB at a time), a reply more or less."""

_BUSY = b"E11"
_GONE = b"E03"


class Session:
    """A debugger that has just come: the guest is attached to, and stops. Call `disconnected` when the connection is gone.

    `tell` takes lines for the user that debuggers do not show.
    """

    def __init__(self, target: Target, stop: Stop | None = None, tell: Callable[[str], None] = lambda line: None) -> None:
        self._context = Context(target, last_stop=stop or Stopped(target.threads()[0]), tell=tell)
        self._reader = framing.Reader()
        self._last_frame = b""
        self._greeting: bytes | None = None  # qSupported, if it came first, for as long as its piece is read
        target.attach()

    @property
    def state(self) -> State:
        """Where the session stands."""
        return self._context.state

    def receive(self, data: bytes) -> bytes:
        """What to send in answer to bytes from the client. The session ends when they ask for more than anybody reads at once."""
        out, asked_again = bytearray(), False
        for event in self._reader.feed(data):
            if len(out) > MOST_ANSWERED:
                self.disconnected()
            if self.state is State.DISCONNECTED:
                break
            again = isinstance(event, framing.Nack)
            if not (again and asked_again):  # once is enough, however often it is asked for in one piece
                out += self._react(event)
            asked_again = again or (asked_again and not isinstance(event, framing.Packet))
        self._greeting = None
        return bytes(out)

    def wanted(self, stop: Stopped) -> bool:
        """Whether the client's condition of a breakpoint holds, if it has one for this stop."""
        return condition_holds(self._context, stop)

    def stopped(self, stop: Stop) -> bytes:
        """The guest stopped: what to tell the client. Nothing, unless it was waiting; the end of the machine ends the session."""
        context = self._context
        if context.state in (State.DISCONNECTED, State.ENDED):
            return b""
        waiting = context.state is State.RUNNING
        if waiting and isinstance(stop, Stopped) and not context.backwards and not self.wanted(stop):
            context.target.resume(context.actions)
            return b""
        if isinstance(stop, Stopped):
            context.last_stop, context.state = stop, State.STOPPED
        else:
            context.end(stop)
        if not waiting:
            return b""
        if isinstance(stop, Stopped):
            context.general_thread = stop.thread
            if stop.text:
                context.say(stop.text + "\n")
        return self._send(stop_reply(context, stop))

    def say(self, text: str) -> bytes:
        """Console output while the guest runs (gdb listens for it only then); nothing otherwise."""
        if self.state is not State.RUNNING:
            return b""
        self._context.say(text)
        return self._send(None)

    def disconnected(self) -> None:
        """The client is gone without a word: a detach; the end of the machine where the guest has ended."""
        before, self._context.state = self.state, State.DISCONNECTED
        if before is State.ENDED:
            self._context.target.kill()
        elif before is not State.DISCONNECTED:
            self._context.target.detach()

    def _react(self, event: framing.Event) -> bytes:
        if isinstance(event, framing.Interrupt):
            if self.state is State.RUNNING:
                self._context.target.interrupt()
            return b""
        if isinstance(event, framing.Ack | framing.Junk):
            return b""
        if isinstance(event, framing.Nack):
            return self._last_frame
        if isinstance(event, framing.Damaged):
            return b"-" if self._context.acks else self._send(MALFORMED)
        ack = b"+" if self._context.acks else b""
        if isinstance(event, framing.Refused):
            return ack + self._send(self._context.failure(MALFORMED, event.reason))
        if event.payload == self._greeting:  # sent anew by a client that has waited for us to start: one answer is enough
            return ack
        if not self._last_frame and event.payload.startswith(b"qSupported"):
            self._greeting = event.payload
        return ack + self._answer(event.payload)

    def _answer(self, payload: bytes) -> bytes:
        context = self._context
        found = find(payload)
        if found is None:
            return self._send(b"")
        row, arguments = found
        if context.state is State.RUNNING and not row.running:
            return self._send(_BUSY)
        if context.state is State.ENDED and not row.ended:
            return self._send(context.failure(_GONE, "the guest has ended; run starts it again"))
        try:
            reply = row.answer(context, arguments)
        except (Malformed, TargetError) as error:
            reply = context.failure(MALFORMED, str(error))
        return self._send(reply)

    def _send(self, payload: bytes | None) -> bytes:
        """The frames of the waiting console output and of a reply (None: no reply)."""
        payloads = [*self._context.outbox, *([] if payload is None else [payload])]
        self._context.outbox.clear()
        frames = [framing.frame(each) for each in payloads]
        if frames:
            self._last_frame = frames[-1]
        return b"".join(frames)
