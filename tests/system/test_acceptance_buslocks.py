"""`trapgate buslocks` on programs as people have them: those that lock the bus, in each way, and those that do not."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from system.exec_runs import TRAPGATE, needs_kernel, ran

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def kernel() -> None:
    needs_kernel()


def needs(*programs: str) -> None:
    for one in programs:
        if shutil.which(one) is None:
            pytest.skip(f"{one} is not here")


def found(folder: Path, *command: str, options: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The findings of a run that ends as it should."""
    file = folder / "report.json"
    whole = ("--exit-zero", "--timeout", "220", "--format", f"json:{file}", *options)
    done = ran([TRAPGATE, "buslocks", *whole, "--", *command], cwd=folder)
    assert done.status == 0, done
    return list(json.loads(file.read_text())["findings"])


def test_a_stressor_that_splits_locks(tmp_path: Path) -> None:
    needs("stress-ng")
    findings = found(tmp_path, "stress-ng", "--lockbus", "1", "--lockbus-ops", "20", "--temp-path", "/tmp")
    assert len(findings) > 20
    assert {one["kind"] for one in findings} == {"TG0001"}
    assert {one["operand"]["line_offset"] for one in findings} <= set(range(61, 64))
    assert all(one["stacks"] for one in findings)


def test_the_stressor_without_them(tmp_path: Path) -> None:
    needs("stress-ng")
    assert found(tmp_path, "stress-ng", "--lockbus", "1", "--lockbus-ops", "20", "--lockbus-nosplit", "--temp-path", "/tmp") == []


COUNTER = """
#include <stdint.h>
static struct { char before[60]; uint64_t count; } __attribute__((packed, aligned(64))) packed;
int main(void) { __atomic_fetch_add(&packed.count, 1, __ATOMIC_SEQ_CST); return 0; }
"""


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_a_packed_counter(compiler: str, tmp_path: Path) -> None:
    """gcc locks what is not aligned; clang leaves it to libatomic, which takes a lock of its own."""
    needs(compiler)
    (tmp_path / "a.c").write_text(COUNTER)
    atomics = ["-latomic"] if compiler == "clang" else []
    subprocess.run([compiler, "-g", "-O1", "-w", "-o", "a", "a.c", *atomics], cwd=tmp_path, check=True)
    findings = found(tmp_path, "./a")
    told = [(one["operand"]["variable"], one["operand"]["variable_offset"], one["operand"]["size"]) for one in findings]
    assert told == ([("packed", 60, 8)] if compiler == "gcc" else [])


CTYPES = """
import ctypes, threading
libc = ctypes.CDLL("libc.so.6")
class Header(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("before", ctypes.c_char * 60), ("semaphore", ctypes.c_char * 32)]
room = (ctypes.c_char * 256)()
base = -ctypes.addressof(room) % 64
header = Header.from_buffer(room, base)
at = ctypes.addressof(header) + 60
thread = threading.Thread(target=libc.sem_post, args=(ctypes.c_void_p(at),))
thread.start(); thread.join()
"""


def test_python_by_ctypes(tmp_path: Path) -> None:
    needs("python3")
    (one,) = found(tmp_path, "python3", "-c", CTYPES)
    names = [frame["function"] or "" for frame in one["stacks"][0]["frames"]]
    modules = [frame["module"] or "" for frame in one["stacks"][0]["frames"]]
    assert "sem_post" in one["site"]["function"]
    assert any("ffi" in module for module in modules)
    assert any("_PyEval" in name for name in names)
    assert one["operand"]["line_offset"] == 60


RUST = """
use std::sync::atomic::{AtomicU64, Ordering};
#[repr(C, packed)]
struct Record { before: [u8; 60], count: u64 }
#[repr(align(64))]
struct Aligned(Record);
#[inline(always)]
unsafe fn bump(record: *mut Record) {
    let count = std::ptr::addr_of_mut!((*record).count) as *const AtomicU64;
    (*std::hint::black_box(count)).fetch_add(1, Ordering::SeqCst);
}
#[inline(never)]
unsafe fn outer(record: *mut Record) { bump(record) }
fn main() {
    let mut one = Aligned(Record { before: [0; 60], count: 0 });
    unsafe { outer(&mut one.0) }
}
"""


def test_rust(tmp_path: Path) -> None:
    needs("rustc")
    if subprocess.run(["rustc", "--version"], capture_output=True, check=False).returncode:
        pytest.skip("rustc has no toolchain")
    (tmp_path / "a.rs").write_text(RUST)
    build = ["rustc", "--edition", "2021", "-g", "-O", "-A", "warnings", "-o", "a", "a.rs"]
    subprocess.run(build, cwd=tmp_path, check=True)
    (one,) = found(tmp_path, "./a")
    frames = one["stacks"][0]["frames"]
    names = [frame["function"] for frame in frames]
    assert "bump" in names
    assert frames[names.index("bump")]["inlined"]
    assert any("outer" in name for name in names[names.index("bump") + 1 :])
    assert (one["operand"]["line_offset"], one["operand"]["mapping"]) == (60, "[stack]")


UNCACHED = """
#include <fcntl.h>
#include <sys/mman.h>
int main(void)
{
    int file = open("/dev/mem", O_RDWR | O_SYNC);
    char *page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0x9F000);
    if (page == MAP_FAILED)
        return 1;
    for (int at = 128; at < 136; at += 4)
        __asm__ volatile("lock addl $0, %0" : "+m"(*(int *)(page + at)));
    return 0;
}
"""


@pytest.mark.skipif(os.getuid() != 0, reason="/dev/mem is root's")
def test_uncached_memory(tmp_path: Path) -> None:
    """A page that the guest's kernel leaves alone, mapped uncached: it is told of wherever in a line the operand lies."""
    needs("gcc")
    (tmp_path / "a.c").write_text(UNCACHED)
    subprocess.run(["gcc", "-g", "-O1", "-o", "a", "a.c"], cwd=tmp_path, check=True)
    findings = found(tmp_path, "./a")
    assert sum(one["count"] for one in findings) == 2
    assert {(one["kind"], one["cpl"], one["operand"]["mapping"]) for one in findings} == {("TG0002", 3, "/dev/mem")}


INNOCENT = {
    "python3": ("-c", "import json, threading; print(json.dumps(sorted(map(str, range(200)))))"),
    "gcc": ("-x", "c", "-O2", "-S", "-o", "-", "/dev/stdin"),
    "git": ("-c", "safe.directory=*", "hash-object", "--stdin"),
    "sqlite3": (":memory:", "create table a(b); insert into a values (1), (2); select sum(b) from a;"),
    "openssl": ("dgst", "-sha256"),
    "perl": ("-e", "my %a = map { $_ => 1 } 1..1000; print scalar(keys %a), qq(\\n)"),
    "node": ("-e", "console.log([3, 1, 2].sort().join())"),
    "java": ("-version",),
    "xz": ("-9",),
    "sort": ("--parallel=4",),
}
GIVEN = b"int main(void) { return 3; }\n"


@pytest.mark.parametrize("name", INNOCENT)
def test_programs_that_lock_nothing_end_as_natively(name: str) -> None:
    needs(name)
    command = (name, *INNOCENT[name])
    done = ran([TRAPGATE, "buslocks", "--timeout", "220", "--", *command], GIVEN)
    assert done == ran(command, GIVEN)
