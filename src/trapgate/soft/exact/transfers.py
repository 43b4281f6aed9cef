"""Executes far jumps and calls, and system calls, for Python, by their rules (`isa.rules.transfers`, `isa.rules.syscalls`)."""

from iced_x86 import Instruction, Mnemonic, OpKind

from trapgate.arch.control import EFER_LMA, EFER_SCE
from trapgate.soft.exact.operands import effective_address, is_64, is_real, operand_size, ud
from trapgate.soft.exact.rules import settle
from trapgate.soft.state.core import SoftCore
from trapgate.soft.state.guest_cpu import GuestCpu
from trapgate.soft.state.instructions import handles


def _far_pointer(cpu: SoftCore, i: Instruction) -> tuple[int, int, int]:
    """(selector, offset, operand size in bytes) of a far JMP or CALL."""
    if i.op0_kind == OpKind.FAR_BRANCH16:
        return i.far_branch_selector, i.far_branch16, 2
    if i.op0_kind == OpKind.FAR_BRANCH32:
        return i.far_branch_selector, i.far_branch32, 4
    size = operand_size(i, 0) - 2
    offset = cpu.read(effective_address(cpu, i, size), size)
    return cpu.read(effective_address(cpu, i, 2, ahead=size), 2), offset, size


@handles(Mnemonic.JMP)
def jmp_far(cpu: GuestCpu, i: Instruction) -> None:
    """JMP ptr16:16/32 and m16:16/32/64."""
    selector, offset, _ = _far_pointer(cpu, i)
    settle(cpu, "far_jump", selector, offset)


@handles(Mnemonic.CALL)
def call_far(cpu: GuestCpu, i: Instruction) -> None:
    """CALL ptr16:16/32 and m16:16/32/64, through call gates too."""
    selector, offset, size = _far_pointer(cpu, i)
    settle(cpu, f"far_call{8 * size}", selector, offset)


def _require_enabled(cpu: SoftCore) -> None:
    """#UD where SYSCALL and SYSRET are not there: EFER.SCE, real mode, and on Intel's CPUs all but 64-bit code."""
    if not cpu.state.efer & EFER_SCE or is_real(cpu) or (not is_64(cpu) and not cpu.model.amd):
        raise ud()


@handles(Mnemonic.SYSCALL)
def syscall(cpu: GuestCpu, i: Instruction) -> None:
    """SYSCALL."""
    _require_enabled(cpu)
    settle(cpu, "system_call")


@handles(Mnemonic.SYSRET, Mnemonic.SYSRETQ)
def sysret(cpu: GuestCpu, i: Instruction) -> None:
    """SYSRET: to 64-bit code with REX.W, else to 32-bit code."""
    _require_enabled(cpu)
    settle(cpu, f"system_return{64 if i.mnemonic == Mnemonic.SYSRETQ else 32}{'_amd' * cpu.model.amd}")


def _require_sysenter(cpu: SoftCore) -> None:
    if not cpu.model.has("sep") or (cpu.model.amd and cpu.state.efer & EFER_LMA):
        raise ud()


@handles(Mnemonic.SYSENTER)
def sysenter(cpu: GuestCpu, i: Instruction) -> None:
    """SYSENTER; #UD in long mode on AMD."""
    _require_sysenter(cpu)
    settle(cpu, "fast_call", cpu.model.amd)


@handles(Mnemonic.SYSEXIT, Mnemonic.SYSEXITQ)
def sysexit(cpu: GuestCpu, i: Instruction) -> None:
    """SYSEXIT."""
    _require_sysenter(cpu)
    settle(cpu, f"fast_return{64 if i.mnemonic == Mnemonic.SYSEXITQ else 32}", cpu.model.amd)
