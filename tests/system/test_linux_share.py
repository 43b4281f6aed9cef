"""Debian's virtiofs mounts our shares: a tree to the byte, no way out of it, and what a guest may write."""

import hashlib
import os
import random
import stat
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the tools are no part of the package

from tools import linux_guest
from tools.guests.sources import GuestError

TRAPGATE = str(Path(sys.executable).with_name("trapgate"))
MODULES = ("virtio_ring", "virtio", "virtio_mmio", "fuse", "virtiofs")
SECRET = "what is beside the share"
SCRIPT = b"""mkdir /read /write /lasting
mount -t virtiofs share /read
mount -t virtiofs mine /write
mount -t virtiofs share3 /lasting
for at in /read /lasting; do
    cd $at
    echo "tree $at"
    find . | while read -r one; do stat -c 'row %f %s %h %u %Y %N' "$one"; done
    find . -type f -exec md5sum {} +
    echo "end $at"
done
cat /read/out /read/up/secret /read/directory/../../secret /read/absolute
touch /read/new
echo x > /read/directory/small
rm /read/directory/small
cp -r /read /write/copied
cd /write
dd if=/dev/urandom of=large bs=1000000 count=3
md5sum large
dd if=/dev/zero of=large bs=4096 seek=100 count=1 conv=notrunc
md5sum large
mkdir -p one/two
echo first > one/file
echo second >> one/file
mv one/file one/two/moved
ln one/two/moved linked
ln -s ../../../../etc/passwd symlink
chmod 640 linked
chmod 4755 linked
mkfifo pipe
mknod device c 1 3
exec 3> gone 4< gone
rm gone
echo still here >&3
head -n 1 <&4
touch -t 200001010000.00 old
rm -r copied/directory
sync
echo all done
"""


def initrd(series: str, folder: Path) -> Path:
    """The initial RAM disk with the drivers in front of it; the test is skipped where they cannot be had."""
    try:
        (folder / "initrd").write_bytes(linux_guest.with_drivers(series, SCRIPT, MODULES))
    except (GuestError, OSError) as error:
        pytest.skip(f"no Linux guest: {error}")
    return folder / "initrd"


def tree(folder: Path) -> None:
    """Files of many sizes, kinds, modes and names."""
    made = random.Random(5)
    for number, size in enumerate((0, 1, 4095, 4096, 4097, 70_001, 1 << 20, (5 << 20) + 3)):
        place = folder / "directory" / ("inner " * (number % 3) + str(number))
        place.mkdir(parents=True)
        (place / f"file ä {number}").write_bytes(made.randbytes(size))
        (place / f"file ä {number}").chmod(0o400 + number)
        os.utime(place / f"file ä {number}", (number, 86400 * 365 * 40 + number))
    (folder / "directory" / "small").write_text("small")
    (folder / "many").mkdir(mode=0o711)
    for number in range(300):
        (folder / "many" / f"{number:0{number % 100 + 3}}").write_text(str(number))
    os.link(folder / "directory" / "small", folder / "again")
    os.mkfifo(folder / "pipe")
    (folder / "dangling").symlink_to("nowhere/at all")
    (folder / "up").symlink_to("..")
    (folder / "out").symlink_to("../secret")
    (folder / "absolute").symlink_to(folder.parent / "secret")


def expected(folder: Path) -> list[str]:
    """What the guest's script says of a tree, sorted."""
    rows = []
    for path in (folder, *folder.rglob("*")):
        found = path.lstat()
        name = "." if path == folder else f"./{path.relative_to(folder)}"
        if path.is_symlink():
            name = f"'{name}' -> '{os.readlink(path)}'"
        rows.append(f"row {found.st_mode:x} {found.st_size} {found.st_nlink} {found.st_uid} {int(found.st_mtime)} {name}")
        if stat.S_ISREG(found.st_mode):
            rows.append(f"{hashlib.md5(path.read_bytes()).hexdigest()}  ./{path.relative_to(folder)}")
    return sorted(rows)


@pytest.mark.linux
@pytest.mark.timeout(900)
@pytest.mark.parametrize("series", ["6.1", "6.12", "backports"])
def test_shares_of_a_debian_guest(series: str, tmp_path: Path) -> None:
    image = initrd(series, tmp_path)
    shared, mine = tmp_path / "share", tmp_path / "mine"
    for folder in (shared, mine):
        folder.mkdir()
    (tmp_path / "secret").write_text(SECRET)
    tree(shared)
    before = expected(shared)
    command = [
        *(TRAPGATE, "run", str(linux_guest.kernel(series)), "--initrd", str(image)),
        *("--append", "console=ttyS0 panic=-1 quiet trapgate.run=sh,/m/test.sh"),
        *("--share", str(shared), "--share", f"{mine},rw,tag=mine", "--share", f"{shared},lasting"),
    ]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=800, check=False)
    said = done.stdout.decode(errors="replace").replace("\r", "")
    assert "all done" in said, said
    for at in ("/read", "/lasting"):
        assert sorted(said.partition(f"tree {at}\n")[2].partition(f"end {at}\n")[0].splitlines()) == before
    assert SECRET not in said
    assert expected(shared) == before, "nothing was written"
    assert said.count("Read-only file system") >= 3
    assert expected(mine / "copied")
    assert not (mine / "copied" / "directory").exists()
    large = (mine / "large").read_bytes()
    assert len(large) == 3_000_000
    assert f"{hashlib.md5(large).hexdigest()}  large" in said
    assert large[409_600:413_696] == bytes(4096)
    assert (mine / "one" / "two" / "moved").read_text() == "first\nsecond\n"
    assert (mine / "linked").samefile(mine / "one" / "two" / "moved")
    assert oct((mine / "linked").stat().st_mode) == "0o100640", "and no more than that"
    assert os.readlink(mine / "symlink") == "../../../../etc/passwd"
    assert stat.S_ISFIFO((mine / "pipe").stat().st_mode)
    assert not (mine / "device").exists()
    assert not (mine / "gone").exists()
    assert "still here" in said
    assert int((mine / "old").stat().st_mtime) == 946_684_800
    assert (done.returncode, done.stderr) == (0, b"")
