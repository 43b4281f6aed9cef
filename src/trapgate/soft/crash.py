"""Reports a signal that the host raised amid translated code, which must never happen, instead of letting the process die.

`Crashes.catch` is for programs that run nothing but a machine: signal handlers are the whole process's.
"""

import contextlib
import ctypes
import signal
import struct
import threading
import weakref
from collections.abc import Callable
from typing import NoReturn

from iced_x86 import Decoder, Formatter, FormatterSyntax

from trapgate.hostcall import asking, exchange_action, native_action
from trapgate.isa.modes import code_bits
from trapgate.isa.state import ACCESS_PEEK
from trapgate.mapping import Mapping
from trapgate.soft.blocks.core import TranslatingCore
from trapgate.soft.state.fault import GuestFault
from trapgate.stencil.entering import LAST_WORDS, SIGNALS

SHOWN = 32  # bytes of guest code
HOST_SHOWN = 16  # and of host code
_STACK = 1 << 16
_DISABLE = 2  # SS_DISABLE
_libc = ctypes.CDLL(None, use_errno=True)


class HostCrash(Exception):
    """Translated code ended in a signal: a fault of trapgate. The text is one line with what a report of it needs."""


class Crashes:
    """What translated code does with the signals of a crash, from `catch` on: that of a CPU, or of all that share it."""

    def __init__(self, core: TranslatingCore) -> None:
        self._core = core
        words = LAST_WORDS.encode()
        self._words = ctypes.create_string_buffer(words, len(words))
        self._terminal: ctypes.Array[ctypes.c_char] | None = None
        self._entry = core.code.append(self._way_in(core))
        core.state.code_end = core.code.first
        self.follow(core)
        self.release: Callable[[], object] = lambda: None

    def _way_in(self, core: TranslatingCore) -> bytes:
        """The handler with the CPU state as its fourth argument: mov rcx, imm64; mov rax, imm64; jmp rax."""
        return struct.pack("<2sQ2sQ2s", b"\x48\xb9", core.address, b"\x48\xb8", core.code.entries["crashed"], b"\xff\xe0")

    def follow(self, core: TranslatingCore) -> None:
        """It is this one's turn to run."""
        self._core = core
        core.code.patch(self._entry - core.code.base, self._way_in(core))
        core.state.crash_text = ctypes.addressof(self._words)
        core.state.crash_terminal = 0 if self._terminal is None else ctypes.addressof(self._terminal)

    def catch(self) -> None:
        """From now on a crash amid translated code is a HostCrash; any other ends the process with status 70 and a line.

        What was there before comes back with `release`, or when this object goes.
        """
        action = native_action(self._entry)
        before = {int(number): exchange_action(int(number), action) for number in SIGNALS}
        self.release = end = weakref.finalize(self, _put_back, self._entry, before)
        end.atexit = False  # it may be needed until the very end

    def here(self) -> None:
        """Give this thread a stack for the handler: its own may be what is broken."""
        _of_thread.stack = _of_thread.stack or _SignalStack()

    def terminal(self, settings: bytes | None) -> None:
        """How standard input is to be left by a process that cannot go on: what ioctl TCGETS gave; None: as it is."""
        self._core.state.crash_terminal = 0
        self._terminal = None if settings is None else ctypes.create_string_buffer(settings, len(settings))
        self.follow(self._core)


class _SignalStack:
    """Where this thread handles signals, for as long as it lives: Python's own handlers run there as well."""

    _off: bytes | None = None  # what ends its use, once there is one

    def __init__(self) -> None:
        self._stack, self._use = Mapping(_STACK, "a stack for signals"), _libc.sigaltstack
        on, self._off = (struct.pack("<QixxxxQ", self._stack.address, flags, _STACK) for flags in (0, _DISABLE))
        with asking("sigaltstack"):
            if self._use(on, None):
                raise OSError(ctypes.get_errno(), "sigaltstack")

    def __del__(self) -> None:  # the thread ends, or the process, whose modules may be gone: nothing may be handled here any more
        if self._off is not None:
            self._use(self._off, None)


class _Thread(threading.local):
    stack: _SignalStack | None = None


_of_thread = _Thread()


def _put_back(entry: int, before: dict[int, bytes]) -> None:
    for number, action in before.items():
        if exchange_action(number, None).startswith(entry.to_bytes(8, "little")):  # nobody has come since
            exchange_action(number, action)


def tell(core: TranslatingCore) -> NoReturn:
    """Raise the HostCrash of what the handler has noted, with where the guest was: its block begins there."""
    st = core.state
    place, base = int(st.crash_place), core.code.base
    name = signal.Signals(st.crash_signal).name
    parts = [f"{name} in translated code (host address {st.crash_address:#x}, vector {st.crash_vector}, error {st.crash_error:#x})"]
    rip, mode, physical = int(st.rip), int(st.mode), -1
    found = core.blocks.around(place) if base + core.code.first <= place < base + core.code.limit else None
    if found is not None:
        rip, physical, mode = found
    else:
        with contextlib.suppress(GuestFault):
            physical = core.walk(core.linear(rip), core.rights() | ACCESS_PEEK)
    size = min(SHOWN, -physical % 4096 or 4096)
    guest = core.ram.read(physical, size) if core.ram.contains(physical, size) else b""
    parts.append(f"guest RIP {rip:#x} or behind it, {code_bits(mode)}-bit code, CPL {mode >> 3 & 3}, CS base {st.cs_base:#x}")
    if guest:
        parts.append(f"bytes {guest.hex(' ')} ({_first(guest, code_bits(mode))} ...)")
    if core.code.base <= place < core.code.base + core.code.limit:
        parts.append(f"host code +{place - base:#x}: {core.code.peek(place - base, HOST_SHOWN).hex(' ')}")
    parts.append(f"CPU model {core.model.name}")
    raise HostCrash("; ".join(parts))


def _first(guest: bytes, bits: int) -> str:
    """The first instruction in words."""
    return Formatter(FormatterSyntax.INTEL).format(Decoder(bits, guest).decode())
