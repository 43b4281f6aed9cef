"""Findings as they are told, made by hand."""

from trapgate.exits import BusLock
from trapgate.finder.findings import Block, Called, Finding, Kind, Process, Site, Stack
from trapgate.finder.lines import Line


def example(function: str = "bump") -> Finding:
    """One with all that can be known."""
    path, libc = "/home/me/program", "/usr/lib/libc.so.6"
    frames = (
        Called(0x1163, path, 0x1163, function, 0x13, Line("/src/one.c", 5)),
        Called(0x1180, path, 0x1180, "caller", 0, Line("/src/one.c", 9), inlined=True),
        Called(0x1180, path, 0x1180, "outer", 0x30, Line("/src/one.c", 12)),
        Called(0x38E0, libc, 0x38E0, "<signal handler called>", signal=True),
        Called(0x7FFF12345678, guessed=True),
        Called(0x1200, path, 0x1200, "main", 0x20),
        Called(0x2724A, libc, 0x2724A, "", 0),
    )
    source = ((4, "{"), (5, "    __atomic_fetch_add(&one.counter, 1, 5);"), (6, "}"))
    site = Site(
        0x1163,
        bytes.fromhex("f083413e01"),
        "lock add dword ptr [rcx+3Eh],1",
        path,
        0x1163,
        function,
        0x13,
        Line("/src/one.c", 5),
        source=source,
    )
    lock = BusLock(0x555555555163, 0x5555555580BE, 4, 3)
    processes = [Process("program", 7, 8, 6), Process("program", 9, 9, 4)]
    return Finding(
        Kind.SPLIT,
        site,
        lock,
        path,
        "one",
        62,
        processes,
        [Stack(frames, 6), Stack(frames[:3], 2)][:1],
        "0" * 32,
        False,
        0x30BE,
        ".counter",
    )


def plain() -> Finding:
    """One of which next to nothing is known, and what is known is strange."""
    site = Site(0x7F0000001000, b"", "", '/tmp/<a> & "b"\n\x1b[2J\udcff,:%', 0x40, note="why")
    return Finding(
        Kind.NOT_WRITE_BACK,
        site,
        BusLock(0x7F0000001000, 0x1000, 8, 0),
        "[heap]",
        processes=[Process("", 0, 0, 1)],
        block=Block(104, 60),
    )
