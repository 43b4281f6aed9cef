"""Runs that end badly in ways that no exception tells of: for tests of the driver."""

import os
import signal

SIGN = b"ill"  # an input that ends so badly


def hang(data: bytes) -> str:
    while SIGN in data:
        pass
    return "well"


def crash(data: bytes) -> str:
    if SIGN in data:
        os.kill(os.getpid(), signal.SIGSEGV)
    return "well"


def devour(data: bytes) -> str:
    """More than there is."""
    return f"{len(bytearray(1 << 40)) if SIGN in data else 0} bytes"


def swell(data: bytes) -> str:
    """More than an input is worth."""
    return f"{len(b'x' * (1 << 29)) if SIGN in data else 0} bytes"


RUNS = {"hang": hang, "crash": crash, "devour": devour, "swell": swell}
