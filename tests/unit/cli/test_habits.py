"""QEMU's words on the command line: each is answered in one line that names the word used here."""

import click
import pytest

from trapgate.cli import habits
from trapgate.cli.main import cli, status_of


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert status_of(["run", *arguments]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    return captured.err.removeprefix("trapgate: error: ").rstrip()


@pytest.mark.parametrize("option", list(habits.OPTIONS))
def test_an_option_of_qemu(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([option, "value", "X"], ["X", option], ["-m", "16M", "X", option, "value", "--append", "a"]):
        assert said(arguments, capsys).startswith(f"{option} is QEMU's: {habits.OPTIONS[option]}"), arguments


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["-kernel", "X"], "as IMAGE"),
        (["X", "-s", "-S"], "--gdb :1234"),
        (["X", "-S"], "--wait"),
        (["X", "-nographic"], "COM1 is your terminal already"),
        (["X", "-hda", "d"], "--disk FILE"),
        (["-cdrom", "d"], "--cdrom FILE"),
        (["X", "-virtfs", "local,path=d,mount_tag=t,security_model=none"], "--share DIR"),
        (["X", "-append", "console=ttyS0"], "--append TEXT"),
        (["X", "-cpu", "host"], "--cpu MODEL"),
        (["X", "--gdb", "tcp::1234"], "write --gdb :1234 "),
        (["X", "--gdb=tcp:localhost:1234,server"], "write --gdb localhost:1234 "),
        (["X", "--gdb", "1234"], "write --gdb :1234 "),
        (["X", "--cpu", "host"], "leave the option out"),
        (["X", "--cpu", "max,+avx"], "leave the option out"),
        (["X", "--serial", "mon:stdio"], "--serial stdio"),
    ],
)
def test_what_is_written_here(arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert word in said(arguments, capsys)


def test_a_value_that_looks_like_an_option_is_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["X", "--append", "-s", "--nonsense"], ["--nonsense", "--", "-s"]):
        assert "No such option '--nonsense'" in said(arguments, capsys)
    assert "No such option '--nonsense'" in said(["X", "--append", "-s -S", "-m", "16M", "--nonsense"], capsys)


def test_every_word_that_is_recommended_is_known_here() -> None:
    command = cli.commands["run"]
    known = {name for one in command.params if isinstance(one, click.Option) for name in one.opts}
    answers = [*habits.OPTIONS.values(), *(answer for _, _, answer in habits.VALUES)]
    words = {word.strip(",.;:') ") for answer in answers for word in answer.split() if word.startswith("--")}
    assert words - known - {"--help"} == set()
    assert not known & set(habits.OPTIONS)
