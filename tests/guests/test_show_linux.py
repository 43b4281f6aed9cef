"""`make linux` looks for the programs that it needs before it begins, and goes on without the guests that cannot be had."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from tools import linux_guest, show_linux
from tools.guests import needs, rootfs
from tools.guests.console import ConsoleError
from tools.guests.others import OTHER_GUESTS
from tools.guests.recipes import KERNELS
from tools.guests.scenarios import Check
from tools.guests.sources import GuestError

TOOLS = (*needs.APT, *needs.COMPILER, *needs.ROOT_FILE_SYSTEM)
Having = Callable[..., None]


@pytest.fixture
def having(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Having:
    """A host with these programs alone, on which nothing or everything was made before."""

    def have(*programs: str, made: bool = False) -> None:
        for name in programs:
            (tmp_path / name).write_text("#!/bin/false\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(linux_guest, "made", lambda name: made)

    return have


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The guests that were run; none is in truth."""
    names: list[str] = []

    def pretend(name: str) -> list[tuple[str, str, Callable[[], list[Check]]]]:
        if name == "xen":
            raise GuestError("its package is gone")

        def run() -> list[Check]:
            names.append(name)
            if name == "grub":
                raise ConsoleError("the guest printed nothing more")
            return [Check(f"{name} answers", name != "memtest86+", "as seen")]

        return [(f"about {name}", "EPYC-Turin", run)]

    monkeypatch.setattr(show_linux, "scenarios_of", pretend)
    return names


def _main(*names: str) -> tuple[int, list[str]]:
    done = CliRunner().invoke(show_linux.main, [word for name in names for word in ("--only", name)])
    return done.exit_code, done.output.splitlines()


def test_without_mmdebstrap_one_guest_is_left_out_and_said_so_first(having: Having, ran: list[str]) -> None:
    having(*set(TOOLS) - {"mmdebstrap"})
    status, lines = _main("systemd", "6.1", "memtest86+ia32")
    assert lines[0] == "linux: left out: systemd: mmdebstrap is not installed; on Debian or Ubuntu: sudo apt-get install mmdebstrap"
    assert ran == ["6.1", "memtest86+ia32"]
    assert lines[-1] == "2 claims hold, 0 fail; left out: systemd"
    assert status == 0


def test_with_no_program_at_all_nothing_is_tried(having: Having, ran: list[str]) -> None:
    having()
    status, lines = _main()
    told = "\n".join(lines)
    assert ran == []
    assert all(name in told for name in (*KERNELS, *OTHER_GUESTS))
    assert all(tool in told for tool in TOOLS)
    assert lines[-1].startswith("0 claims hold, 0 fail; left out: ")
    assert status == 1


def test_guests_that_were_made_before_need_a_compiler_at_most(having: Having, ran: list[str]) -> None:
    having(made=True)
    status, lines = _main("6.1", "686-pae", "memtest86+ia32", "systemd")
    assert lines[0] == "linux: left out: 6.1, 686-pae: gcc is not installed; on Debian or Ubuntu: sudo apt-get install gcc"
    assert ran == ["memtest86+ia32", "systemd"]
    assert status == 0


def test_a_guest_that_cannot_be_had_does_not_end_the_others(having: Having, ran: list[str]) -> None:
    having(*TOOLS)
    status, lines = _main("xen", "6.12")
    assert "linux: xen: its package is gone" in lines
    assert ran == ["6.12"]
    assert lines[-1] == "1 claims hold, 0 fail; could not be had or run: xen"
    assert status == 1


def test_a_guest_that_falls_silent_does_not_end_the_others(having: Having, ran: list[str]) -> None:
    having(*TOOLS)
    status, lines = _main("grub", "6.12")
    assert "linux: grub: the guest printed nothing more" in lines
    assert set(ran) == {"grub", "6.12"}
    assert lines[-1] == "1 claims hold, 0 fail; could not be had or run: grub"
    assert status == 1


def test_a_claim_that_fails_is_the_status(having: Having, ran: list[str]) -> None:
    having(*TOOLS)
    status, lines = _main("memtest86+", "6.12")
    assert lines[-1] == "1 claims hold, 1 fail"
    assert status == 1


@pytest.mark.parametrize("name", [*KERNELS, *OTHER_GUESTS])
def test_every_file_of_a_guest_has_a_maker(name: str) -> None:
    assert set(show_linux.files_of(name)) <= set(linux_guest.makers())


@pytest.mark.parametrize(
    ("make", "tool"),
    [
        (linux_guest.initramfs, "gcc"),
        (lambda folder: linux_guest.kernel("6.1", folder), "apt-get, apt-cache, dpkg-deb"),
        (lambda folder: linux_guest.image("xen", folder), "apt-get, apt-cache, dpkg-deb"),
        (rootfs.make, "apt-get, mmdebstrap"),
        (lambda folder: linux_guest.files(["initramfs"])["initramfs"], "gcc"),
    ],
    ids=["initramfs", "kernel", "image", "root", "files"],
)
def test_what_is_missing_is_one_clear_line(make: Callable[[Path], Path], tool: str, having: Having, tmp_path: Path) -> None:
    having()
    with pytest.raises(GuestError, match=f"^{tool} (is|are) not installed; on Debian or Ubuntu: sudo apt-get install "):
        make(tmp_path / "guests")
