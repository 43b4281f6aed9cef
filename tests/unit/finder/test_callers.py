"""Who is told to have called, where it is not known what system a guest runs."""

import contextlib
import shutil
from collections.abc import Iterator

import pytest

from trapgate.exits import BusLock
from trapgate.finder.callers import Callers
from trapgate.finder.files import Given
from trapgate.finder.program import Program, ProgramError
from trapgate.linux.kernel import WIDE
from trapgate.linux.mappings import Mapping
from unit.finder.programs import built, functions

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
KERNEL = WIDE.code.start + 0x100_0000


class Pretended:
    """A guest with a program's file at the addresses that it was linked for, and a stack of one word: nobody called."""

    def __init__(self, program: Program, word: int = 8) -> None:
        self._program, self._word, self.entry, self.asked = program, word, 0, 0

    @property
    def cr4(self) -> int:
        return 0

    def read_msr(self, index: int) -> int:
        return self.entry if index == WIDE.entry else 0

    def translate(self, address: int) -> int | None:
        self.asked += 1
        return None

    def read_physical(self, address: int, length: int) -> bytes:
        return b""

    def registers(self, cpu: int) -> dict[str, int]:
        return {"rsp": 0x7000, "rbp": 0, "rip": 0}

    def word(self, cpu: int) -> int:
        return self._word

    def read(self, cpu: int, address: int, length: int) -> bytes:
        return self._program.content(address, length)


@pytest.fixture
def program() -> Iterator[Program]:
    with contextlib.closing(Program(str(built("static")))) as one:
        yield one


def lock() -> BusLock:
    return BusLock(functions()["static"]["bump_global"], 0x60003E, 4, 0)


def test_the_code_that_locks_is_told_by_the_image(program: Program) -> None:
    caught = Callers(Pretended(program), [program]).at(lock(), 0)
    assert [one.function for one in caught.frames] == ["bump_global"]
    assert (caught.who, caught.linux) == ("", False)


@pytest.mark.parametrize("word", [0, 4])
def test_code_of_another_width_than_the_image_has_no_names_of_its(program: Program, word: int) -> None:
    caught = Callers(Pretended(program, word), [program]).at(lock(), 0)
    assert [(one.address, one.function) for one in caught.frames] == [(lock().rip, "")]


def test_a_kernel_that_is_not_found_is_looked_for_once(program: Program) -> None:
    """Each search may take seconds, and each bus lock at a new place would ask for one."""
    guest = Pretended(program)
    callers = Callers(guest, [program])
    guest.entry = KERNEL
    for _ in range(3):
        assert not callers.at(lock(), 0).linux
    assert guest.asked == 1
    guest.entry = KERNEL + 0x1000
    callers.at(lock(), 0)
    assert guest.asked == 2


def test_programs_are_given_by_name(program: Program) -> None:
    with contextlib.closing(Program(str(built("pie")))) as other:
        check_by_name(program, other)


def check_by_name(program: Program, other: Program) -> None:
    one, two = (Mapping(0, 4096, 0, f"/somewhere/{built(kind).name}", "rootfs") for kind in ("static", "pie"))
    assert (Given([program, other]).program(one), Given([program, other]).program(two)) == (program, other)
    stranger = Mapping(0, 4096, 0, "/bin/stranger", "rootfs")
    assert Given([program]).program(stranger) is program  # the only one may have another name in the guest
    for given in ([], [program, other]):
        with pytest.raises(ProgramError, match="/bin/stranger"):
            Given(given).program(stranger)
