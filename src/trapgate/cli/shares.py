"""Opens the directories that a user shares with a guest."""

import resource
from collections.abc import Iterable
from contextlib import ExitStack, suppress

from trapgate.cli.options import ShareChoice
from trapgate.fuse.share import Share, ShareError

FILES = 1 << 16
"""Descriptors that this process may have where it may choose: what a guest has open is open here."""


def opened(choices: Iterable[ShareChoice], stack: ExitStack) -> list[Share]:
    """The shares, open until `stack` closes them. Those without a tag are called share, share2 and so on. ShareError."""
    _raise_limit()
    shares: list[Share] = []
    for number, choice in enumerate(choices, 1):
        tag = choice.tag or ("share" if number == 1 else f"share{number}")
        if tag in (share.tag for share in shares):
            raise ShareError(f"--share {choice.path}: another share has the tag {tag!r}; give it one of its own with ,tag=T")
        share = Share(choice.path, tag=tag, writable=choice.writable, lasting=choice.lasting)
        stack.callback(share.close)
        shares.append(share)
    return shares


def _raise_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
