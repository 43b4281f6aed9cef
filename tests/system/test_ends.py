"""How runs end for a script: success, panic and crash have statuses of their own, and port E9h is seen."""

import subprocess
import sys
from pathlib import Path

import pytest

from cases import kit
from trapgate.cli import errors

TRAPGATE = str(Path(sys.executable).with_name("trapgate"))

pytestmark = pytest.mark.skipif(bool(kit.LACKING), reason=kit.LACKING)


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [TRAPGATE, "run", "-m", "16M", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)


def test_a_panic_that_halts_for_good_is_no_success(tmp_path: Path) -> None:
    done = run(kit.program("x02_panic_halts", tmp_path))
    assert done.stdout == "PANIC: out of cheese\n"
    assert (done.returncode, done.stderr) == (4, "trapgate: the guest halted with interrupts disabled: nothing can wake it\n")


def test_a_crash_is_neither_success_nor_panic(tmp_path: Path) -> None:
    done = run(kit.program("x01_reboot_by_int3", tmp_path))
    assert (done.returncode, done.stdout) == (6, "about to crash\n")


@pytest.mark.parametrize(("value", "status"), [(0, 1), (0x10, 33), (0x7F, 255)])
def test_the_exit_port_gives_odd_statuses(value: int, status: int, tmp_path: Path) -> None:
    done = run(kit.program("x03_exit_codes", tmp_path, f"-DEXIT={value}"))
    assert (done.returncode, done.stdout) == (status, "all tests passed\n")


def test_the_debug_console_is_seen_where_it_is_wanted(tmp_path: Path) -> None:
    image, kept, serial = kit.sector("x05_debug_console", tmp_path), tmp_path / "kept", f"file:{tmp_path / 'serial'}"
    for options, stdout, stderr in (
        ([], "", "X"),
        (["--debugcon", "stdout", "--serial", serial], "X", ""),
        (["--debugcon", "none"], "", ""),
        (["--debugcon", f"file:{kept}"], "", ""),
    ):
        done = run(image, *options)
        assert (done.returncode, done.stdout, done.stderr) == (33, stdout, stderr), options
    assert kept.read_bytes() == b"X"


def test_a_debug_console_that_cannot_be_written(tmp_path: Path) -> None:
    image = kit.sector("x05_debug_console", tmp_path)
    done = run(image, "--debugcon", "file:/nonexistent/file")
    assert done.returncode == 2
    assert done.stderr == "trapgate: error: --debugcon: '/nonexistent/file' cannot be written: No such file or directory\n"
    done = run(image, "--debugcon", "file:/dev/full")
    assert done.returncode == 33
    assert done.stderr == "trapgate: output of the guest is lost: /dev/full cannot be written: No space left on device\n"


def test_every_status_is_told_in_help() -> None:
    told = run("--help").stdout
    for status, meaning in errors.STATUSES:
        assert f"  {status:<4} {meaning}\n" in told


def test_a_flat_binary_starts_where_it_is_loaded(tmp_path: Path) -> None:
    image = tmp_path / "flat"
    # call $+3; pop ax; mov cx, cs; add al, ch; out F4h, al: the low 8 bits of IP, 3 behind the start, and the high 8 of CS
    image.write_bytes(bytes.fromhex("e80000 58 8cc9 00e8 e6f4").ljust(600, b"\x90"))
    assert [run(str(image), "--load-at", where).returncode for where in ("0x8010", "0x12000")] == [0x13 * 2 + 1, 0x15 * 2 + 1]
    done = run(str(image))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "say where it starts, as in --load-at 0x7c00" in done.stderr
    assert "a multiple of 16" in run(str(image), "--load-at", "0x10001").stderr
