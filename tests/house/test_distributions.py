"""What a user installs: the wheel in an empty environment, run from there; the sdist, with all that a packager needs."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest

import trapgate

pytestmark = [pytest.mark.long]

ROOT = Path(__file__).resolve().parents[2]
KEPT_BACK = (".gitignore", ".github/")  # in the repository alone


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """What a command prints; it must succeed."""
    here = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | environment
    done = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env=here,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def repository() -> set[str]:
    """Every file of the repository."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone: which files belong to it is not known")
    return set(run("git", "ls-files", cwd=ROOT).splitlines())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, repository: set[str]) -> tuple[Path, Path]:
    """Wheel and sdist, built from the repository's files alone; the wheel from the sdist."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("made")
    for name in repository:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", made, source, cwd=made)
    (wheel,), (sdist,) = made.glob("*.whl"), made.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, built: tuple[Path, Path]) -> Path:
    """The programs of an empty environment into which the wheel alone was installed, with what it asks for."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=True)
    run(home / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", built[0], cwd=home)
    return home / "bin"


def test_the_wheel_is_for_every_python_and_holds_the_package(built: tuple[Path, Path], repository: set[str]) -> None:
    wheel, _ = built
    assert wheel.name == f"trapgate-{trapgate.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        (metadata,) = (archive.read(name).decode() for name in held if name.endswith(".dist-info/METADATA"))
    package = {name.removeprefix("src/") for name in repository if name.startswith("src/")}
    assert {name for name in held if ".dist-info/" not in name} == package
    lines = {"License-Expression: Apache-2.0", "License-File: LICENSE", "Requires-Python: >=3.11", "Classifier: Typing :: Typed"}
    assert lines <= set(metadata.splitlines())


def test_the_sdist_holds_the_repository(built: tuple[Path, Path], repository: set[str]) -> None:
    with tarfile.open(built[1]) as archive:
        held = {str(PurePosixPath(*PurePosixPath(one.name).parts[1:])) for one in archive if one.isfile()}
    assert {name for name in repository - held if not name.startswith(KEPT_BACK)} == set()
    assert {name for name in held - repository if ".egg-info/" not in name} == {"PKG-INFO", "setup.cfg"}


def test_an_installed_trapgate_runs_the_demo(installed: Path, tmp_path: Path) -> None:
    said = run(installed / "trapgate", "demo", cwd=tmp_path, TRAPGATE_CACHE=str(tmp_path / "cache"))
    assert "27 of 27 rows are right" in said
    assert "Usage: trapgate run" in run(installed / "trapgate", "run", "--help", cwd=tmp_path)
    assert run(installed / "trapgate", "--version", cwd=tmp_path) == f"trapgate {trapgate.__version__}\n"
    run(installed / "python", "-m", "pip", "check", cwd=tmp_path)


def test_the_changelog_tells_of_this_version() -> None:
    assert f"## [{trapgate.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
