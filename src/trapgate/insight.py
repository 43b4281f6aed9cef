"""Asks a machine what the room `linux` wants to know of a guest: RAM, the page tables in use, a few registers."""

from trapgate.arch.msrs import MsrError
from trapgate.machine import Machine

GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{number}" for number in range(8, 16)), "rip")


class Insight:
    """A machine as the `Guest` of `linux.kernel`, and the `Stopped` of `finder`. RAM is read past a debugger's breakpoints."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    @property
    def cr4(self) -> int:
        """CR4 of the first vCPU."""
        return self._machine.processors[0].vcpu.get("cr4")

    def read_msr(self, index: int) -> int:
        """An MSR of the first vCPU; 0 where it has none such."""
        try:
            return self._machine.processors[0].vcpu.read_msr(index)
        except MsrError:
            return 0

    def registers(self, cpu: int) -> dict[str, int]:
        """The general registers of a vCPU and RIP, by name."""
        vcpu = self._machine.processors[cpu].vcpu
        return {name: vcpu.get(name) for name in GENERAL}

    def translate(self, address: int) -> int | None:
        """In the address space of the first vCPU."""
        return self._machine.processors[0].vcpu.translate(address)

    def read_physical(self, address: int, length: int) -> bytes:
        """RAM up to where it ends; nothing where there is none."""
        ram = self._machine.ram
        end = next((end for start, end in ram.regions() if start <= address < end), address)
        return ram.read(address, min(length, end - address)) if end > address else b""
