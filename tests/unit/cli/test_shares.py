"""Shares of the command line: what they are called, and how many descriptors guests may have of them."""

import resource
from contextlib import ExitStack
from pathlib import Path

import pytest

from trapgate.cli import shares
from trapgate.cli.options import ShareChoice
from trapgate.fuse.share import ShareError


def test_each_has_a_tag_of_its_own(tmp_path: Path) -> None:
    choices = [ShareChoice(str(tmp_path)), ShareChoice(str(tmp_path), writable=True, tag="mine"), ShareChoice(str(tmp_path))]
    with ExitStack() as stack:
        found = shares.opened(choices, stack)
        assert [(share.tag, share.writable) for share in found] == [("share", False), ("mine", True), ("share3", False)]
        assert all(share.root >= 0 for share in found)
    assert all(share.root < 0 for share in found)
    with (
        ExitStack() as stack,
        pytest.raises(ShareError, match="another share has the tag 'share'; give it one of its own with ,tag=T"),
    ):
        shares.opened([*choices, ShareChoice(str(tmp_path), tag="share")], stack)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with ExitStack() as stack, pytest.raises(ShareError, match="nothing: No such file or directory"):
        shares.opened([ShareChoice(str(tmp_path)), ShareChoice(str(tmp_path / "nothing"))], stack)


def test_the_limit_of_descriptors_is_raised(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        with ExitStack() as stack:
            (share,) = shares.opened([ShareChoice(str(tmp_path))], stack)
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(shares.FILES, before[1])
            assert share.descriptors == min(shares.FILES, before[1]) // 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
