"""The section of a directory of the host in a guest: names, attributes and files, beside QEMU and its virtiofsd."""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.build import BenchError
from bench.engines import Engine, filled, used
from bench.measuring import Bench
from bench.report import Sample, Table
from tools import linux_guest

SERIES = "6.12"
MODULES = ("virtio_ring", "virtio", "virtio_mmio", "fuse", "virtiofs")
DIRECTORIES, FILES, SIZE = 200, 40, 3000  # of the tree; bytes of each file
ROUNDS = 4  # with the share mounted anew each time
LIMIT = 1.5  # of the other engine's time
VIRTIOFSD = Path("/usr/lib/qemu/virtiofsd")
QEMU_SHARE = (
    "-object memory-backend-memfd,id=mem,size=512M,share=on -numa node,memdev=mem -chardev socket,id=fs,path={socket} "
    "-device vhost-user-fs-pci,chardev=fs,tag=share"
)
WORKS = {
    "names": ("find", "find /mnt > /dev/null"),
    "attributes": ("ls -lR", "ls -lR /mnt > /dev/null"),
    "files": ("every tenth file read", "find /mnt -name '*7' -type f -exec cat {} + > /dev/null"),
}
NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Way:
    """An engine with a share: what its command has besides."""

    name: str
    engine: Engine
    more: str
    daemon: bool = False


def shares(bench: Bench) -> Table:
    """CPU seconds of all processes that take part; the first mount's blocks are translated, so one round is run before."""
    ways = [way for engine in bench.engines for way in _ways(engine)]
    task = bench.progress.add_task("shares", total=len(ways) * (1 + bench.runs * (1 + len(WORKS))))
    times: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        _plant(tree)
        images = {name: _image(Path(scratch), name, command) for name, (_, command) in WORKS.items()}
        images[NOTHING] = _image(Path(scratch), NOTHING, "true")
        for way in ways:
            boot(way, images["files"], tree, bench.timeout)
            bench.progress.advance(task)
        for _ in range(bench.runs):
            for name, image in images.items():
                for way in ways:
                    bench.progress.update(task, description=f"shares: {name} on {way.name}", advance=1)
                    times.setdefault((name, way.name), []).append(boot(way, image, tree, bench.timeout))
    rows = []
    for name, (what, _) in WORKS.items():
        samples = [Sample(tuple(times[name, way.name]), Sample(tuple(times[NOTHING, way.name])).median) for way in ways]
        cells = [cell for one in samples for cell in (f"{one.median / ROUNDS:.2f}", f"±{one.spread:.0%}")]
        ratios = [f"{one.median / samples[0].median:.2f}" for one in samples[1:]]
        rows.append((what, f"{DIRECTORIES} directories, {DIRECTORIES * FILES:,} files", *cells, *ratios, f"{LIMIT}"))
    heads = ["work", "in"]
    for way in ways:
        heads += [f"{way.name}, s", "spread"]
    heads += [f"{way.name} / {ways[0].name}" for way in ways[1:]]
    note = "CPU time of a round, the share mounted anew before each, virtiofsd's and that of compiling hot loops included."
    title = f"A directory of the host in Debian {SERIES}, median of {bench.runs} less start-up"
    return Table(title, [*heads, "limit"], rows, note=note)


def _ways(engine: Engine) -> list[Way]:
    if engine.name == "qemu":
        return [Way("qemu", engine, QEMU_SHARE, daemon=True)] if VIRTIOFSD.is_file() else []
    return [Way(engine.name, engine, "--share {tree}"), Way(f"{engine.name}, lasting", engine, "--share {tree},lasting")]


def _plant(tree: Path) -> None:
    for one in range(DIRECTORIES):
        (tree / f"directory {one}").mkdir(parents=True)
        for two in range(FILES):
            (tree / f"directory {one}" / f"file {two}").write_bytes(bytes(range(250)) * (SIZE // 250))


def _image(scratch: Path, name: str, command: str) -> Path:
    script = (
        f"mkdir /mnt\nfor n in {' '.join(map(str, range(ROUNDS)))}; do mount -t virtiofs share /mnt; {command}; umount /mnt; done\n"
    )
    path = scratch / name
    path.write_bytes(linux_guest.with_drivers(SERIES, script.encode(), MODULES))
    return path


@contextmanager
def _daemon(way: Way, tree: Path) -> Iterator[str]:
    """QEMU's server, if the way needs one; its socket."""
    with tempfile.TemporaryDirectory() as scratch:
        socket = Path(scratch) / "socket"
        if not way.daemon:
            yield str(socket)
            return
        options = [f"--socket-path={socket}", "-o", f"source={tree}", "-o", "cache=always", "-o", "sandbox=chroot"]
        with subprocess.Popen([str(VIRTIOFSD), *options], stderr=subprocess.DEVNULL) as process:
            try:
                deadline = time.monotonic() + 10
                while not socket.exists():
                    if time.monotonic() > deadline or process.poll() is not None:
                        raise BenchError("virtiofsd does not listen; it has to be root")
                    time.sleep(0.01)
                yield str(socket)
            finally:
                process.terminate()


def boot(way: Way, image: Path, tree: Path, timeout: float, **more: str) -> float:
    """One boot with its work; CPU seconds. `more` is what the way's words name besides. BenchError."""
    begin = used()
    append = f"{linux_guest.CONSOLE} quiet trapgate.run=sh,/m/test.sh"
    with _daemon(way, tree) as socket:
        line = f"{way.engine.linux} {way.more}"
        guest = {"kernel": str(linux_guest.kernel(SERIES)), "initrd": str(image), "append": append}
        command = filled(line, **guest, socket=socket, tree=str(tree), **more)
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{way.name}: no end within {timeout:g} s") from None
    if b"trapgate: exit status 0" not in done.stdout:
        said = (done.stdout + done.stderr).decode(errors="replace").strip().splitlines() or ["nothing"]
        raise BenchError(f"{way.name}: the guest failed: {said[-1]}")
    return used() - begin
