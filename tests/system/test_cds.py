"""A CD in its drive: SeaBIOS starts it by El Torito, Debian's kernels mount it."""

import hashlib
import random
import subprocess
from pathlib import Path

import pytest

from cases import iso, kit
from system.test_firmware import FIRMWARE, TOOLS, TRAPGATE, trapgate
from tools import linux_guest
from tools.guests.sources import GuestError

MODULES = ("virtio_ring", "virtio", "virtio_mmio", "scsi_common", "scsi_mod", "virtio_scsi", "cdrom", "sr_mod", "isofs")
BIG = random.Random(3).randbytes(3_000_000)
SCRIPT = b"""cat /proc/sys/dev/cdrom/info | grep -i dvd
mkdir /mnt
mount -t iso9660 -o ro /dev/sr0 /mnt
cat /mnt/hello.txt
md5sum /mnt/big
dd if=/dev/sr0 of=/dev/null bs=2048 skip=100000 2>&1
echo x > /dev/sr0
cat /sys/block/sr0/size
"""


@FIRMWARE
@TOOLS
@pytest.mark.parametrize("disk", [False, True], ids=["alone", "beside an empty disk"])
def test_a_disc_is_started_and_reads_on(disk: bool, tmp_path: Path) -> None:
    """By its boot image, which reads block 16 by INT 13h."""
    boot = Path(kit.sector("el_torito", tmp_path)).read_bytes()
    (tmp_path / "x.iso").write_bytes(iso.image(boot))
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    more = ("--disk", str(tmp_path / "disk")) if disk else ()
    done = trapgate("run", "--cdrom", str(tmp_path / "x.iso"), *more, "-m", "16M")
    assert done.returncode == 0x21, done
    assert "Booting from DVD/CD" in done.stdout
    assert done.stdout.endswith("CD001")
    assert not done.stderr


@FIRMWARE
@pytest.mark.long
def test_a_disc_that_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.iso").write_bytes(iso.image(None))
    command = [TRAPGATE, "run", "--cdrom", str(tmp_path / "x.iso"), "-m", "16M"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("Could not read from CDROM" in line or "not a bootable disk" in line for line in process.stdout)
        process.kill()


@pytest.mark.linux
@pytest.mark.timeout(900)
@pytest.mark.parametrize("series", ["6.1", "6.12", "backports"])
def test_debian_reads_a_disc(series: str, tmp_path: Path) -> None:
    (tmp_path / "x.iso").write_bytes(iso.image(None, {"hello.txt": b"from the disc\n", "big": BIG}))
    try:
        (tmp_path / "initrd").write_bytes(linux_guest.with_drivers(series, SCRIPT, MODULES))
        kernel = linux_guest.kernel(series)
    except (GuestError, OSError) as error:
        pytest.skip(f"no Linux guest: {error}")
    line = f"{linux_guest.CONSOLE} trapgate.run=sh,/m/test.sh"
    done = trapgate("run", str(kernel), "--initrd", str(tmp_path / "initrd"), "--append", line, "--cdrom", str(tmp_path / "x.iso"))
    assert done.returncode == 0, done
    told = ("Can read DVD:\t\t1", "from the disc", f"{hashlib.md5(BIG).hexdigest()}  /mnt/big", "Read-only file system")
    for one in told:
        assert one in done.stdout, done.stdout
    size = (tmp_path / "x.iso").stat().st_size
    assert f"\n{size // 512}\n" in done.stdout.replace("\r", "")
    assert "I/O error" not in done.stdout
