"""Kernels and modules out of packages, files and the cache; and what is said where there are none."""

import lzma
from pathlib import Path

import pytest

from trapgate.exec import deb, fetching, kernel, source
from trapgate.exec.errors import ExecError
from trapgate.exec.initramfs import packed, places
from trapgate.exec.kernel import Kernel
from trapgate.guests import INIT
from trapgate.stencil.cache import Cache
from unit.exec.archives import RELEASE, bzimage, module, package

MODULES = f"lib/modules/{RELEASE}/kernel"
FILES = {
    f"boot/vmlinuz-{RELEASE}": bzimage(),
    f"{MODULES}/fs/overlayfs/overlay.ko.xz": lzma.compress(module("exportfs", "crc")),
    f"{MODULES}/fs/exportfs/exportfs.ko": module("crc"),
    f"{MODULES}/lib/crc.ko.xz": lzma.compress(module()),
    f"{MODULES}/drivers/virtio/virtio_mmio.ko.xz": lzma.compress(module()),
    f"{MODULES}/drivers/net/other.ko.xz": lzma.compress(module()),
}


def quiet(what: str, done: int, whole: int) -> None:
    pass


def nothing(*anything: object) -> Kernel:
    raise ExecError("nobody is to be asked")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "linux.deb").write_bytes(package(FILES))
    return tmp_path / "linux.deb"


def test_a_package_has_kernel_and_modules_in_order(file: Path) -> None:
    found = kernel.of_package(file)
    assert (found.image, found.release) == (bzimage(), RELEASE)
    assert [name for name, _ in found.modules] == ["virtio_mmio", "crc", "exportfs", "overlay"]
    assert dict(found.modules)["overlay"] == module("exportfs", "crc")


def test_the_archive_holds_what_is_loaded(file: Path) -> None:
    found = kernel.of_package(file)
    archive = packed(found)
    assert places(found) == ["/m/virtio_mmio.ko", "/m/crc.ko", "/m/exportfs.ko", "/m/overlay.ko"]
    assert all(place[1:].encode() + b"\0" in archive for place in places(found))
    assert INIT.read_bytes() in archive
    assert archive == packed(found)


@pytest.mark.parametrize(
    ("content", "story"),
    [
        (b"", "no ar archive"),
        (b"!<arch>\n", "it has no data"),
        (package(FILES)[:500], "no sound Debian package"),
        (package(FILES, "zst"), "data.tar.zst is compressed in a way"),
        (package({"usr/bin/true": b"x"}), "holds no kernel"),
        (package({f"boot/vmlinuz-{RELEASE}": b"x" * 1000}), "is no Linux kernel"),
    ],
)
def test_packages_that_are_none(tmp_path: Path, content: bytes, story: str) -> None:
    (tmp_path / "one").write_bytes(content)
    with pytest.raises(ExecError, match=story) as caught:
        kernel.of_package(tmp_path / "one")
    assert "\n" not in str(caught.value)


def test_a_package_that_is_not_compressed(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(package({"a": b"1", "b": b"2"}, ""))
    assert dict(deb.files(tmp_path / "one", lambda name: name == "b")) == {"b": b"2"}


def test_a_kernel_with_its_modules_beside_it(tmp_path: Path, private_caches: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    image = tmp_path / f"boot/vmlinuz-{RELEASE}"
    found = source.find(str(image), Cache(), quiet)
    assert [name for name, _ in found.get().modules] == ["virtio_mmio", "crc", "exportfs", "overlay"]
    image.write_bytes(bzimage("9.9"))
    assert source.find(str(image), Cache(), quiet).identity != found.identity
    assert source.find(str(image), Cache(), quiet).get() == Kernel(bzimage("9.9"), "9.9", ())


def test_files_that_are_no_kernel(tmp_path: Path, private_caches: Path) -> None:
    with pytest.raises(ExecError, match="there is no such file"):
        source.find(str(tmp_path), Cache(), quiet)
    (tmp_path / "text").write_text("no kernel")
    with pytest.raises(ExecError, match="text is no Linux kernel"):
        source.find(str(tmp_path / "text"), Cache(), quiet).get()


def test_it_is_fetched_once(file: Path, private_caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "fetched", lambda progress: kernel.of_package(file))
    first = source.find(None, Cache(), quiet)
    monkeypatch.setattr(fetching, "fetched", nothing)
    again = source.find(None, Cache(), quiet)
    assert again.identity == first.identity
    assert again.get() == kernel.of_package(file)
    kept = private_caches / source.KEY
    kept.write_bytes(kept.read_bytes()[:-1])
    with pytest.raises(ExecError, match="is damaged: run the command again"):
        source.find(None, Cache(), quiet).get()
    with pytest.raises(ExecError, match="nobody is to be asked"):
        source.find(None, Cache(), quiet)


def test_every_place_is_tried_and_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*words: object) -> str:
        raise ExecError("apt-cache: No such file or directory")

    monkeypatch.setattr(fetching, "ARCHIVES", Path("/nowhere"))
    monkeypatch.setattr(fetching, "_said", fails)
    monkeypatch.setattr(fetching, "ADDRESSES", ("http://127.0.0.1:9/kernel.deb",))
    with pytest.raises(ExecError) as caught:
        fetching.fetched(quiet)
    text = str(caught.value)
    assert "none among the packages" in text
    assert "apt-cache: No such file" in text
    assert "127.0.0.1:9: Connection refused" in text
    assert "--kernel FILE" in text
    assert "\n" not in text


def test_what_apt_has_already_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("6.12.9+deb12-cloud", "6.12.38+deb12-cloud", "6.12.4-cloud", "6.1.0-9-cloud", "6.12.99+deb12-rt"):
        (tmp_path / f"linux-image-{name}-amd64_1_amd64.deb").write_bytes(package(FILES if ".38+" in name else {}))
    monkeypatch.setattr(fetching, "ARCHIVES", tmp_path)
    assert fetching.fetched(quiet).release == RELEASE


def test_another_package_than_the_pinned_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "served.deb").write_bytes(package(FILES))
    address = (tmp_path / "served.deb").as_uri()
    monkeypatch.setattr(fetching, "ADDRESSES", (address,))
    with pytest.raises(ExecError, match="not the one that was asked for"):
        fetching._by_http(tmp_path, quiet)
