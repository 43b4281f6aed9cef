"""The guest programs of the tests, and the demo guest, on QEMU's TCG without any KVM: what it gets wrong there is not KVM's fault.

The nested machine has the result in a file, and its tests leave those rows unjudged (`tests/kvm/alone.py`).
"""

import hashlib
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools.guests.packages import keep
from trapgate import guests
from trapgate.check.guest import DemoGuest
from trapgate.check.manners import BY_NAME
from trapgate.check.suite import State, cells
from trapgate.check.vmm import Spawned

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests"))

from programs import build  # noqa: E402

PLACE = Path("/nested/alone.json")  # in the nested machine
DEMO = "demo"
CPU = "max,+svm"
PATIENCE = 15  # s for a program, most of it SeaBIOS
NO_END = "(it comes to no end)"
OTHER_VENDOR = ",vendor=GenuineIntel"


def wrong(qemu: Sequence[str], folder: Path) -> dict[str, list[str]]:
    """By program: the lines of checks that failed, and NO_END; by DEMO: cases. Kept in a folder until QEMU or a guest changes."""
    sources = b"".join(path.read_bytes() for path in (*sorted(build.HERE.glob("*.[Si]*")), guests.DEMO))
    kept = folder / f"alone-{hashlib.sha256(sources + ' '.join(qemu).encode()).hexdigest()[:16]}.json"
    if not kept.is_file():
        with tempfile.TemporaryDirectory() as scratch:
            found = {one.name: _wrong(qemu, one, build.assemble(one, Path(scratch))) for one in build.programs()}
            found[DEMO] = _wrong_cases(qemu, Path(scratch))
        keep(kept, json.dumps(found, indent=1).encode())
    return dict(json.loads(kept.read_bytes()))


def _wrong(qemu: Sequence[str], program: build.Program, image: Path) -> list[str]:
    cpu = CPU if program.cpu.startswith("EPYC") else CPU + OTHER_VENDOR
    words = (
        *("-accel", "tcg", "-cpu", cpu, "-m", "64", "-display", "none", "-nodefaults", "-no-reboot", "-debugcon", "stdio"),
        *("-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", str(image)),
    )
    try:
        said = subprocess.run([*qemu, *words], capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE, check=False).stdout
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
    lines = said.decode(errors="replace").splitlines()
    failed = [line for line in lines if not line.startswith(("ok ", "finished"))]
    return failed if any(line.startswith("finished") for line in lines) else [*failed, NO_END]


def _wrong_cases(qemu: Sequence[str], scratch: Path) -> list[str]:
    """The demo guest's cases that go wrong, with a stub that has nothing armed."""
    guest = DemoGuest()
    options = f" -accel tcg -cpu {CPU} -m 16 -nodefaults -display none -S -gdb tcp:127.0.0.1:{{port}} -kernel {{image}}"
    monitor = Spawned(shlex.join(qemu) + options, guest, scratch)
    return [cell.case.name for cell in cells(monitor, guest, guest.cases, [BY_NAME["nothing"]]) if cell.state is State.WRONG]
