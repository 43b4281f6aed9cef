"""`trapgate run` as a user meets it: a process, its output, its exit status, its terminal."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from cases import kit
from trapgate import guests
from trapgate.stops import STATUS, ExitKind

TRAPGATE = str(Path(sys.executable).with_name("trapgate"))
LOOP = bytes.fromhex("ebfe")  # jmp .
DEAD = bytes.fromhex("faf4")  # cli; hlt
HELLO = bytes.fromhex("baf803b021eeebfe")  # mov dx, 3F8h; mov al, '!'; out dx, al; jmp .
ECHO = bytes.fromhex("bafd03eca80174fbbaf803eceeebf1")  # again: wait for LSR.DR; in al, dx; out dx, al; jmp again
TRIPLE_FAULT = bytes.fromhex("0f011e0a7ccc") + bytes(4) + bytes(6)  # lidt [7C0Ah]: limit 0; int3


def boot_sector(folder: Path, code: bytes) -> str:
    """A flat image that real mode starts at 7C00h."""
    path = folder / "image"
    path.write_bytes(code.ljust(510, b"\0") + b"\x55\xaa")
    return str(path)


def trapgate(*arguments: str, **options: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([TRAPGATE, *arguments], capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)


def wait_for(handle: int, text: bytes) -> bytes:
    data = b""
    while text not in data:
        ready, _, _ = select.select([handle], [], [], 60)
        assert ready, f"only {data!r}"
        data += os.read(handle, 4096)
    return data


def test_the_demo_guest_prints_and_leaves_by_its_exit_port() -> None:
    done = trapgate("run", str(guests.DEMO), "--memory", "16M")
    lines = done.stdout.splitlines()
    assert [line for line in lines[1:-1] if not line.endswith("  ok")] == []
    assert lines[-1] == "27 cases, 0 wrong, 0 skipped for want of bus lock detection"
    assert (done.returncode, done.stderr) == (1, "")


def test_serial_into_a_file(tmp_path: Path) -> None:
    done = trapgate("run", str(guests.DEMO), "--serial", f"file:{tmp_path / 'out'}")
    assert (done.stdout, done.returncode) == ("", 1)
    assert (tmp_path / "out").read_text().startswith("every debug exception")


def test_ends_that_no_exit_port_gives() -> None:
    assert all(status % 2 == 0 for kind, status in STATUS.items() if kind in (ExitKind.DEAD, ExitKind.SHUTDOWN))
    assert len({STATUS[kind] for kind in (ExitKind.POWER_OFF, ExitKind.DEAD, ExitKind.SHUTDOWN)}) == 3


DEBUG_CONSOLE = bytes.fromhex("b058e6e9b00ae6e9b010e6f4")  # out E9h: "X", newline; out F4h, 10h


@pytest.mark.parametrize(("words", "streams"), [((), ("", "X\n")), (("stdout",), ("X\n", "")), (("none",), ("", ""))])
def test_the_debug_console_is_seen(words: tuple[str, ...], streams: tuple[str, str], tmp_path: Path) -> None:
    done = trapgate("run", boot_sector(tmp_path, DEBUG_CONSOLE), *(f"--debugcon={word}" for word in words))
    assert (done.stdout, done.stderr, done.returncode) == (*streams, 33)


def test_the_debug_console_into_a_file(tmp_path: Path) -> None:
    done = trapgate("run", boot_sector(tmp_path, DEBUG_CONSOLE), "--debugcon", f"file:{tmp_path / 'out'}")
    assert (done.stdout, done.stderr, (tmp_path / "out").read_text()) == ("", "", "X\n")


def test_a_triple_fault(tmp_path: Path) -> None:
    done = trapgate("run", boot_sector(tmp_path, TRIPLE_FAULT))
    assert done.returncode == STATUS[ExitKind.SHUTDOWN]
    assert "triple fault" in done.stderr.lower()
    assert "Traceback" not in done.stderr


def test_a_guest_that_nothing_can_wake(tmp_path: Path) -> None:
    done = trapgate("run", boot_sector(tmp_path, DEAD))
    assert done.returncode == STATUS[ExitKind.DEAD]
    assert done.stderr == "trapgate: the guest halted with interrupts disabled: nothing can wake it\n"


@pytest.mark.parametrize(
    ("image", "words"),
    [("/nonexistent", "does not exist"), ("/etc", "is not a file"), (sys.executable, "neither a PVH note nor a multiboot header")],
)
def test_images_that_cannot_be_run(image: str, words: str) -> None:
    done = trapgate("run", image)
    assert done.returncode == 2
    assert done.stderr.startswith("trapgate: error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


def test_an_unknown_cpu_is_told_with_the_known_ones() -> None:
    done = trapgate("run", str(guests.DEMO), "--cpu", "Turin")
    assert done.returncode == 2
    assert "EPYC-Turin" in done.stderr


def test_without_the_feature_the_cases_are_skipped() -> None:
    done = trapgate("run", str(guests.DEMO), "--cpu", "EPYC-Turin,-bus-lock-detect")
    assert "0 wrong, 13 skipped" in done.stdout


def test_bus_locks_are_reported_with_their_sites() -> None:
    done = trapgate("run", str(guests.DEMO), "--bus-locks", "report")
    assert done.returncode == 1
    assert "crosses a 64-byte line, CPL 3" in done.stderr
    assert "crosses a 64-byte line, CPL 0" in done.stderr
    assert "memory is not write-back" in done.stderr


def test_bus_locks_of_one_privilege_level_with_their_symbols() -> None:
    for who, own, other in (("user", "CPL 3", "CPL 0"), ("kernel", "CPL 0", "CPL 3")):
        said = trapgate("run", str(guests.DEMO), "--bus-locks", f"report:{who}").stderr
        assert own in said
        assert other not in said
        lines = [line for line in said.splitlines() if "bus lock at 0x" in line]
        assert lines
        place = re.compile(r"bus lock at 0x[0-9a-f]+ \([A-Za-z_]\w*\+0x[0-9a-f]+, cases\.S:\d+\): \d+ bytes at 0x")
        assert all(place.search(line) for line in lines), said


@pytest.mark.skipif(bool(kit.LACKING), reason=kit.LACKING)
def test_bus_locks_with_their_lines_of_source(tmp_path: Path) -> None:
    """And who called: by the call frame information of the image's DWARF, which is the only one that it has."""
    said = trapgate("run", kit.program("bus_locks", tmp_path), "--bus-locks", "report").stderr
    source = (kit.HERE / "bus_locks.c").read_text().splitlines()
    numbers = {mark: next(at for at, line in enumerate(source, 1) if mark in line) for mark in ("FIRST", "CALL", "SECOND")}
    for mark, function, callers in (("FIRST", "bump", ("CALL",)), ("SECOND", "kmain", ())):
        number = numbers[mark]
        assert re.search(rf"bus lock at 0x[0-9a-f]+ \({function}\+0x[0-9a-f]+, bus_locks\.c:{number}\): 4 bytes at 0x", said), said
        stack = said[said.index(f"bus_locks.c:{number})") :].splitlines()[1:]
        told = [f"bump at {kit.HERE}/bus_locks.c:{number}"] * bool(callers)
        told += [f"kmain at {kit.HERE}/bus_locks.c:{numbers[one]}" for one in callers or (mark,)]
        assert [line.partition("  ")[2][5:] for line in stack[: len(told)]] == told, said
        assert "rt_main at " in stack[len(told)]


@pytest.mark.skipif(bool(kit.LACKING), reason=kit.LACKING)
def test_bus_locks_of_an_image_without_symbols_have_those_of_another_file(tmp_path: Path) -> None:
    """A stripped image, and two files: one that is not in the guest, and the image's own symbols."""
    image = kit.program("bus_locks", tmp_path)
    other = kit.program("flushes", tmp_path)
    subprocess.run(["strip", "-o", str(tmp_path / "bare.elf"), image], check=True)
    run = ("run", str(tmp_path / "bare.elf"), "--bus-locks", "report")
    assert "bump" not in trapgate(*run).stderr
    said = trapgate(*run, "--symbols", other, "--symbols", image).stderr
    assert re.search(r"\(bump\+0x0, bus_locks\.c:\d+\): .*\ntrapgate:   #0  bump at .*\ntrapgate:   #1  kmain at ", said), said


def test_bus_locks_are_held_to_a_limit(tmp_path: Path) -> None:
    """25 locks across a line, 20 a second: the last five wait for the second one."""
    code = bytes.fromhex("bb3e80 b91900 f066ff07 e2fa b000 e6f4 f4")  # mov bx, 803Eh; mov cx, 25; lock inc dword [bx]; loop
    before = time.monotonic()
    done = trapgate("run", boot_sector(tmp_path, code), "--bus-locks", "limit:20")
    assert done.returncode == 1
    assert time.monotonic() - before >= 1
    assert "crosses a 64-byte line, CPL 0" in done.stderr
    assert "25 bus locks at 1 place" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_guest_that_never_ends(tmp_path: Path, number: signal.Signals) -> None:
    command = [TRAPGATE, "run", boot_sector(tmp_path, HELLO)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert wait_for(process.stdout.fileno(), b"!") == b"!"
        process.send_signal(number)
        assert process.wait(20) == 128 + number
        assert process.stderr.read() == b""


def test_a_signal_is_not_lost_beside_another_one(tmp_path: Path) -> None:
    """`timeout` sends SIGCONT right behind: the kernel may then hand SIGTERM to the thread that runs the guest."""
    spin = b"!"  # printed when the guest runs
    code = b"\xb0" + spin + b"\xba\xf8\x03\xee\xeb\xfe"  # mov al, '!'; mov dx, 3F8h; out dx, al; jmp $
    for _ in range(5):
        with subprocess.Popen(
            [TRAPGATE, "run", boot_sector(tmp_path, code)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert wait_for(process.stdout.fileno(), spin) == spin
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)
            assert process.wait(20) == 128 + signal.SIGTERM


def test_piped_input_reaches_the_guest(tmp_path: Path) -> None:
    command = [TRAPGATE, "run", boot_sector(tmp_path, ECHO)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"to the guest\x01x\x03 and back.")
        process.stdin.flush()
        assert wait_for(process.stdout.fileno(), b".") == b"to the guest\x01x\x03 and back."
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def test_a_terminal_is_raw_and_comes_back(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    command = [TRAPGATE, "run", boot_sector(tmp_path, ECHO)]
    become = f"import os, fcntl, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv({command[0]!r}, {command!r})"
    with subprocess.Popen([sys.executable, "-c", become], stdin=slave, stdout=slave, stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 60
        while termios.tcgetattr(slave) == before:
            assert time.monotonic() < end
            time.sleep(0.01)
        os.write(master, b"a\x03.")
        assert wait_for(master, b".") == b"a\x03."
        os.write(master, b"\x01x")
        assert process.wait(20) == 0
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def test_a_profile_names_the_functions_of_the_image(tmp_path: Path) -> None:
    done = trapgate("run", str(guests.DEMO), "--memory", "16M", "--profile")
    said = done.stderr.splitlines()
    assert done.returncode == 1
    assert said[0].startswith("trapgate: profile of ")
    assert any(line.startswith("trapgate:   OUT to port 3F8h ") for line in said)
    counted = next(line.split() for line in said if "OUT to port 3F8h" in line)
    assert int(counted[5].replace(",", "")) == len(done.stdout)  # the UART got each byte with an OUT of its own


def test_a_profile_when_the_user_quits(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [TRAPGATE, "run", boot_sector(tmp_path, HELLO), "--profile"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    wait_for(process.stdout.fileno(), b"!")
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    lines = said.decode().splitlines()
    assert next(line for line in lines if "hottest" in line)
    assert any(line.split()[2:] == ["0x7c06", "(CPL", "0)"] for line in lines)  # jmp .


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--profile", "--engine", "kvm"], "--profile looks into our own CPU"),
        (["--symbols", "vmlinux"], "--symbols gives names to --profile"),
        (["--profile", "--symbols", "/nonexistent"], "cannot read symbols from /nonexistent"),
    ],
)
def test_profiles_that_cannot_be(tmp_path: Path, options: list[str], words: str) -> None:
    done = trapgate("run", boot_sector(tmp_path, DEAD), *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
