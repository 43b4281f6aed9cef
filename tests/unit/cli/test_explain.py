"""`trapgate explain` as a user meets it."""

import io
import shutil
from pathlib import Path

import pytest

from trapgate.cli import main
from unit.finder.programs import built, functions

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


def explain(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main.status_of(["explain", *words])
    said = capsys.readouterr()
    return status, said.out, said.err


def line(address: int) -> str:
    return f"x86/split lock detection: #AC: server/4194305 took a split_lock trap at address: {address:#x}"


def lock(way: str) -> int:
    return functions()[way]["bump"]


def test_a_program_by_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = explain(capsys, line(lock("static")), "--exe", str(built("static")))
    assert status == 0
    assert out.startswith(f"server/4194305: a locked access at {lock('static'):#x}\n")
    assert "bump+0x0" in out
    assert "source.c:" in out


def test_a_log_on_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    log = f"something else\n{line(lock('static'))}\n{line(lock('static'))}\n{line(0x1234)}\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(log))
    status, out, _ = explain(capsys, "-", "--exe", str(built("static")))
    assert status == 1
    assert ", 2 times" in out
    assert out.count("not explained: no locked instruction of") == 1


def test_a_copy_of_the_mappings(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    base = 0x5555_5555_4000
    maps = tmp_path / "maps"
    start = lock("pie")
    page = start & ~0xFFF
    maps.write_text(f"{base + page:x}-{base + page + 4096:x} r-xp {page:08x} fe:00 12  {built('pie')}\n")
    status, out, _ = explain(capsys, line(base + start), "--maps", str(maps))
    assert (status, f"{base + start:#x}:  lock " in out) == (0, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hello"], "'hello' does not tell of a bus lock"),
        (["0x1000"], "say where to look: --exe FILE"),
        (["0x1000", "--exe", "a", "--pid", "1"], "look at one of"),
        (["0x1000", "--pid", "0"], "0 is not in the range"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    status, _, err = explain(capsys, *words)
    assert (status, said in err) == (2, True), err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--exe", "/none"], "/none cannot be read"),
        (["--exe", "/bin"], "/bin is no regular file"),
        (["--maps", "/none"], "cannot read the mappings of /none"),
        (["--core", "/dev/null"], "cannot read /dev/null"),
        (["--pid", "4194305"], "cannot read the mappings of process 4194305"),
        ([], "process 4194305, server, is gone"),
    ],
)
def test_what_cannot_be_explained_is_said_in_a_line(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    status, out, _ = explain(capsys, line(0x1000), *words)
    assert (status, said in out) == (1, True), out
