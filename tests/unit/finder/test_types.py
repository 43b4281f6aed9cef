"""Parts of variables, as a compiler describes their types in each version of DWARF."""

import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest

from trapgate.finder.program import Program

pytestmark = pytest.mark.skipif(not all(map(shutil.which, ("gcc", "g++", "nm"))), reason="needs gcc, g++ and nm")
C = """
typedef volatile unsigned long number;
struct lock { int owner; union { short half[2]; int whole; } state; } __attribute__((packed));
struct { char before[60]; number count; struct lock locks[3]; struct { char deep, deeper; }; int grid[2][3]; } one = {{1}};
static int plain = 1;
int array[5] = {1};
int main(void) { return __atomic_fetch_add(&one.count, plain + array[1], 5); }
"""
CXX = """
namespace space { struct Base { long first; }; struct Derived : Base { static int shared; long second; }; Derived two = {{1}, 2}; }
int main() { return __atomic_fetch_add(&space::two.second, 1, 5); }
"""
PARTS = [
    ("one", 60, ""),
    ("one", 64, ".count"),
    ("one", 71, ".count"),
    ("one", 72, ".locks[0].owner"),
    ("one", 76, ".locks[0].state.half[0]"),
    ("one", 86, ".locks[1].state.half[1]"),
    ("one", 97, ".deeper"),
    ("one", 100, ".grid"),
    ("one", 3, ".before[3]"),
    ("one", 5000, ""),
    ("plain", 0, ""),
    ("array", 12, "[3]"),
    ("nothing", 0, ""),
]


def compiled(folder: Path, compiler: str, source: str, *options: str) -> tuple[Program, int]:
    """A program, and where its main is."""
    made = folder / "program"
    (folder / "source").write_text(source)
    language = "c++" if compiler == "g++" else "c"
    subprocess.run([compiler, "-w", "-O1", *options, "-o", str(made), "-x", language, str(folder / "source")], check=True)
    rows = subprocess.run(["nm", str(made)], check=True, capture_output=True, text=True).stdout.splitlines()
    return Program(str(made)), int(next(row.split()[0] for row in rows if row.endswith(" T main")), 16)


@pytest.mark.parametrize("version", ["-gdwarf-4", "-gdwarf-5"])
def test_parts(version: str, tmp_path: Path) -> None:
    program, code = compiled(tmp_path, "gcc", C, version)
    with contextlib.closing(program):
        assert [program.member(code, name, offset) for name, offset, _ in PARTS] == [part for _, _, part in PARTS]


def test_parts_of_a_class_and_of_what_it_is_made_of(tmp_path: Path) -> None:
    program, code = compiled(tmp_path, "g++", CXX, "-g")
    with contextlib.closing(program):
        assert [program.member(code, "_ZN5space3twoE", offset) for offset in (0, 8)] == [".first", ".second"]


def test_without_debug_information_there_are_none(tmp_path: Path) -> None:
    program, code = compiled(tmp_path, "gcc", C)
    with contextlib.closing(program):
        assert program.member(code, "one", 60) == ""
