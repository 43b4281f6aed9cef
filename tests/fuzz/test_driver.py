"""What becomes of inputs that end a worker, hang it or eat memory; that a seed decides everything; and `make fuzz` itself."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fuzz import corpus, ill
from fuzz.driver import TESTS, working
from fuzz.mutate import Mutator, Words
from fuzz.place import Place, Progress
from fuzz.probes import HITS, Probes

PATIENCE = 3.0


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("hang", "no end after 3 seconds"),
        ("crash", "ended with status -11"),
        ("devour", "MemoryError"),
        ("swell", "memory grew by "),
    ],
)
def test_what_no_exception_tells_is_found(kind: str, said: str) -> None:
    with working(["agent"], 1, f"--ill={kind}", at_once=1, longest_run=PATIENCE) as crew:
        (found,) = crew.finish()
    assert said in found.text
    assert ill.SIGN in found.data
    if kind == "hang":
        assert "in hang" in found.text  # where it was


def test_a_place_tells_what_was_put(tmp_path: Path) -> None:
    place = Place.make(tmp_path / "place")
    place.put(Progress(1, 2, 3, b"abc"))
    place.put(Progress(2, 3, 4, b"x"))
    assert Place(tmp_path / "place").get() == Progress(2, 3, 4, b"x")


@pytest.mark.parametrize("lines", [False, True])
def test_a_seed_decides_what_is_made(lines: bool) -> None:
    def made(seed: int) -> list[bytes]:
        mutator = Mutator(random.Random(seed), Words((0x1234,), (b"word",)), lines)
        inputs = [b"read 10\nwrite 20 30\n"]
        for _ in range(500):
            inputs.append(mutator.mutated(inputs[-1], inputs[:3]))
        return inputs

    assert made(1) == made(1) != made(2)
    assert any(b"word" in one for one in made(1))


def test_probes_tell_branches_and_change_nothing() -> None:
    source = b'''
def f(a, b=1):
    """Doc."""
    if a > 300:
        return "large"
    for one in range(a):
        if one and b or a:
            break
    else:
        return "none"
    return (lambda x: "a" if x else "b")(b)
'''
    probes = Probes(())
    names: dict[str, object] = {"hits_of_probes": HITS}
    exec(probes.compiled(source, "here"), names)
    seen = set()
    for arguments, right in (((301,), "large"), ((0,), "none"), ((2,), "a"), ((2, 0), "b"), ((1, 0), "b")):
        HITS[:] = bytes(len(HITS))
        assert names["f"](*arguments) == right  # type: ignore[operator]
        seen.add(bytes(HITS))
    assert names["f"].__doc__ == "Doc."
    assert len(seen) == 5 - 1  # the last two take the same way
    assert 300 in probes.integers
    assert b"large" in probes.texts


@pytest.mark.parametrize("data", [b"", b"\0" * 5000, b'it\'s "quoted"\n', bytes(range(256)), random.Random(1).randbytes(300)])
def test_a_line_of_the_corpus_is_its_input(data: bytes) -> None:
    line = corpus.line_of(data)
    assert line.isprintable()
    assert corpus.data_of(line) == data


def fuzz(*options: str) -> list[str]:
    return [sys.executable, "-m", "fuzz", *options]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(TESTS)}


def test_the_command_ends_well_and_by_itself() -> None:
    command = fuzz("--target", "agent", "--target", "elf", "--seed", "3", "--runs", "200")
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "seed 3" in done.stderr
    assert "agent" in done.stderr


def test_interrupted_it_leaves_no_process() -> None:
    with subprocess.Popen(fuzz("--target", "agent"), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not (found := children.read_text().split()):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 128 + signal.SIGINT
        assert "branches" in process.communicate()[1]
    assert not any(Path(f"/proc/{child}").exists() for child in found)
