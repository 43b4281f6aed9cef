"""Random rings and random FUSE messages in them: the device answers or needs a reset, and the host has no error."""

import os
import random
import resource
from pathlib import Path

import pytest

from trapgate.devices.virtio.fs import Fs
from trapgate.devices.virtio.queue import INDIRECT, INDIRECT_DESC, NEXT, WRITE
from trapgate.devices.virtio.transport import Register
from trapgate.fuse import protocol
from trapgate.fuse.protocol import HEADER, Operation
from trapgate.fuse.share import Share
from trapgate.memory import Ram
from unit.devices.virtio.driver import NEEDS_RESET, Driver

NAMES = (b"file", b"directory", b"link", b"a", b"b", b"..", b".", b"", b"../secret", b"/etc/passwd", b"x" * 300)
LARGEST = 1 << 20  # bytes of a file


class Storm:
    """A driver that keeps to no rule. `made` are the messages that it has sent."""

    def __init__(self, share: Share, seed: int) -> None:
        self.random, self.made = random.Random(seed), 0
        self.function = Fs(share)
        self.driver = Driver(self.function, INDIRECT_DESC, queue=1, ram=Ram(1 << 19))

    def mount(self) -> None:
        """Begin again, in order."""
        self.driver.start()
        self.driver.offer(
            [HEADER.pack(56, Operation.INIT, 2, 0, 0, 0, 0, 0, 0) + protocol.INIT.pack(7, 38, 0, 0xFFFF_FFFF)], [16, 64]
        )
        self.driver.notify()
        assert self.function._session.started
        self.driver.returned()

    def number(self) -> int:
        chosen = self.random.random()
        if chosen < 0.7:
            return self.random.randrange(12)
        return self.random.choice((1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, self.random.getrandbits(64)))

    def message(self) -> bytes:
        """A request with whatever behind its header."""
        choose = self.random
        body = b"".join(self.number().to_bytes(8, "little") for _ in range(choose.randrange(12)))
        body = body[: choose.choice((0, 4, 8, 16, 24, 32, 40, 88, len(body)))]
        body += b"".join(choose.choice(NAMES) + b"\0" for _ in range(choose.randrange(3)))
        operation = choose.choice(list(Operation)) if choose.random() < 0.97 else choose.getrandbits(32)
        if operation == Operation.INIT:
            body = protocol.INIT.pack(7, 38, 0, choose.getrandbits(32))
        length = HEADER.size + len(body) if choose.random() < 0.9 else choose.getrandbits(32)
        header = HEADER.pack(length, operation, self.made, self.number(), 0, 0, 1, 0, 0)
        return (header + body)[: None if choose.random() < 0.99 else choose.randrange(40)]

    def ring(self) -> None:
        """Descriptors, heads and indices of no sense."""
        choose, driver = self.random, self.driver
        for at in range(choose.randrange(1, 16)):
            address = driver.base + choose.randrange(1 << 17) if choose.random() < 0.9 else self.number()
            length = choose.randrange(200) if choose.random() < 0.9 else choose.getrandbits(32)
            flags = choose.choice((0, NEXT, WRITE, NEXT | WRITE, INDIRECT, choose.getrandbits(16)))
            driver.describe(at, address, length, flags, choose.randrange(20))
        for _ in range(choose.randrange(1, 4)):
            driver.available(choose.randrange(18))
        if choose.random() < 0.05:
            driver.put(Register.QUEUE_NOTIFY, choose.randrange(4))

    def step(self) -> None:
        """One message, or a ring."""
        choose, driver = self.random, self.driver
        if choose.random() < 0.02:
            self.ring()
        else:
            message = self.message()
            cut = choose.randrange(len(message) + 1)
            room = choose.choice(([16], [16, 64], [16, 104], [16, 128], [16, 4000], [8, 300], []))
            pieces = [piece for piece in (message[:cut], message[cut:]) if piece]
            driver.offer(pieces, room, indirect=choose.random() < 0.5)
            self.made += 1
        driver.notify()
        if driver.get(Register.STATUS) & NEEDS_RESET or choose.random() < 0.01:
            self.mount()
        driver.returned()
        driver.interrupted()


def storm(folder: Path, seed: int, messages: int, writable: bool) -> None:
    shared = folder / "shared"
    (shared / "directory").mkdir(parents=True)
    (shared / "file").write_text("content")
    (shared / "link").symlink_to("../secret")
    (folder / "secret").write_text("beside the share")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST, before[1]))
    try:
        share = Share(shared, writable=writable)
        one = Storm(share, seed)
        one.mount()
        while one.made < messages:
            one.step()
        one.function.close()
        share.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(os.listdir(folder)) == ["secret", "shared"]
    assert (folder / "secret").read_text() == "beside the share"
    if not writable:
        assert sorted(os.listdir(shared)) == ["directory", "file", "link"]
        assert (shared / "file").read_text() == "content"


@pytest.mark.parametrize("writable", [False, True])
def test_a_short_storm(tmp_path: Path, writable: bool) -> None:
    storm(tmp_path, 1, 3000, writable)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("writable", [False, True])
def test_a_million_messages(tmp_path: Path, writable: bool) -> None:
    storm(tmp_path, 2, 500_000, writable)
