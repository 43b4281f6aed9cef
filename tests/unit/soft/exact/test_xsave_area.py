"""What native XSAVE stores of the registers, and XRSTOR loads, lies where the table of the area says."""

import random

import pytest

from trapgate.arch import control, xstate
from trapgate.exits import Halted
from unit.soft.bench import CODE, DATA, Bench

HLT = "f4"
SAVES = {"fxsave64 [rdi]": "480fae07", "xsave64 [rdi]": "480fae27", "xsavec64 [rdi]": "480fc727"}
LOADS = {"fxrstor64 [rdi]": "480fae0f", "xrstor64 [rdi]": "480fae2f"}
PARTS = ("fioff", "fiseg", "fooff", "foseg")  # of FIP and FDP


def _bench() -> Bench:
    bench = Bench("64")
    bench.st.cr4 |= control.CR4_OSXSAVE | control.CR4_OSFXSR
    bench.st.xcr0 = xstate.user_mask(bench.cpu.model.has)
    bench.cpu.update_mode()
    bench.st.rdi, bench.st.rax, bench.st.rdx = DATA, xstate.ALL, 0
    return bench


def _run(bench: Bench, code: str) -> None:
    bench.ram.write(CODE, bytes.fromhex(code + HLT))
    bench.st.rip = CODE
    assert isinstance(bench.cpu.run(), Halted)


def _registers(bench: Bench, form: str) -> dict[str, xstate.Place]:
    """Those that an instruction moves here."""
    components = xstate.LEGACY if form.startswith("fx") else bench.st.xcr0
    found = {name: place for one in xstate.COMPONENTS if one.bit & components for name, place in one.registers.items()}
    return {name: place for name, place in found.items() if name not in PARTS} | {"mxcsr": xstate.MXCSR}


def _values(places: dict[str, xstate.Place]) -> dict[str, int]:
    """Something else for each. Nothing is unmasked or pending."""
    rng = random.Random(3)
    return {name: rng.getrandbits(8 * place.size) for name, place in places.items()} | {
        "mxcsr": 0x3FA0, "fctrl": 0x27F, "fstat": 0x3800, "fop": 0x123,
    }  # fmt: skip


@pytest.mark.parametrize("form", SAVES)
def test_saved(form: str) -> None:
    bench = _bench()
    values = _values(_registers(bench, form))
    for name, value in values.items():
        bench.cpu.set(name, value)
    _run(bench, SAVES[form])
    area = bench.ram.read(DATA, xstate.standard_size(xstate.ALL))
    assert {name: xstate.read(area, name) for name in values} == values


@pytest.mark.parametrize("form", LOADS)
def test_loaded(form: str) -> None:
    bench = _bench()
    values = _values(_registers(bench, form))
    area = bytearray(xstate.standard_size(xstate.ALL))
    for name, value in values.items():
        xstate.write(area, name, value)
    area[xstate.XSTATE_BV] = bench.st.xcr0
    bench.ram.write(DATA, area)
    _run(bench, LOADS[form])
    assert {name: bench.cpu.get(name) for name in values} == values
