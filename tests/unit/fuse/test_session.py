"""A session from INIT to DESTROY: versions, features, who may ask what and when."""

import os

import pytest

from trapgate.fuse import protocol
from trapgate.fuse.protocol import Feature, Operation
from trapgate.fuse.session import offered
from unit.fuse.guest import Guest


def test_init_takes_what_both_sides_know(either: Guest) -> None:
    major, minor, readahead, features, _, _, longest, step, pages, *_ = protocol.INIT_ANSWER.unpack(either.mount())
    assert (major, minor, readahead, longest, step, pages) == (7, 38, 1 << 17, 1 << 20, 1, 256)
    assert features == offered(either.share)
    assert features & Feature.NO_OPENDIR_SUPPORT
    assert bool(features & Feature.NO_OPEN_SUPPORT) == either.share.lasting
    either.features = Feature.MAX_PAGES | 1 << 16
    assert protocol.INIT_ANSWER.unpack(either.mount())[3] == Feature.MAX_PAGES


@pytest.mark.parametrize(("major", "minor"), [(6, 41), (7, 30), (0, 0)])
def test_older_guests_are_refused(guest: Guest, major: int, minor: int) -> None:
    assert guest.error(Operation.INIT, protocol.INIT.pack(major, minor, 0, 0)) == "EPROTO"


def test_a_newer_guest_is_told_our_version_and_asks_again(guest: Guest) -> None:
    guest.ask(Operation.DESTROY)
    assert protocol.INIT_ANSWER.unpack(guest.ask(Operation.INIT, protocol.INIT.pack(8, 0, 0, 0xFFFF_FFFF)))[:4] == (7, 38, 0, 0)
    assert not guest.session.started
    guest.mount()
    assert guest.session.started


def test_nothing_is_answered_before_init_and_after_destroy(guest: Guest) -> None:
    node = guest.look_up("file")
    guest.ask(Operation.DESTROY)
    assert guest.error(Operation.GETATTR, protocol.GETATTR.pack(0, 0, 0)) == "EIO"
    guest.mount()
    assert guest.error(Operation.GETATTR, protocol.GETATTR.pack(0, 0, 0), node) == "ESTALE"


def test_what_a_share_that_is_read_refuses(either: Guest) -> None:
    for operation in (Operation.MKDIR, Operation.UNLINK, Operation.SETATTR, Operation.WRITE, Operation.RENAME2, Operation.SETXATTR):
        assert either.error(operation, bytes(200)) == "EROFS"
    for flags in (os.O_WRONLY, os.O_RDWR):
        assert either.error(Operation.OPEN, protocol.OPEN.pack(flags, 0), either.look_up("file")) == "EROFS"


@pytest.mark.parametrize("operation", [0, 22, 23, 25, 31, 39, 40, 48, 4096, 0xFFFF_FFFF])
def test_what_there_is_not(guest: Guest, operation: int) -> None:
    assert guest.error(operation, bytes(100)) == "ENOSYS"


@pytest.mark.parametrize("operation", [one for one in Operation if one not in (Operation.DESTROY, Operation.STATFS)])
def test_requests_that_are_cut_short(guest: Guest, operation: Operation) -> None:
    error, data = guest.send(operation, b"\1")
    silent = operation in (Operation.FORGET, Operation.BATCH_FORGET, Operation.INTERRUPT)
    assert (error == 0) == silent
    assert not data


def test_nodes_are_forgotten_as_often_as_they_were_looked_up(guest: Guest) -> None:
    node = guest.look_up("file")
    assert guest.look_up("file") == guest.look_up("directory/again") == node
    count = len(guest.session.nodes)
    guest.send(Operation.FORGET, protocol.FORGET.pack(2), node)
    guest.status(node)
    one = protocol.FORGET_ONE.pack(node, 1)
    guest.send(Operation.BATCH_FORGET, protocol.BATCH_FORGET.pack(1 << 31, 0) + one)
    assert guest.error(Operation.GETATTR, protocol.GETATTR.pack(0, 0, 0), node) == "ESTALE"
    assert len(guest.session.nodes) == count - 1
    guest.send(Operation.FORGET, protocol.FORGET.pack(1 << 63), 1)
    guest.status(1)
    assert guest.look_up("file") != node
