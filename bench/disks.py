"""The section of disks and directories in a guest: in order, at random and by name, beside QEMU's virtio-blk and its virtiofsd."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.measuring import Bench
from bench.report import Sample, Table
from bench.shares import MODULES, QEMU_SHARE, SERIES, VIRTIOFSD, Way, boot
from tools import linux_guest
from trapgate.boot import cpio

SIZE = 64 << 20  # bytes of the disk, and of the file in the directory
READS = 5_000
QEMU_DISK = "-drive file={disk},format=raw,if=none,id=d -device virtio-blk-pci,drive=d"
MOUNT = "mkdir /mnt; mount -t virtiofs share /mnt"


@dataclass(frozen=True, slots=True)
class Work:
    """What a guest is to do, in words and as a script; `limit`: how much of the other engine's time it may take."""

    what: str
    script: str
    limit: float
    shares: bool = False


WORKS = (
    Work(f"disk, {SIZE >> 20} MiB read", "dd if=/dev/vda of=/dev/null bs=1M", 1.0),
    Work(f"disk, {SIZE >> 20} MiB written and flushed", f"dd if=/dev/zero of=/dev/vda bs=1M count={SIZE >> 20} conv=fsync", 1.0),
    Work(f"disk, {READS:,} reads of 4 KiB", f"/m/reads /dev/vda {READS}", 1.5),
    Work(f"directory, file of {SIZE >> 20} MiB read", f"{MOUNT}; cat /mnt/file > /dev/null", 1.0, shares=True),
    Work(f"directory, {READS:,} reads of 4 KiB", f"{MOUNT}; /m/reads /mnt/file {READS}", 1.5, shares=True),
    Work("directory, find of this host's /usr/include", f"{MOUNT}; find /mnt/include > /dev/null", 1.5, shares=True),
)
NOTHING = Work("nothing", "true", 0, shares=True)


def disks(bench: Bench) -> Table:
    """CPU seconds of all processes that take part, less those of a boot that does nothing."""
    ways = [way for engine in bench.engines for way in _ways(engine.name, bench)]
    task = bench.progress.add_task("disks", total=len(ways) * (1 + bench.runs) * (1 + len(WORKS)))
    times: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        disk, tree = Path(scratch) / "disk", Path(scratch) / "tree"
        tree.mkdir()
        for path in (disk, tree / "file"):
            path.write_bytes(bytes(range(256)) * (SIZE // 256))
        for number in range(1 + bench.runs):  # the first translates and fills the host's cache, and is not measured
            for work in (NOTHING, *WORKS):
                image = _image(Path(scratch), work)
                for way in ways:
                    bench.progress.update(task, description=f"disks: {work.what} on {way.name}", advance=1)
                    share = Path("/usr") if "find" in work.what else tree
                    taken = boot(way, image, share, bench.timeout, disk=str(disk))
                    if number:
                        times.setdefault((work.what, way.name), []).append(taken)
    rows = []
    for work in WORKS:
        samples = [Sample(tuple(times[work.what, way.name]), Sample(tuple(times[NOTHING.what, way.name])).median) for way in ways]
        cells = [cell for one in samples for cell in (f"{one.median:.2f}", f"±{one.spread:.0%}")]
        ratios = [f"{samples[-1].median / one.median:.2f}" for one in samples[:-1]]
        rows.append((work.what, *cells, *ratios, f"{work.limit}"))
    heads = ["work"]
    for way in ways:
        heads += [f"{way.name}, s", "spread"]
    heads += [f"{ways[-1].name} / {way.name}" for way in ways[:-1]]
    note = "CPU time, virtiofsd's included. Reads of 4 KiB are at random places, past the guest's cache."
    return Table(
        f"Disks and directories in Debian {SERIES}, median of {bench.runs} less start-up", [*heads, "limit"], rows, note=note
    )


def _ways(name: str, bench: Bench) -> list[Way]:
    """An engine's way, with a disk and a directory."""
    engine = next(one for one in bench.engines if one.name == name)
    if name != "qemu":
        return [Way(name, engine, "--disk {disk} --share {tree},lasting")]
    return [Way(name, engine, f"{QEMU_DISK} {QEMU_SHARE}", daemon=True)] if VIRTIOFSD.is_file() else []


def _image(scratch: Path, work: Work) -> Path:
    path = scratch / "initrd"
    drivers = linux_guest.with_drivers(SERIES, f"{work.script}\n".encode(), (*MODULES, "virtio_blk"))
    path.write_bytes(cpio.archive([cpio.directory("m"), cpio.program("m/reads", linux_guest.compiled("reads"))]) + drivers)
    return path
