"""Programs with split locks, built as users build theirs."""

import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

SOURCE = """\
struct __attribute__((packed)) record { char pad[60]; volatile unsigned long counter; };
static struct record record __attribute__((aligned(64)));
__attribute__((noinline)) void bump(struct record *one) { __sync_fetch_and_add(&one->counter, 1); }
__attribute__((noinline)) void bump_global(void)
{
    __sync_fetch_and_add(&record.counter, 1); /* HERE */
}
int main(void) { bump(&record); bump_global(); for (;;) pause(); }
"""
LINE = 6
WAYS = {
    "static": "-static -no-pie -g",
    "pie": "-pie -fPIE -g",
    "dwarf4": "-pie -fPIE -gdwarf-4",
    "no lines": "-pie -fPIE",
    "library": "-shared -fPIC -g",
}


@cache
def folder() -> Path:
    """Where they are built."""
    path = Path(mkdtemp())
    (path / "source.c").write_text("int pause(void);\n" + SOURCE)
    return path


@cache
def built(way: str) -> Path:
    """The program built in a way of WAYS."""
    out = folder() / way.replace(" ", "-")
    command = ["gcc", "-O1", "-w", *WAYS[way].split(), "-o", str(out), str(folder() / "source.c")]
    subprocess.run(command, check=True, timeout=60)
    return out


@cache
def stripped(apart: bool) -> Path:
    """The `pie` one without its symbols: they are gone, or in a file of their own beside it."""
    out = folder() / ("apart" if apart else "stripped")
    debug = out.with_suffix(".debug")
    subprocess.run(["objcopy", "--only-keep-debug", str(built("pie")), str(debug)], check=True)
    subprocess.run(["strip", "-o", str(out), str(built("pie"))], check=True)
    if apart:
        subprocess.run(["objcopy", f"--add-gnu-debuglink={debug}", str(out)], check=True)
    return out


@cache
def functions() -> dict[str, dict[str, int]]:
    """Where the functions of each program are, as nm has them."""
    found = {}
    for way in WAYS:
        text = subprocess.run(["nm", str(built(way))], check=True, capture_output=True, text=True).stdout
        rows = (line.split() for line in text.splitlines())
        found[way] = {row[2]: int(row[0], 16) for row in rows if len(row) == 3}
    return found
