"""Boots the nested machine under QEMU's TCG and yields what it tells, record by record."""

import json
import selectors
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

MEMORY = "2048M"
BY_INSTRUCTIONS = "-icount", "shift=0,sleep=off"
BOOT = 400.0  # s until the first record, on a busy host
QUIET = 700.0  # s between two records: a test's own limit is less (`tests/kvm/guest.py`)
Record = dict[str, Any]


class NestedError(Exception):
    """The machine could not be run, or ended without an end; the text says how, and what its console showed last."""


def command(qemu: Sequence[str], kernel: Path, initrd: Path, console: Path, words: str = "") -> list[str]:
    """QEMU's. One CPU: TCG makes no use of more here.

    The machine's clocks count instructions, one a nanosecond, and HLT takes no time: a busy host makes no test run out of its time,
    and has no part in what is measured.
    """
    return [
        *(*qemu, "-accel", "tcg", "-cpu", "max,+svm", "-m", MEMORY, "-smp", "1", "-nodefaults", "-display", "none", "-no-reboot"),
        *BY_INSTRUCTIONS,
        *("-serial", f"file:{console}", "-serial", "stdio", "-kernel", str(kernel), "-initrd", str(initrd)),
        *("-append", f"console=ttyS0 panic=-1 loglevel=2 no_timer_check {words}".rstrip()),
    ]


def records(words: list[str], console: Path, seconds: float, quiet: float = QUIET) -> Iterator[Record]:
    """What the machine tells until it says that it is over. NestedError when it ends before, takes too long, or has no use of KVM.

    `quiet`: seconds that may pass between two records.
    """
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        )
        stack.callback(process.kill)
        assert process.stdout is not None and process.stderr is not None
        waiting = stack.enter_context(selectors.DefaultSelector())
        waiting.register(process.stdout, selectors.EVENT_READ)
        end, patience, data = time.monotonic() + seconds, BOOT, b""
        while True:
            left = min(patience, end - time.monotonic())
            if left <= 0 or not waiting.select(left):
                raise NestedError(
                    f"the nested machine said nothing for {patience:.0f} s, or took longer than {seconds:.0f} s{_last(console)}"
                )
            chunk = process.stdout.read1(1 << 16)  # type: ignore[attr-defined]
            if not chunk:
                reason = process.stderr.read().decode(errors="replace").strip().splitlines()[-1:]
                raise NestedError(f"the nested machine ended too soon: {' '.join(reason) or 'no message'}{_last(console)}")
            *lines, data = (data + chunk).split(b"\n")
            for line in lines:
                record: Record = json.loads(line)
                if "over" in record:
                    return
                if "trouble" in record:
                    raise NestedError(record["trouble"])
                yield record
            patience = quiet


def _last(console: Path) -> str:
    """The last lines of its console."""
    lines = console.read_text(errors="replace").splitlines()[-8:] if console.is_file() else []
    return "".join(f"\n  {line}" for line in lines)
