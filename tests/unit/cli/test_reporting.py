"""Reports are written behind a sandbox: nothing is opened, and no module loaded, from when the files are open."""

import subprocess
import sys
from pathlib import Path

from trapgate.finder.formats.registry import FORMATS

TESTS = Path(__file__).parents[2]
PROGRAM = """
import contextlib, sys
sys.path.insert(0, sys.argv[1])
from trapgate.cli.reporting import Format, Outputs, Reporting
from trapgate.finder.findings import Report, Run
from unit.finder.told import example, plain

def barred(event, arguments):
    if event in ("open", "import", "os.listdir", "os.scandir"):
        raise PermissionError(f"{event} {arguments[0]}")

with contextlib.ExitStack() as stack:
    formats = tuple(Format(name, f"{sys.argv[2]}/{name}") for name in sys.argv[3:])
    outputs = Outputs(Reporting(formats), stack)
    sys.addaudithook(barred)
    outputs.tell(Report((Run(("program",), 0),), (example(), plain()), ("a note",)))
"""


def test_every_format_is_loaded_before_the_program_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(TESTS), str(tmp_path), *FORMATS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert {one.name for one in tmp_path.iterdir() if one.stat().st_size > 20} == set(FORMATS)
