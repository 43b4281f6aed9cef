"""A process while a guest runs in it, as seen from outside: no memory to write and execute at once, no way to code."""

import json
import subprocess
import sys
from pathlib import Path

from trapgate.isa.state import STATE_BYTES
from trapgate.mapping import GUARD
from trapgate.soft.state.codebuffer import SIZE

MEMORY = 16 << 20
# The guest says a word on COM1, then halts; what the host has of it is looked at amid that run, with LLVM at work as for hot loops.
PROGRAM = """
import json, os, sys
from pathlib import Path
from trapgate.build import load_guest, make_machine
from trapgate.machine import MachineConfig
from trapgate.stencil.compile import Compiler
seen = []
def look(data):
    Compiler(position_independent=True).compile('define void @f() section ".text.f" { ret void }')
    links = []
    for number in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            pass
    vcpu = machine.vcpu
    places = {"code": vcpu.code.base, "written": vcpu.code.written_at, "ram": machine.ram.host_base, "state": vcpu.address}
    seen.append({"maps": Path("/proc/self/maps").read_text(), "links": links, "places": places})
machine = make_machine(MachineConfig(memory=16 << 20, serial=look), "soft")
load_guest(machine, sys.argv[1])
machine.run()
print(json.dumps(seen[0]))
"""


def test_mappings_and_descriptors_amid_a_run(tmp_path: Path) -> None:
    image = tmp_path / "image"
    code = bytes.fromhex("b9 00 20 49 75 fd ba f8 03 b0 21 ee f4")  # a loop; out 3F8h, '!'; hlt
    image.write_bytes(code.ljust(510, b"\0") + b"\x55\xaa")
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(image)], capture_output=True, text=True, timeout=60, check=True)
    seen = json.loads(done.stdout)
    maps = []
    for line in seen["maps"].splitlines():
        extent, rights, _, _, _, *name = line.split(maxsplit=5)
        start, end = (int(part, 16) for part in extent.split("-"))
        maps.append((start, end, rights, " ".join(name)))

    assert not [one for one in maps if "w" in one[2] and "x" in one[2]]
    # Executable is what files of the host have brought, the kernel's own pages, and one mapping of ours.
    own = [(start, end) for start, end, rights, name in maps if "x" in rights and not name.startswith(("/usr", "/lib", "[v"))]
    own = [(start, end) for start, end in own if not _is_file(maps, start)]
    assert own == [(seen["places"]["code"], seen["places"]["code"] + SIZE)]
    assert not [link for link in seen["links"] if "trapgate-code" in link or "memfd" in link]

    sizes = {"code": (SIZE, "r-xs"), "written": (SIZE, "rw-s"), "ram": (MEMORY, "rw-p"), "state": (STATE_BYTES, "rw-p")}
    for what, (size, rights) in sizes.items():
        start = seen["places"][what]
        end = start + size + 4095 & ~4095
        inside = [one for one in maps if one[0] < end and start < one[1]]
        assert {one[2] for one in inside} == {rights}, what
        for edge in (start - GUARD, start - 1, end, end + GUARD - 1):
            assert [one[2] for one in maps if one[0] <= edge < one[1]] == ["---p"], f"{what} at {edge - start:#x}"


def _is_file(maps: list[tuple[int, int, str, str]], start: int) -> bool:
    """Whether a mapping is of a file that is there: a library in whatever folder."""
    return any(one[0] == start and one[3].startswith("/") and Path(one[3]).is_file() for one in maps)
