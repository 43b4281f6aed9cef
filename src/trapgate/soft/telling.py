"""Tells whoever wants to know what the guest does that no device and no exception shows (`doings`).

Native code leaves such instructions to Python while somebody wants to hear of them (TOLD_* in `isa.state`). He is told behind the
instruction, and not at all where it faults.
"""

from collections.abc import Callable

from iced_x86 import Instruction, Mnemonic

from trapgate.doings import (
    SYSTEM_CALL,
    BreakpointMet,
    ControlWritten,
    CpuMode,
    Doing,
    Interest,
    ModeSwitched,
    MsrAccessed,
    SystemCalled,
)
from trapgate.isa import state as s
from trapgate.soft.state.guest_cpu import GuestCpu

_CONTROL = frozenset((Mnemonic.MOV, Mnemonic.LMSW, Mnemonic.CLTS, Mnemonic.XSETBV))
_MSRS = frozenset((Mnemonic.RDMSR, Mnemonic.WRMSR))
_CALLS = frozenset((Mnemonic.SYSCALL, Mnemonic.SYSENTER, Mnemonic.INT))
_NATIVE = {"cr0": s.TOLD_CR0, "cr3": s.TOLD_CR3, "cr4": s.TOLD_CR4}


class Teller:
    """One who wants to know, and what he has seen before an instruction."""

    def __init__(self, interest: Interest, heard: Callable[[Doing], None]) -> None:
        self.interest, self._heard = interest, heard

    @property
    def native(self) -> int:
        """TOLD_* that it takes."""
        wanted = self.interest
        controls = sum(bit for name, bit in _NATIVE.items() if name in wanted.registers)
        return controls | s.TOLD_MSR * bool(wanted.msrs or wanted.every_msr) | s.TOLD_CALL * wanted.calls

    @property
    def interrupts(self) -> bool:
        """Whether INT n and INT3 are Python's."""
        return self.interest.calls or self.interest.breakpoints

    def takes(self, cpu: GuestCpu, instruction: Instruction) -> bool:
        """Whether an instruction is his, and does nothing to the guest; then he is told of it."""
        if instruction.mnemonic == Mnemonic.INT3 and self.interest.breakpoints:
            self._heard(BreakpointMet(cpu.state.rip))
            return True
        return False

    def look(self, cpu: GuestCpu, instruction: Instruction) -> Callable[[], None] | None:
        """What to call behind an instruction; None for one that nobody wants to hear of."""
        wanted, mnemonic, st = self.interest, instruction.mnemonic, cpu.state
        if mnemonic in _CONTROL and (wanted.registers or wanted.modes):
            before = {name: cpu.get(name) for name in wanted.registers}
            mode = CpuMode.of(st.cr0, st.efer)
            return lambda: self._control(cpu, before, mode)
        index = st.rcx & 0xFFFF_FFFF
        if mnemonic in _MSRS and wanted.of_msr(index):
            return lambda: self._heard(MsrAccessed(index, _edx_eax(cpu), mnemonic == Mnemonic.WRMSR))
        if mnemonic in _CALLS and wanted.calls and (mnemonic != Mnemonic.INT or instruction.immediate8 == SYSTEM_CALL):
            call = SystemCalled(st.rax, st.rip)
            return lambda: self._heard(call)
        return None

    def _control(self, cpu: GuestCpu, before: dict[str, int], mode: CpuMode) -> None:
        if self.interest.modes and (now := CpuMode.of(cpu.state.cr0, cpu.state.efer)) is not mode:
            self._heard(ModeSwitched(mode, now))
            return
        for name, value in before.items():
            if (after := cpu.get(name)) != value:
                self._heard(ControlWritten(name, value, after))


def _edx_eax(cpu: GuestCpu) -> int:
    st = cpu.state
    return int((st.rdx & 0xFFFF_FFFF) << 32 | st.rax & 0xFFFF_FFFF)
