"""What is told of bus locks that a watch has seen, by the programs that they are from."""

import json
import shutil
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from trapgate.exits import BusLock
from trapgate.finder import locks, saved
from trapgate.finder.files import Files
from trapgate.finder.findings import Block, Finding, Kind, Process, Report, Run
from trapgate.finder.formats import text as words
from trapgate.finder.naming import found
from trapgate.finder.program import Program, Programs
from trapgate.finder.sightings import Sighting
from trapgate.finder.stacks.walking import Code, Step
from trapgate.linux.mappings import Mapping
from trapgate.linux.tasks import Task
from unit.finder.programs import LINE, built, functions

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
BASE = 0x5555_5555_4000
KERNEL = 0xFFFF_FFFF_8123_4567


@pytest.fixture
def programs() -> Iterator[Programs]:
    with Programs() as programs:
        yield programs


def task(pid: int, thread: int = 0) -> Task:
    return Task(0, thread or pid, pid, 1, "R", 0x1000, "locker", False, 0x2000)


def sighting(programs: Programs, *, pid: int = 7, thread: int = 0, count: int = 3, filesystem: str = "virtiofs") -> Sighting:
    """The lock of `bump_global`, as it is seen in a process."""
    path = str(built("pie"))
    program = programs[path]
    start = functions()["pie"]["bump_global"]
    code = program.code(start, 64)
    instruction = next(one for at in range(64) if (one := locks.at(code[at:], start + at, 64)) and one.has_lock_prefix)
    address, offset, size, _ = next(one for one in program.loaded if one[0] <= start < one[0] + one[2])
    rip, operand = instruction.ip + BASE, instruction.ip_rel_memory_address + BASE
    place = Mapping(address + BASE, address + BASE + size, offset, path, filesystem)
    lock = BusLock(rip, operand, 8, 3)
    return Sighting(
        lock, task(pid, thread), code[instruction.ip - start :][:15], place, Mapping(0, 1 << 47, 0, path, filesystem), count
    )


def made(programs: Programs, *seen: Sighting) -> list[Finding]:
    watch = SimpleNamespace(sightings=lambda: list(seen), kernel_place=lambda address: ("", "futex_wake", address - KERNEL))
    return list(found(cast(Any, watch), Files(programs, lambda path: path)))


def told_of(*findings: Finding, notes: tuple[str, ...] = ()) -> list[str]:
    return list(words.render(Report((Run(("locker",)),), findings, notes)))


def test_a_file_of_the_hosts(programs: Programs) -> None:
    (one,) = made(programs, sighting(programs))
    assert (one.kind, one.count, one.processes) == (Kind.SPLIT, 3, [Process("locker", 7, 7, 3)])
    assert (one.site.module, one.site.function) == (str(built("pie")), "bump_global")
    assert one.site.line is not None
    assert one.site.line.number == LINE + 1
    assert (one.owner, one.owner_offset) == ("record", 60)
    text = "\n".join(told_of(one, notes=("a note",)))
    assert "TG0001 split lock: 3 times\n" in text
    assert "HERE" in text
    assert "|" + 60 * "." + "####|####..." in text
    assert "by locker[7]: 3 times" in text
    assert "trapgate: a note\n" in text
    assert text.splitlines()[-1].startswith("trapgate: SUMMARY: TG0001 split lock: ")


def test_names_are_as_source_has_them(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Program, "function", lambda self, address: ("_ZN5three4fourEi", address - 3))
    monkeypatch.setattr(Program, "variable", lambda self, address: ("_ZN5three4fiveE", address - 60))
    seen = sighting(programs)
    assert seen.place is not None
    program = programs[seen.place.path]
    seen.stacks = {(Step(seen.lock.rip, Code(seen.place, program, BASE)),): 1}
    (one,) = made(programs, seen)
    assert (one.site.function, one.owner) == ("three::four(int)", "three::five")
    assert one.stacks[0].frames[-1].function == "three::four(int)"


def test_blocks_and_files_are_told_with_the_offset(programs: Programs) -> None:
    block, file = sighting(programs), sighting(programs)
    block.operand, block.block = Mapping(0, 1 << 47, 0, "[heap]", ""), Block(104, 60)
    file.lock, file.operand = (
        BusLock(file.lock.rip, 0x7000_003E, 8, 3),
        Mapping(0x7000_0000, 0x7000_1000, 0x2000, "/data", "virtiofs"),
    )
    told = ["\n".join(told_of(*made(programs, one))) for one in (block, file)]
    assert "they are in a block of 104 bytes of the heap, 60 bytes from its beginning\n" in told[0]
    assert "they are in /data at 0x203e\n" in told[1]


def test_one_instruction_in_several_processes_is_one_finding(programs: Programs) -> None:
    seen = [sighting(programs, pid=pid, count=1) for pid in range(7, 14)]
    (one,) = made(programs, *seen)
    assert one.count == 7
    text = "\n".join(told_of(one))
    assert text.count("  by locker[") == words.MOST_PROCESSES
    assert "and by 2 more processes" in text
    assert text.endswith("7 times by locker[7], 6 more")


def test_the_busiest_comes_first(programs: Programs) -> None:
    rare, often = sighting(programs, count=1), sighting(programs, count=9)
    often.lock, often.place = BusLock(0x1000, 0x103E, 4, 3), None
    assert [one.count for one in made(programs, rare, often)] == [9, 1]


def test_files_that_say_no_more(programs: Programs) -> None:
    gone, other, missing = (sighting(programs, filesystem=kind) for kind in ("tmpfs", "virtiofs", "virtiofs"))
    other.code = b"\xf0\x01\x00"
    assert missing.place is not None
    missing.place = Mapping(missing.place.start, missing.place.end, missing.place.offset, "/no/such/file", "virtiofs")
    notes = [made(programs, one)[0].site for one in (gone, other, missing)]
    assert [site.function for site in notes] == ["", "", ""]
    for site, word in zip(notes, ("the guest's own (tmpfs)", "other code there", "cannot be read"), strict=True):
        assert word in site.note
    assert [site.words.split()[0] for site in notes] == ["lock", "lock", "lock"]


def test_code_without_a_file(programs: Programs) -> None:
    one = sighting(programs)
    one.place = Mapping(BASE, BASE + 0x10000, 0, "[anonymous]", "")
    (told,) = made(programs, one)
    assert (told.site.module, told.site.address) == ("", one.lock.rip)
    assert "code in memory without a file: [anonymous]" in told.site.note
    assert f"split lock: {one.lock.rip:#x}: 3 times" in "\n".join(told_of(told))


def test_the_kernel(programs: Programs) -> None:
    lock = BusLock(KERNEL + 0x10, 0x7FFF_FFFF_003E, 4, 0)
    (one,) = made(programs, Sighting(lock, task(7), b"\xf0\x01\x00", None, None, 2))
    assert (one.site.module, one.site.function, one.site.function_offset) == ("the kernel", "futex_wake", 0x10)
    assert "split lock, in the kernel (CPL 0): 2 times" in told_of(one)[0]


def test_each_instruction_of_the_kernels_is_a_finding_of_its_own(programs: Programs) -> None:
    seen = [Sighting(BusLock(KERNEL + at, 0x7FFF_FFFF_003E, 4, 0), task(7), b"\xf0\x01\x00", None, None, 2) for at in (0, 9, 0)]
    assert [one.count for one in made(programs, *seen)] == [4, 2]


def test_memory_that_is_not_write_back(programs: Programs) -> None:
    one = sighting(programs)
    one.lock = BusLock(one.lock.rip, one.lock.address & -64, 8, 3)
    (told,) = made(programs, one)
    assert told.kind is Kind.NOT_WRITE_BACK
    assert "in memory that is not write-back" in "\n".join(told_of(told))


def test_nobody_known(programs: Programs) -> None:
    (one,) = made(programs, Sighting(BusLock(0x1000, 0x103E, 4, 3), None, b"", None, None, 1))
    assert list(words.endings(Report((), (one,)))) == [
        "trapgate: SUMMARY: TG0001 split lock: 0x1000: once by a process that is not known"
    ]


def test_json(programs: Programs) -> None:
    findings = made(programs, sighting(programs))
    whole = saved.value(Report((Run(("locker", "-x"), status=4),), tuple(findings), ("a note",)))
    assert (whole["format"], whole["program"], whole["status"], whole["signal"], whole["notes"]) == (
        1,
        ["locker", "-x"],
        4,
        None,
        ["a note"],
    )
    (one,) = json.loads(json.dumps(whole))["findings"]
    assert (one["kind"], one["cpl"], one["count"], one["operand"]["line_offset"]) == ("TG0001", 3, 3, 60)
    assert one["site"]["line"] == LINE + 1
    assert one["processes"] == [{"name": "locker", "pid": 7, "thread": 7, "count": 3}]


def test_paths_are_one_line_each(programs: Programs) -> None:
    one = sighting(programs)
    one.place = Mapping(BASE, BASE + 0x10000, 0, "/tmp/ä\ntrapgate: SUMMARY\x1b[2J\udcff", "tmpfs")
    lines = told_of(*made(programs, one))
    assert "  /tmp/ä\\ntrapgate: SUMMARY\\x1b[2J\\udcff at 0x" in "\n".join(lines)
    assert sum(line.startswith("trapgate: SUMMARY") for line in lines) == 1
    assert all(line.isprintable() for line in lines)
