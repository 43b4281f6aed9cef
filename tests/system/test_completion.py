"""Tab in real shells on a terminal: what it completes is run, and what that prints is looked at."""

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trapgate.cli import completion
from trapgate.cli.main import cli

TRAPGATE = Path(sys.executable).with_name("trapgate")
START = {
    "bash": ("bash", "--noprofile", "--rcfile"),
    "zsh": ("zsh", "-f"),
    "fish": ("fish", "--private"),
}
SETUP = {
    "bash": 'eval "$(trapgate completion bash)"',
    "zsh": 'autoload -Uz compinit; compinit -u; eval "$(trapgate completion zsh)"',
    "fish": "trapgate completion fish | source",
}


class Terminal:
    """A shell on a terminal of its own, with a home that is empty."""

    def __init__(self, command: tuple[str, ...], home: Path) -> None:
        environment = {
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home),
            "XDG_DATA_HOME": str(home),
            "PATH": f"{TRAPGATE.parent}:/usr/bin:/bin",
            "TERM": "dumb",
            "LANG": "C.UTF-8",
        }
        self.process, self.file = pty.fork()
        if not self.process:
            os.chdir(home)
            os.execvpe(command[0], command, environment)
        self.seen = ""

    def write(self, text: str) -> None:
        os.write(self.file, text.encode())

    def wait_for(self, text: str, seconds: float = 40) -> None:
        """Read until the text has come since the last time."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.file], [], [], max(0, end - time.monotonic()))
            assert ready, f"{text!r} did not come: {self.seen!r}"
            self.seen += os.read(self.file, 65536).decode(errors="replace")
        self.seen = self.seen.partition(text)[2]

    def close(self) -> None:
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self.file)


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_tab_completes_a_command_and_its_argument(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    (tmp_path / "rc").write_text("")
    start = (*START[shell], str(tmp_path / "rc")) if shell == "bash" else START[shell]
    terminal = Terminal(start, tmp_path)
    try:
        terminal.write(f"{SETUP[shell]}; echo rea''dy\r")
        terminal.wait_for("ready")
        terminal.write("trapgate comp\tzs\t\r")  # trapgate completion zsh
        terminal.wait_for("#compdef trapgate")
        terminal.wait_for("compdef _trapgate_completion trapgate")
        terminal.write("trapgate run --engine sof\t --load\tnone; echo do''ne\r")  # a value and an option
        terminal.wait_for("Invalid value for '--load-at': 'none'")
        terminal.wait_for("done")
    finally:
        terminal.close()


def asked(*words: str) -> list[str]:
    """What bash is offered for the last word."""
    environment = {
        **os.environ,
        completion.ASKED: "bash_complete",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run([TRAPGATE], capture_output=True, text=True, check=True, env=environment)
    return [line.partition(",")[2] if line.startswith("plain,") else line.partition(",")[0] for line in done.stdout.split()]


SHOWN = sorted(name for name, command in cli.commands.items() if not command.hidden)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("trapgate", ""), SHOWN),
        (("trapgate", "cache", ""), ["clear", "show"]),
        (("trapgate", "run", "--gdb"), ["--gdb", "--gdb-arch"]),
        (("trapgate", "run", "--gdb-arch", "i"), ["i8086", "i386"]),
        (("trapgate", "run", "--cpu", "Sap"), ["SapphireRapids"]),
        (("trapgate", "run", "--bus-locks", ""), ["off", "report", "stop", "limit:"]),
        (("trapgate", "run", "--serial", ""), ["stdio", "pty"]),
        (("trapgate", "run", "--initrd", ""), ["file"]),
        (("trapgate", "run", ""), ["file"]),
        (("trapgate", "nonsense", ""), SHOWN),
    ],
)
def test_what_is_offered(words: tuple[str, ...], offered: list[str]) -> None:
    assert asked(*words) == offered


def test_a_question_that_is_none_has_a_status() -> None:
    done = subprocess.run([TRAPGATE], capture_output=True, check=False, env={**os.environ, completion.ASKED: "tcsh_complete"})
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
