"""Asks a machine what the room `linux` wants to know of a guest: RAM, the page tables in use, a few registers."""

from trapgate.arch.control import CR0_PE, EFER_LMA
from trapgate.arch.flags import VM
from trapgate.arch.msrs import MsrError
from trapgate.arch.segments import ATTR_DB, ATTR_L
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

    def word(self, cpu: int) -> int:
        """Bytes of a pointer of the code that a vCPU runs, 8 or 4; 0 where its segments do not begin at 0, or are of 16 bits."""
        get = self._machine.processors[cpu].vcpu.get
        attributes = get("cs_attributes")
        if get("efer") & EFER_LMA and attributes & ATTR_L:
            return 8
        flat = get("cr0") & CR0_PE and not get("rflags") & VM and attributes & ATTR_DB and not get("cs_base") and not get("ss_base")
        return 4 if flat else 0

    def read(self, cpu: int, address: int, length: int) -> bytes:
        """Memory at a linear address, as a vCPU has it mapped; short where it is not."""
        return self._machine.processors[cpu].vcpu.read_virtual(address, length)

    def translate(self, address: int) -> int | None:
        """In the address space of the first vCPU."""
        return self._machine.processors[0].vcpu.translate(address)

    def read_physical(self, address: int, length: int) -> bytes:
        """RAM up to where it ends; nothing where there is none."""
        ram = self._machine.ram
        end = next((end for start, end in ram.regions() if start <= address < end), address)
        return ram.read(address, min(length, end - address)) if end > address else b""
