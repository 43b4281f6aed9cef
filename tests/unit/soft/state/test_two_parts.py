"""The guest's part of the CPU state: wherever the host has put everything, the same guest leaves the same bytes in it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from programs import build
from trapgate.build import load_guest, make_machine
from trapgate.isa.state import GUEST_BYTES, LAYOUT, Part
from trapgate.machine import ClockKind, MachineConfig
from trapgate.soft.cpu import SoftVcpu

MOMENTS = [100, 3_000, 40_000, 41_001, 200_000, 1_000_000]  # instructions
PROGRAMS = ["long_exceptions", "long_rep", "long_xsave", "protected_segments"]


def parts(image: str) -> tuple[list[str], list[int]]:
    """The guest's part at each moment, and where the host has put what the CPU works with."""
    machine = make_machine(MachineConfig(memory=64 << 20, clock=ClockKind.INSTRUCTIONS), "soft")
    load_guest(machine, image)
    cpu, taken = machine.vcpu, []
    assert isinstance(cpu, SoftVcpu)
    for moment in MOMENTS:
        machine.resume(instructions=moment - cpu.executed())
        taken.append(bytes(cpu.state)[:GUEST_BYTES].hex())
    addresses = [cpu.address, cpu.state.ram_base, cpu.state.code_base, cpu.state.known_base]
    machine.close()
    return taken, addresses


@pytest.mark.skipif(bool(build.missing_tools()), reason=f"not installed: {build.missing_tools()}")
@pytest.mark.parametrize("name", PROGRAMS)
def test_two_processes_have_equal_guest_bytes(name: str, tmp_path: Path) -> None:
    program = next(one for one in build.programs() if one.name == name)
    image = build.assemble(program, tmp_path)
    command, environment = [sys.executable, __file__, str(image)], os.environ | {"PYTHONPATH": ":".join(sys.path)}
    runs = [subprocess.run(command, capture_output=True, check=True, env=environment).stdout for _ in range(2)]
    one, two = map(json.loads, runs)
    assert not set(one[1]) & set(two[1]), "the host has put it all to the same place: nothing would be seen"
    for moment, first, second in zip(MOMENTS, one[0], two[0], strict=True):
        assert differing(first, second) == [], moment


def differing(one: str, two: str) -> list[str]:
    """The fields of the guest's part that differ."""
    first, second = bytes.fromhex(one), bytes.fromhex(two)
    return [
        field.name
        for field in LAYOUT.values()
        if first[field.offset : field.offset + field.size] != second[field.offset : field.offset + field.size]
    ]


def test_the_guests_part_comes_first_and_whole() -> None:
    ends = [field.offset + field.size for field in LAYOUT.values() if field.part is Part.GUEST and field.name != "fxsave"]
    starts = [field.offset for field in LAYOUT.values() if field.part is Part.HOST]
    assert max(ends) <= LAYOUT["fxsave"].offset < GUEST_BYTES <= min(starts)


if __name__ == "__main__":
    print(json.dumps(parts(sys.argv[1])))
