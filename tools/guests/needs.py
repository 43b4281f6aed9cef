"""Which programs of the host the making of guests needs, looked for before anything is made."""

import shutil
from collections.abc import Iterable

from tools.guests.sources import GuestError

APT = ("apt-get", "apt-cache", "dpkg-deb")  # a file out of a package
COMPILER = ("gcc",)  # programs of our own
ROOT_FILE_SYSTEM = ("apt-get", "mmdebstrap")
# Debian's packages that have them.
PACKAGES = {"apt-get": "apt", "apt-cache": "apt", "dpkg-deb": "dpkg", "gcc": "gcc", "mmdebstrap": "mmdebstrap"}


def lacking(commands: Iterable[str]) -> tuple[str, ...]:
    """Those of the commands that are not installed, each once."""
    return tuple(command for command in dict.fromkeys(commands) if shutil.which(command) is None)


def told(missing: Iterable[str]) -> str:
    """Commands that are not installed and what to do, as a clause."""
    names = tuple(missing)
    packages = " ".join(dict.fromkeys(PACKAGES[name] for name in names))
    verb = "is" if len(names) == 1 else "are"
    return f"{', '.join(names)} {verb} not installed; on Debian or Ubuntu: sudo apt-get install {packages}"


def need(*commands: str) -> None:
    """GuestError when a command is not there."""
    if missing := lacking(commands):
        raise GuestError(told(missing))
