"""Debian packages and kernels, as far as anybody looks into them."""

import io
import lzma
import tarfile

RELEASE = "6.12.9+deb12-cloud-amd64"


def package(files: dict[str, bytes], compression: str = "xz") -> bytes:
    """A package with these files: an ar archive of three members."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as made:
        for name, data in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
    data = lzma.compress(tar.getvalue()) if compression == "xz" else tar.getvalue()
    suffix = f".{compression}" if compression else ""
    members = (("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), (f"data.tar{suffix}", data))
    return b"!<arch>\n" + b"".join(_member(*one) for one in members)


def _member(name: str, data: bytes) -> bytes:
    head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
    assert len(head) == 60
    return head + data + b"\n" * (len(data) % 2)


def bzimage(release: str = RELEASE) -> bytes:
    """The head of a Linux kernel that says its release."""
    image = bytearray(0x1000)
    image[0x202:0x206] = b"HdrS"
    image[0x20E:0x210] = (0x800).to_bytes(2, "little")
    text = f"{release} (somebody@somewhere) #1".encode()
    image[0xA00 : 0xA00 + len(text)] = text
    return bytes(image)


def module(*needs: str) -> bytes:
    """A module that needs others, as far as its .modinfo says so."""
    return b"\x7fELF...license=GPL\0depends=" + ",".join(needs).encode() + b"\0name=x\0"
