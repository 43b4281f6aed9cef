"""Parts of variables, as a compiler describes their types in each version of DWARF."""

import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest

from trapgate.finder.locals import Held, Local
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


LOCALS = """
struct both { char before[60]; long count; } __attribute__((packed, aligned(64)));
static void touch(void *what) { __asm__ volatile("" : : "r"(what) : "memory"); }
int main(void)
{
    struct both outer = {{1}}, more[2] = {{{1}}};
    touch(&outer);
    touch(more);
    return 0;
}
"""


@pytest.mark.parametrize("options", [("-O1",), ("-O0",), ("-O1", "-gdwarf-4", "-fno-omit-frame-pointer")], ids=" ".join)
@pytest.mark.skipif(shutil.which("gdb") is None, reason="gdb says where they are")
def test_local_variables_are_where_gdb_has_them(options: tuple[str, ...], tmp_path: Path) -> None:
    program, code = compiled(tmp_path, "gcc", LOCALS, "-g", "-no-pie", *options)
    line = LOCALS.splitlines().index("    return 0;") + 1
    asked = [
        f"break source:{line}",
        "run",
        "p (long)&outer",
        "p (long)more",
        "info frame",
        "p (long)$rsp",
        "p (long)$rbp",
        "p (long)$pc",
    ]
    words = [word for one in asked for word in ("-ex", one)]
    done = subprocess.run(["gdb", "-nx", "-batch", *words, program.path], capture_output=True, text=True, timeout=60, check=True)
    outer, more, stack, base, pc = (int(line.partition("= ")[2]) for line in done.stdout.splitlines() if line.startswith("$"))
    end = int(done.stdout.partition("frame at ")[2].partition(":")[0], 16)
    with contextlib.closing(program):

        def at(address: int) -> Local | None:
            return program.local(pc, Held(address - end, address - stack, address - base))

        assert code <= pc < code + 1024
        assert at(outer + 61) == Local("outer", 61, ".count")
        assert at(more + 128 + 3) == Local("more", 131, "[1].before[3]")
        assert at(more + 128 + 60) == Local("more", 188, "[1].count")
        assert at(end + 64) is None
