"""The archive writer against the cpio that the distribution ships, and against the recipe of the initramfs."""

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tools import linux_guest
from tools.guests.sources import GuestError
from trapgate.boot import cpio


def test_a_member_is_header_name_and_data_padded_to_four_bytes() -> None:
    made = cpio.archive([cpio.program("abc", b"12345")])
    assert made.startswith(b"070701" + b"00000001" + b"000081ED")
    assert made[54:62] == b"00000005"  # c_filesize
    assert made[110:114] == b"abc\0"
    assert made[116:124] == b"12345\0\0\0"
    assert len(made) % 4 == 0
    assert made[124:130] == b"070701"
    assert b"TRAILER!!!\0" in made[124:]


def test_a_device_node_carries_its_numbers() -> None:
    made = cpio.archive([cpio.character_device("dev/console", 5, 1)])
    assert made[78:86] == b"00000005"
    assert made[86:94] == b"00000001"


@pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox is not installed")
def test_another_cpio_unpacks_it(tmp_path: Path) -> None:
    nodes = [cpio.directory("bin"), cpio.program("bin/tool", b"\x7fELF" + bytes(1001)), cpio.link("bin/alias", "tool")]
    subprocess.run(["busybox", "cpio", "-i", "-d"], input=cpio.archive(nodes), cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "bin/tool").read_bytes() == b"\x7fELF" + bytes(1001)
    assert stat.S_IMODE((tmp_path / "bin/tool").stat().st_mode) & 0o700 == 0o700
    assert (tmp_path / "bin/alias").is_symlink()
    assert (tmp_path / "bin/alias").resolve().name == "tool"


def test_an_unknown_series_is_refused_before_any_download(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="no kernel series"):
        linux_guest.kernel("2.2", tmp_path)
    assert linux_guest.cached_kernel("6.1", tmp_path) is None


def test_missing_apt_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GuestError, match="apt-get, apt-cache, dpkg-deb are not installed"):
        linux_guest.kernel("6.1", tmp_path)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_splitlock_runs_on_this_host_and_checks_its_counter(tmp_path: Path) -> None:
    linux_guest.compiled("splitlock", tmp_path)
    done = subprocess.run([str(tmp_path / "splitlock"), "7"], capture_output=True, text=True, check=False)
    assert "splitlock: 7 split locks done, counter 7" in done.stdout or "SIGBUS after 0" in done.stdout
    wrong = subprocess.run([str(tmp_path / "splitlock"), "x"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "usage: splitlock [N]\n")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_reads_reads_whole_pages_of_what_is_there(tmp_path: Path) -> None:
    linux_guest.compiled("reads", tmp_path)
    (tmp_path / "file").write_bytes(bytes(3 * 4096 + 1))
    (tmp_path / "less").write_bytes(bytes(4095))
    for words, status in ((["file", "50"], 0), (["less", "1"], 1), (["none", "1"], 1), (["file"], 1)):
        assert subprocess.run([tmp_path / "reads", *words], cwd=tmp_path, check=False).returncode == status
