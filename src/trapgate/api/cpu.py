"""Shows a vCPU as a program sees it: registers by name, memory by virtual address, MSRs."""

from collections.abc import Callable, Iterator, Mapping

from trapgate.arch.registers import TABLE
from trapgate.memory import RamError
from trapgate.vcpu import Vcpu

_BY_NAME = {register.name: register for register in TABLE}


class Cpu(Mapping[str, int]):
    """The registers of a vCPU, `cpu["rax"]`, and its memory. Names are those of `trapgate.arch.registers`: rip, cs_base, dr6, xmm0.

    A mapping, so that `dict(cpu)` is a copy of all registers. Use it while the machine does not run, or in a hook.
    """

    def __init__(self, vcpu: Callable[[], Vcpu]) -> None:
        self._vcpu = vcpu

    def __getitem__(self, register: str) -> int:
        """The value of a register; KeyError for no such register."""
        return self._vcpu().get(_BY_NAME[register].name)

    def __setitem__(self, register: str, value: int) -> None:
        """Change a register; KeyError for no such register, ValueError when it cannot hold the value."""
        found = _BY_NAME[register]
        if not 0 <= value <= found.mask:
            raise ValueError(f"{register} has {found.bits} bits: it cannot hold {value:#x}")
        self._vcpu().set(register, value)

    def __iter__(self) -> Iterator[str]:
        """The names of all registers that this CPU has."""
        return (name for name in _BY_NAME if name in self)

    def __len__(self) -> int:
        """How many registers there are."""
        return sum(1 for _ in self)

    def update(self, registers: Mapping[str, int]) -> None:
        """Change registers, those alone that have another value: so a copy of all can be put back. ValueError, KeyError."""
        for name, value in registers.items():
            if self[name] != value:
                self[name] = value

    def read(self, address: int, length: int) -> bytes:
        """Memory at a virtual address, whatever its rights; RamError when any of it is unmapped, or no RAM."""
        data = self._vcpu().read_virtual(address, length)
        if len(data) < length:
            raise RamError(f"virtual {address + len(data):#x} is unmapped, or not RAM")
        return data

    def write(self, address: int, data: bytes) -> None:
        """Change memory at a virtual address, whatever its rights; RamError and nothing written when any is unmapped, or no RAM."""
        if not self._vcpu().write_virtual(address, data):
            raise RamError(f"virtual {address:#x}+{len(data):#x} is unmapped, or not RAM")

    def translate(self, address: int) -> int | None:
        """The physical address behind a virtual one; None when it is unmapped."""
        return self._vcpu().translate(address)

    def read_msr(self, index: int) -> int:
        """The value of an MSR; MsrError when the model has none, or it can only be written."""
        return self._vcpu().read_msr(index)

    def write_msr(self, index: int, value: int) -> None:
        """Change an MSR; MsrError when the model has none, or it refuses the value."""
        self._vcpu().write_msr(index, value)
