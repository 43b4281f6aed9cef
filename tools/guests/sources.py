"""Where apt takes packages from: this host's own sources, or another suite or architecture with its lists in a folder of ours."""

import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
FRESH = 86400.0  # seconds for which downloaded lists are good


class GuestError(Exception):
    """A guest could not be made; the text says what is missing and what to do."""


@dataclass(frozen=True, slots=True)
class Source:
    """A suite such as trixie-backports for an architecture of dpkg's. Nothing of the host's apt is changed."""

    suite: str
    architecture: str = "amd64"

    def options(self, folder: Path) -> tuple[str, ...]:
        """apt's options for this source; its lists are downloaded into `folder` when they are missing or old. GuestError."""
        place = folder / f"{self.suite}-{self.architecture}"
        options = self._options(place)
        stamp = place / "updated"
        if stamp.is_file() and time.time() - stamp.stat().st_mtime < FRESH:
            return options
        if not KEYRING.is_file():
            raise GuestError(f"{KEYRING} is missing: install debian-archive-keyring")
        for name in ("lists/partial", "cache/archives/partial"):
            (place / name).mkdir(parents=True, exist_ok=True)
        (place / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror()} {self.suite} main\n")
        output_of("apt-get", "update", "-q", "--error-on=any", *options)
        stamp.touch()
        return options

    def _options(self, place: Path) -> tuple[str, ...]:
        settings = {
            "Dir::Etc::SourceList": place / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State::Lists": place / "lists",
            "Dir::State::Status": "/dev/null",
            "Dir::Cache": place / "cache",
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
            "APT::Sandbox::User": "",
        }
        return tuple(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))


def mirror() -> str:
    """The address that this host takes Debian from. GuestError when it has none."""
    for line in output_of("apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)").splitlines():
        origin, label, address = line.split("|", 2)
        if (origin, label) == ("Debian", "Debian"):
            return address
    raise GuestError("apt has no Debian archive among its sources: run `apt-get update` as root, or add Debian 12 to them")


def dependency(package: str, wanted: str, options: Sequence[str] = ()) -> str:
    """The package behind a meta-package: its dependency whose name matches the regular expression `wanted`."""
    output = output_of("apt-cache", "depends", package, *options)
    for name in re.findall(r"^ *\|?Depends: (\S+)$", output, re.MULTILINE):
        if re.fullmatch(wanted, name):
            return str(name)
    raise GuestError(f"apt knows no {package}: run `apt-get update` as root first, or add Debian 12 to the sources")


def output_of(*command: str) -> str:
    """The standard output of a command that should not fail."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise GuestError(f"`{command[0]} {command[1]}` failed: {reason[0]} (run `apt-get update` as root first)")
    return done.stdout
