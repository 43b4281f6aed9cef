"""Names of C++ and Rust functions, beside c++filt of binutils where it is installed, and names that are none."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trapgate.finder.demangling import demangled

SOURCE = """
namespace one {
template <typename T> struct Box { T value; void put(T, int) const; };
struct Out { struct In { int at(char) &; int by(char) const &&; }; };
template <typename T> void Box<T>::put(T, int) const {}
int Out::In::at(char) & { return 1; }
int Out::In::by(char) const && { return 1; }
static int hidden(const char *, ...) { return 2; }
int (*table[2])(const char *, ...) = {hidden, hidden};
template struct Box<int>;
template struct Box<Box<long>>;
bool operator==(const Box<int> &, const Box<int> &) { return true; }
void take(unsigned char **, double &&, const int *, bool[4]) {}
}
"""


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("_ZN3one3twoEi", "one::two(int)"),
        ("_ZN3one3twoEi.cold", "one::two(int) [cold]"),
        ("_ZN3one3twoEi.constprop.0.isra.0", "one::two(int) [constprop]"),
        ("_ZN4core3fmt9Formatter3pad17h0123456789abcdefE", "core::fmt::Formatter::pad"),
        (
            "_ZN60_$LT$alloc..string..String$u20$as$u20$core..fmt..Display$GT$3fmt17h0123456789abcdefE",
            "<alloc::string::String as core::fmt::Display>::fmt",
        ),
        ("_RNvCs1234_7mycrate3foo", "mycrate::foo"),
        ("_RNvMsr_NtCs3ssYzQotkvD_3std4pathNtB5_7PathBuf3newCs15kBYyAo9fc_7mycrate", "<std::path::PathBuf>::new"),
    ],
)
def test_names(name: str, read: str) -> None:
    assert demangled(name) == read


@pytest.mark.parametrize(
    "name", ["", "main", "_start", "_Z", "_R", "_Zzzz", "_ZN", "_ZN9", "_RNv", "_ZN" + "N" * 4000, "_Z" * 9999]
)
def test_what_is_no_such_name_stays(name: str) -> None:
    assert demangled(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "_Z1fSt1aIiE" + "".join(f"St1aIS{n}_S{n}_E" for n in ["", *"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"]),
        "_RINvC1a1f" + "T" * 5 + "".join(f"TB{n}_B{n}_E" for n in ["", *"0123456789abcdefghijklmnop"]) + "E" * 5,
    ],
    ids=["C++", "Rust"],
)
def test_a_name_that_would_be_gigabytes_stays_as_it_is_or_is_short(name: str) -> None:
    assert len(demangled(name)) < 1 << 20


def test_who_watches_python_still_does() -> None:
    """A profiler's hook is put back."""
    seen: list[str] = []
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, argument: seen.append(event))
    try:
        demangled("_ZN5three4fourEv")
        assert sys.getprofile() is not before
    finally:
        sys.setprofile(before)


@pytest.mark.skipif(not all(map(shutil.which, ("g++", "c++filt", "nm"))), reason="needs g++ and binutils")
def test_names_of_a_compiler_as_binutils_read_them(tmp_path: Path) -> None:
    """But for blanks."""
    (tmp_path / "a.cc").write_text(SOURCE)
    subprocess.run(["g++", "-c", "-w", "-o", "a.o", "a.cc"], cwd=tmp_path, check=True)
    rows = subprocess.run(["nm", "a.o"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout.split("\n")
    names = [row.split()[2] for row in rows if " _Z" in row]
    judged = subprocess.run(["c++filt"], input="\n".join(names), check=True, capture_output=True, text=True).stdout.split("\n")
    assert len(names) >= 6
    assert [demangled(one).replace(" ", "") for one in names] == [one.replace(" ", "") for one in judged]
