"""Registers of a vCPU on KVM lie in its XSAVE area where the table says."""

import random

import pytest

from trapgate.arch import xstate
from trapgate.kvm import abi
from trapgate.kvm.registers import Registers
from unit.kvm.fake_kvm import FakeVcpuFd

PARTS = ("fioff", "fiseg", "fooff", "foseg")  # of FIP and FDP


class _Area(FakeVcpuFd):
    """Keeps the area that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.area = abi.Xsave()

    def xsave(self) -> abi.Xsave:
        return abi.Xsave.from_buffer_copy(bytes(self.area))

    def set_xsave(self, value: abi.Xsave) -> None:
        self.area = value


def test_each_register_in_its_place() -> None:
    fd, rng = _Area(), random.Random(3)
    registers = Registers(fd)  # type: ignore[arg-type]
    values = {name: rng.getrandbits(8 * place.size) for name, place in xstate.PLACES.items() if name not in PARTS}
    values["mxcsr"] &= xstate.MXCSR_MASK
    for name, value in values.items():
        registers.set(name, value)
    assert {name: xstate.read(bytes(fd.area), name) for name in values} == values
    assert {name: registers.get(name) for name in values} == values
    assert bytes(fd.area)[xstate.XSTATE_BV] == xstate.ALL
    registers = Registers(fd, xstate.LEGACY)  # type: ignore[arg-type]
    for access in (lambda: registers.get("ymm0h"), lambda: registers.set("ymm0h", 1)):
        with pytest.raises(KeyError, match="no ymm0h"):
            access()
    with pytest.raises(ValueError, match="reserved"):
        registers.set("mxcsr", 1 << 16)
