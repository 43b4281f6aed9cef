"""Each benchmark guest, with few rounds: our loader takes it, QEMU runs it, and it finds its own result right."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bench.build import (
    BUS_LOCK,
    BUS_LOCK_DR6,
    DETECTION,
    DEVICES,
    EMPTY,
    GUESTS,
    INT3,
    SYSTEM,
    WATCHED,
    WATCHED_OUTSIDE,
    BenchError,
    Guest,
    build,
)
from bench.engines import EXIT_OK, QEMU_DEBUG, QEMU_IMAGE, TRAPGATE_DEBUG, TRAPGATE_IMAGE, Engine, run_image
from bench.stub import REQUESTS, Request, seconds
from bench.system import MODES, operations
from trapgate.boot import BootOptions, plan_boot, read_image
from trapgate.build import load_guest, make_machine
from trapgate.machine import MachineConfig

MISSING = [name for name in ("qemu-system-x86_64", "gcc") if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

# What two rounds give where it can be said without running them; the guests check the rest themselves.
EXPECTED = {
    "empty": 0,
    "sum": 2 * (3 * 4095 * 4096 // 2 + 4096),
    "recursion": 2 * 17711,
    "sieve": 2 * 82025,
    "int3": 2048,
    "faults": 1024 * 1000003 + 2 * 512 * 511 // 2,
    "syscalls": 2048,
}
ROUNDS = 2


@pytest.mark.parametrize("guest", [EMPTY, *GUESTS], ids=lambda guest: guest.name)
def test_a_guest_computes_what_it_should(guest: Guest, tmp_path: Path) -> None:
    rounds = 1 if guest is EMPTY else ROUNDS
    image = build(guest, tmp_path, rounds)
    plan = plan_boot(read_image(image), BootOptions(((0, 64 << 20),)))
    assert (plan.kind, plan.start.mode) == ("PVH", "protected32")
    if guest.name == "doubles":
        image = build(guest, tmp_path, 64)  # two rounds are too few steps for pi to 1e-9
    line = run_image(Engine("qemu", QEMU_IMAGE, ""), image, 60).line
    words = line.split()
    assert words[:2] == ["bench:", guest.name]
    if guest.name in EXPECTED:
        assert int(words[2], 16) == EXPECTED[guest.name]


def test_every_system_instruction_is_measured_in_its_mode() -> None:
    short = replace(SYSTEM, name="system-short", defines=("-DBATCHES=2", "-DBATCH_TICKS=1UL"))
    ours, other = (operations(one, 60, short) for one in (Engine("trapgate", TRAPGATE_IMAGE, ""), Engine("qemu", QEMU_IMAGE, "")))
    assert ours.keys() == other.keys()
    assert {mode for mode, _ in ours} == set(range(len(MODES))) and len(ours) > 130
    assert all(ns > 0 for ns in (*ours.values(), *other.values()))


@pytest.mark.parametrize("guest", [*DETECTION, INT3, BUS_LOCK, BUS_LOCK_DR6, *DEVICES, *WATCHED], ids=lambda guest: guest.name)
def test_a_guest_for_ours_alone_finds_its_result_right(guest: Guest, tmp_path: Path) -> None:
    said = bytearray()
    machine = make_machine(MachineConfig(memory=64 << 20, serial=said.extend), "soft")
    load_guest(machine, str(build(guest, tmp_path, 2)))
    assert machine.run().status == EXIT_OK
    assert said.decode().split()[-1] == "ok"
    machine.close()


@pytest.mark.parametrize("engine", [("qemu", QEMU_IMAGE, QEMU_DEBUG), ("trapgate", TRAPGATE_IMAGE, TRAPGATE_DEBUG)])
def test_a_debugger_watches_beside_what_a_guest_accesses(engine: tuple[str, str, str], tmp_path: Path) -> None:
    """It is told of no hit, so that the guest runs to its end."""
    name, line, debug = engine
    image = build(WATCHED_OUTSIDE[1], tmp_path, 2)
    words = run_image(Engine(name, line, "", debug=debug), image, 60, [0x2000800, 0x2001840]).line.split()
    assert words[-1] == "ok"


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: one.what)
def test_a_debugger_asks_both_stubs_the_same(request_: Request) -> None:
    for engine in (Engine("qemu", QEMU_IMAGE, "", debug=QEMU_DEBUG), Engine("trapgate", TRAPGATE_IMAGE, "", debug=TRAPGATE_DEBUG)):
        assert seconds(engine, replace(request_, times=1), 60) > 0


def test_an_image_is_built_once_and_anew_for_other_rounds(tmp_path: Path) -> None:
    first = build(EMPTY, tmp_path, 1)
    stamp = first.stat().st_mtime_ns
    assert build(EMPTY, tmp_path, 1) == first
    assert first.stat().st_mtime_ns == stamp
    assert build(EMPTY, tmp_path, 2) != first


def test_a_guest_that_finds_a_wrong_result_fails_the_run(tmp_path: Path) -> None:
    image = build(Guest("doubles", 1, ""), tmp_path)  # one round is too coarse for pi: the guest itself says WRONG
    with pytest.raises(BenchError, match=r"status 3: bench: doubles [0-9a-f]{16} WRONG"):
        run_image(Engine("qemu", QEMU_IMAGE, ""), image, 60)


def test_missing_gcc_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match="gcc is not installed"):
        build(EMPTY, tmp_path, 3)
