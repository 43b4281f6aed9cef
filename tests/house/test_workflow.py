"""The workflow of a public forge is well formed, covers what the package promises, and its last job waits for every other."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / ".github/workflows/ci.yml"


@pytest.fixture(scope="module")
def jobs() -> dict[str, Any]:
    """The workflow's jobs by name."""
    if not WORKFLOW.exists():
        pytest.skip("an sdist has no workflow")
    found: dict[str, Any] = YAML(typ="safe").load(WORKFLOW)["jobs"]
    return found


def test_it_is_a_workflow(jobs: dict[str, Any]) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(WORKFLOW)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_python_that_the_package_names_is_tried(jobs: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [line.rpartition(" ")[2] for line in project["classifiers"] if line.startswith("Programming Language :: Python :: 3.")]
    matrix = jobs["tests"]["strategy"]["matrix"]
    assert matrix["python"] == named
    assert matrix["include"] == [{"python": project["requires-python"].removeprefix(">="), "resolution": "lowest-direct"}]


def test_the_required_job_waits_for_all_others(jobs: dict[str, Any]) -> None:
    *others, last = jobs
    assert jobs[last]["if"] == "always()", "skipped would count as passed"
    assert jobs[last]["needs"] == others
    (step,) = jobs[last]["steps"]
    assert step["run"] == f'test "$RESULTS" = "{" ".join(["success"] * len(others))}"'


def test_it_runs_what_ci_runs(jobs: dict[str, Any]) -> None:
    commands = {step.get("run", "").split(" PYTHON=")[0] for job in jobs.values() for step in job["steps"]}
    assert {"make check", ".ci/needs", "make test-dist", "make docs", "make test-fast"} <= commands
    assert (ROOT / ".ci/run").read_text().splitlines()[-4:] == [
        ".ci/needs",
        "make test </dev/null",
        "make test-dist </dev/null",
        "make docs </dev/null",
    ]
