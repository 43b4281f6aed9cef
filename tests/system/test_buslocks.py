"""`trapgate buslocks` as a user meets it: programs that lock the bus in each way, and what is told of them."""

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from system.exec_runs import PATIENCE, TRAPGATE, Ended, needs_kernel, ran

SOURCE = Path(__file__).with_name("buslocks.c")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A position-independent program and its library, with debug information."""
    needs_kernel()
    if shutil.which("gcc") is None:
        pytest.skip("gcc builds the programs")
    folder = tmp_path_factory.mktemp("buslocks")
    library, made = folder / "libswap.so", folder / "locker"
    common = ["gcc", "-g", "-O1", "-Wall", "-Werror", str(SOURCE)]
    subprocess.run([*common, "-DLIBRARY", "-shared", "-fPIC", "-o", str(library)], check=True)
    subprocess.run([*common, "-fPIE", "-pie", "-pthread", str(library), f"-Wl,-rpath,{folder}", "-o", str(made)], check=True)
    return str(made)


def looked(*command: str, options: tuple[str, ...] = ()) -> Ended:
    return ran([TRAPGATE, "buslocks", *options, "--", *command])


def findings(file: Path, *command: str) -> list[dict[str, Any]]:
    """What is found, and nothing beside it."""
    done = looked(*command, options=("--format", "json", "-o", str(file), "--exit-zero"))
    told = json.loads(file.read_text())
    assert (told["format"], told["program"], told["notes"]) == (1, list(command), [])
    assert done.err.count(b"SUMMARY: TG0001") == done.err.count(b"\n") == len(told["findings"])
    return list(told["findings"])


def line_of(text: str) -> int:
    return next(n for n, line in enumerate(SOURCE.read_text().splitlines(), 1) if f"/* {text} */" in line)


def test_what_is_told(program: str) -> None:
    done = looked(program, "lock")
    assert (done.out, done.status) == (b"lock\n", 1)
    line = line_of("counting line")
    for part in (
        "trapgate: TG0001 split lock: 10 times\n",
        f"  {program} in ",
        "lock add dword ptr",
        f"  {SOURCE}:{line}\n",
        f"  > {line:>5}          __asm__ volatile",
        "from byte 62 of a line of 64 into the next:\n  |" + 62 * "." + "##|##...\n",
        "  they are in shared.counter, the variable shared, 62 bytes from its beginning\n",
        "  by locker[",
        f"trapgate: SUMMARY: TG0001 split lock: {SOURCE}:{line} in ",
    ):
        assert part in done.err.decode(), (part, done.err.decode())


def test_a_library_that_exchanges_without_a_prefix(program: str, tmp_path: Path) -> None:
    (one,) = findings(tmp_path / "report", program, "library")
    site, operand = one["site"], one["operand"]
    assert (one["kind"], one["cpl"], one["count"]) == ("TG0001", 3, 1)
    assert (site["module"], site["file"], site["line"]) == (
        str(Path(program).with_name("libswap.so")),
        str(SOURCE),
        line_of("library line"),
    )
    assert site["instruction"].startswith("xchg ")
    assert site["function"] == "swap"
    assert (operand["size"], operand["line_offset"], operand["mapping"]) == (8, 59, "[heap]")


def test_variables_on_stacks(program: str, tmp_path: Path) -> None:
    """In the caller's frame and in its own, on the stack of a thread first, by the process; in a block inside the function, too."""
    found = {one["site"]["line"]: one["operand"] for one in findings(tmp_path / "report", program, "locals")}
    parts = ("mapping", "variable", "member", "variable_offset", "variable_in")
    told = [[found[line_of(mark)][part] for part in parts] for mark in ("line of a local", "line in its own function")]
    assert told == [["[anonymous]", "inner", ".counter", 62, "held"], ["[anonymous]", "mine", "[1].counter", 190, "held"]]


def test_blocks_of_the_heap(program: str, tmp_path: Path) -> None:
    """What malloc has given out, in the heap and in pages of its own; what it has taken back is none."""
    file = tmp_path / "report"
    done = looked(program, "blocks", options=("--format", f"json:{file}", "--exit-zero"))
    small, large, _ = map(int, done.out.split()[1:])
    found = {one["site"]["line"]: one["operand"] for one in json.loads(file.read_text())["findings"]}
    told = [found[line_of(f"{kind} block")]["block"] for kind in ("small", "large", "freed")]
    assert told == [{"size": 104, "offset": small + 1}, {"size": (1 << 20) + 4096 - 16, "offset": large + 1}, None]


def test_processes_one_after_another(program: str, tmp_path: Path) -> None:
    (one,) = findings(tmp_path / "report", program, "fork")
    assert one["count"] == 11
    assert [(each["name"], each["count"]) for each in one["processes"]] == [("locker", 1), ("locker", 10)]
    assert one["processes"][0]["pid"] < one["processes"][1]["pid"]


def test_processes_in_turns_are_told_apart(program: str, tmp_path: Path) -> None:
    """Most of these are counted by native code, until the kernel turns to the other process."""
    (one,) = findings(tmp_path / "report", program, "race")
    assert [each["count"] for each in one["processes"]] == [200_000, 200_000]


def test_threads_are_of_one_process(program: str, tmp_path: Path) -> None:
    (one,) = findings(tmp_path / "report", program, "threads")
    (process,) = one["processes"]
    assert (process["name"], process["count"]) == ("locker", 15)
    assert process["thread"] > process["pid"]


def test_where_nothing_is_found_it_ends_as_natively(program: str) -> None:
    assert looked("sh", "-c", "echo two >&2; exit 7") == Ended(b"", b"two\n", 7)
    assert looked(program, "within") == Ended(b"within\n", b"", -signal.SIGTERM)


def test_exit_statuses(program: str) -> None:
    assert looked(program, "lock", options=("--exit-zero",)).status == 5
    assert looked(program, "lock", options=("--error-exitcode", "99")).status == 99
    late = looked(program, "forever", options=("--timeout", "8"))
    assert (late.out, late.status) == (b"forever\n", 124)
    assert b"split lock: 3 times" in late.err
    assert looked("no-such-program") == Ended(b"", b"trapgate: error: no-such-program: No such file or directory\n", 127)
    wrong = looked("true", options=("-o", "/no/such/folder/report"))
    assert (wrong.status, b"-o /no/such/folder/report: No such file" in wrong.err) == (2, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_ends_it_from_outside_sees_that_and_what_was_found(program: str, number: int) -> None:
    """A shell's loop goes on behind status 1, and ends with a program that Ctrl-C has killed."""
    command = [TRAPGATE, "buslocks", program, "forever"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as found:
        assert found.stdout is not None
        assert found.stdout.readline() == b"forever\n"
        found.send_signal(number)
        _, told = found.communicate(timeout=PATIENCE)
    assert b"TG0001 split lock: " in told
    assert found.returncode == -number


def test_a_full_disk_is_told_once(program: str) -> None:
    done = looked(program, "lock", options=("-o", "/dev/full"))
    assert (done.status, done.err) == (
        3,
        b"trapgate: error: -o /dev/full cannot be written: No space left on device; make room on the disk\n",
    )


def test_without_debug_information_or_symbols(program: str, tmp_path: Path) -> None:
    bare = tmp_path / "b\\ä re"
    subprocess.run(["strip", "-o", str(bare), program], check=True)
    (one,) = findings(tmp_path / "report", str(bare), "lock")
    site = one["site"]
    assert (site["module"], site["line"], site["bytes"][:2]) == (str(bare), None, "f0")
    assert Path(program).read_bytes()[site["offset"] :].startswith(bytes.fromhex(site["bytes"]))


def test_a_program_made_in_the_guest(program: str) -> None:
    """Its file is gone when the report is made: that is told, and what is known without it."""
    done = looked("sh", "-c", f"cp {program} /tmp/made-here && /tmp/made-here lock")
    assert done.status == 1
    assert b"/tmp/made-here at 0x" in done.err
    assert b"this file was the guest's own" in done.err
    assert b"lock add dword ptr" in done.err


NARROW = """
.data
.balign 64
.space 60
crossing: .long 0, 0
.balign 64
.space 4
within: .long 0, 0
.text
.globl _start
_start:
    lock cmpxchg8b within
    lock cmpxchg8b crossing
    mov $1, %eax
    mov $9, %ebx
    int $0x80
"""


def test_a_program_of_32_bits(tmp_path: Path) -> None:
    needs_kernel()
    if shutil.which("as") is None or shutil.which("ld") is None:
        pytest.skip("as and ld build the program")
    source, made = tmp_path / "narrow.s", tmp_path / "narrow"
    source.write_text(NARROW)
    subprocess.run(["as", "-g", "--32", "-o", str(tmp_path / "narrow.o"), str(source)], check=True)
    subprocess.run(["ld", "-m", "elf_i386", "-o", str(made), str(tmp_path / "narrow.o")], check=True)
    (one,) = findings(tmp_path / "report", str(made))
    assert one["site"]["instruction"].startswith("lock cmpxchg8b ")
    assert one["site"]["line"] == NARROW.splitlines().index("    lock cmpxchg8b crossing") + 1
    assert (one["operand"]["size"], one["operand"]["line_offset"]) == (8, 60)
    assert json.loads((tmp_path / "report").read_text())["status"] == 9


@pytest.mark.parametrize(
    "command", [("python3", "-c", "print(6 * 7)"), ("git", "--version"), ("perl", "-e", "print 42")], ids=" ".join
)
def test_programs_that_people_have_lock_nothing(command: tuple[str, ...]) -> None:
    needs_kernel()
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not here")
    assert looked(*command) == ran(command)
