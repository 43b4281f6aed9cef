"""Call frame information as readelf reads it, of programs as people build them and of libraries as they come."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from trapgate.finder.program import Program
from trapgate.finder.stacks import expressions
from trapgate.finder.stacks.cfi import Search
from trapgate.finder.stacks.frames import CallFrames
from trapgate.finder.stacks.reading import Malformed, Reader
from trapgate.finder.stacks.rows import How, Rule, Rules
from unit.finder.programs import built, folder

pytestmark = pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("readelf")), reason="needs gcc and readelf")
ENTRY = re.compile(r"^[0-9a-f]+ [0-9a-f]+ [0-9a-f]+ FDE cie=[0-9a-f]+ pc=([0-9a-f]+)\.\.([0-9a-f]+)")
IN_REGISTER = re.compile(r"r\d+ \((\w+)\)")
COLUMNS = {8: ("rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)), "ra"),
           4: ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "ra")}  # fmt: skip
FRAMES = """
int g(int);
int f(int a) { return g(a) + 1; }
int g(int a) { char b[99]; __asm__ volatile("" :: "r"(b) : "memory", "rbx", "r12"); return a * 3; }
void _start(void) { f(1); }
"""


def table(path: str) -> list[tuple[int, int, int, dict[str, str]]]:
    """(first, end, address of the row, its columns) of every row that readelf makes of a file's frames."""
    command = ["readelf", "-W", "--debug-dump=frames-interp", path]
    text = subprocess.run(command, check=False, capture_output=True, text=True).stdout
    rows, names, span = [], None, None
    for line in text.splitlines():
        if (match := ENTRY.match(line)) is not None:
            span, names = (int(match[1], 16), int(match[2], 16)), None
        elif not line.strip() or " CIE " in line:
            span = None
        elif line.startswith("   LOC"):
            names = line.split()[1:]
        elif span is not None and names is not None:
            address, *values = IN_REGISTER.sub(r"\1", line).split()
            rows.append((*span, int(address, 16), dict(zip(names, values, strict=True))))
    return rows


def as_readelf_has(rules: Rules, word: int) -> dict[str, str]:
    """Rules in readelf's words."""
    names = COLUMNS[word]
    found = {"CFA": "exp" if rules.code else f"{names[rules.base]}{rules.offset:+d}"}
    return found | {names[register]: _in_words(rule, names) for register, rule in rules.rules.items()}


def _in_words(rule: Rule, names: tuple[str, ...]) -> str:
    if rule.how is How.REGISTER:
        return names[rule.value]
    words = {How.AT: f"c{rule.value:+d}", How.IS: f"v{rule.value:+d}", How.UNDEFINED: "u", How.SAME: "s"}
    return {How.AT_EXPRESSION: "exp", How.IS_EXPRESSION: "vexp", **words}[rule.how]


def library(name: str) -> str:
    out = subprocess.run(["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()
    return str(Path(out).resolve())


def only_debug_frames() -> str:
    """A program whose frames are in .debug_frame alone, and not in the order of their addresses."""
    out = folder() / "debug-frames"
    options = ["-g", "-O2", "-w", "-fno-asynchronous-unwind-tables", "-fno-pie", "-no-pie", "-nostdlib", "-static"]
    source = folder() / "frames.c"
    source.write_text(FRAMES)
    subprocess.run(["gcc", *options, "-fno-inline", "-o", str(out), str(source)], check=True)
    return str(out)


@pytest.mark.parametrize("what", ["static", "pie", "library", "libc.so.6", "libgcc_s.so.1", "debug frames"])
def test_every_row_is_as_readelf_has_it(what: str) -> None:
    if what == "debug frames":
        path = only_debug_frames()
    else:
        path = library(what) if ".so" in what else str(built(what))
    rows = table(path)
    assert len(rows) > 3
    step = max(1, len(rows) // 3000)  # of libc's forty thousand some are enough
    different = []
    program = Program(path)
    frames = CallFrames(program)
    for start, end, address, columns in rows[::step]:
        if not start <= address < end:
            continue
        rules = frames.rules(address)
        assert rules is not None, hex(address)
        expected = {name: value for name, value in columns.items() if value != "u"}
        mine = {name: value for name, value in as_readelf_has(rules, 8).items() if value != "u"}
        if mine != expected:
            different.append((hex(address), mine, expected))
    program.close()
    assert not different[:5]


def test_where_there_is_nothing_there_is_none() -> None:
    program = Program(str(built("pie")))
    frames = CallFrames(program)
    assert frames.rules(0) is None
    assert frames.rules(1 << 40) is None
    program.close()


@pytest.mark.parametrize(
    ("code", "comes_to"),
    [
        ("08 05 31 22", 6),  # const1u 5, lit1, plus
        ("09 ff 32 1e", (1 << 64) - 2),  # const1s -1, lit2, mul
        ("77 08 70 00", None),  # a register that is not known
        ("77 08 06", 0x1234),  # breg7 8, deref
        ("35 33 16 1c", (1 << 64) - 2),  # 5 3 swap minus
        ("35 33 1d", 2),
        ("35 33 2a", 1),  # ge
        ("09 ff 31 2d", 1),  # -1 lt 1, signed
        ("31 28 01 00 32 33", 3),  # bra over what follows
        ("35 12 24 23 01", (5 << 5) + 1),  # dup shl plus_uconst
        ("31 32 33 17 15 02", 3),  # rot: 3 1 2, pick the lowest
        ("09 fe 31 26", (1 << 64) - 1),  # shra
        ("35 30 1b", None),  # division by zero
        ("22", None),  # nothing there
        ("2f fd ff", None),  # for ever
        ("f3", None),  # not known
    ],
)
def test_expressions(code: str, comes_to: int | None) -> None:
    def memory(address: int, size: int) -> int:
        assert (address, size) == (0x7008, 8)
        return 0x1234

    def work() -> int:
        return expressions.value(bytes.fromhex(code), 8, [], lambda number: {7: 0x7000}[number], memory)

    if comes_to is None:
        with pytest.raises((Malformed, KeyError)):
            work()
    else:
        assert work() == comes_to


def test_what_is_malformed_is_told_so() -> None:
    for data in (b"", b"\1\x1b\x03", b"\2\x1b\x03\x3b" + bytes(20), b"\1\xff\x03\x3b" + bytes(20)):
        with pytest.raises(Malformed):
            Search(data, 0, 8)
    with pytest.raises(Malformed):
        Reader(b"\x80" * 20).uleb()
    assert (Reader(b"\x7f").sleb(), Reader(b"\xe5\x8e\x26").uleb(), Reader(b"\x80\x7f").sleb()) == (-1, 624485, -128)
