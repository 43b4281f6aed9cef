"""Executes floating-point instructions under unmasked exceptions, one at a time, from Python.

Translated code runs them itself until one does raise, or an x87 exception waits (`isa.families.mxcsr`, `isa.families.x87`). Then
the instruction comes here, as it does where its operand is no plain memory. It runs on the host's FPU between FXRSTOR and FXSAVE;
then its exceptions are looked at.

x87 runs under the guest's own control word: the host would take #MF only at the next waiting instruction, which never comes, so
the silicon gives the unmasked response itself. ES then says that the guest's next waiting instruction owes #MF (SDM vol. 1, 8.7).
SSE runs masked: what would have been raised is in MXCSR's flags, and the destination is thrown away (SDM vol. 1, 11.5). Not told
exactly by that: PE beside an unmasked overflow or underflow, for which see `rounding`, and which of the steps of DPPS and DPPD
raised, which are therefore taken one by one.
"""

import ctypes
from collections.abc import Callable
from dataclasses import field
from functools import cache

from iced_x86 import Code, Code_, Encoder, Instruction, Mnemonic, OpKind, Register

from trapgate.arch import vectors, xstate
from trapgate.arch.control import CR4_OSXMMEXCPT
from trapgate.exits import Exit
from trapgate.isa import state as s
from trapgate.isa.families import hosted, mxcsr, x87
from trapgate.soft.exact import rounding
from trapgate.soft.exact.mmx import as_mmx, faulted_store
from trapgate.soft.exact.operands import (
    effective_address,
    effective_offset,
    linear_address,
    read_register,
    string_address,
    unchecked_address,
    write_register,
)
from trapgate.soft.state.core import SoftCore
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.guest_cpu import GuestCpu
from trapgate.soft.state.instructions import handles, handles_the_rest
from trapgate.soft.state.registers import SEGMENT_NAME
from trapgate.soft.state.view import STATUS
from trapgate.values import dataclass

IE, DE, ZE, OE, UE, PE = (1 << n for n in range(6))
BEFORE = IE | DE | ZE  # found before the operation is carried out
MASKS, FTZ, DAZ, FLAGS = 0x1F80, 0x8000, 0x40, 0x3F
FCW, FSW, MXCSR, ST0 = xstate.FCW.offset, xstate.FSW.offset, xstate.MXCSR.offset, xstate.ST0
FOP, FIP, FDP = xstate.FOP.offset, xstate.FIP.offset, xstate.FDP.offset
XMM = xstate.SSE.registers
TINY = ("add", "sub", "mul", "div", "cvtpd2ps", "cvtsd2ss", "dp", "hadd", "hsub")  # may give a denormal exactly

# stmxcsr [rdx+16]; push [rdx+8]; popfq; mov rax, [rdx]; fxrstor64 [rdi]
_BEFORE = bytes.fromhex("0fae5a10 ff7208 9d 488b02 480fae0f")
# fxsave64 [rdi]; fninit; mov [rdx], rax; pushfq; pop [rdx+8]; ldmxcsr [rdx+16]; ret
_AFTER = bytes.fromhex("480fae07 dbe3 488902 9c 8f4208 0fae5210 c3")
_SAVING, _LOADING = (Mnemonic.FNSTENV, Mnemonic.FNSAVE), (Mnemonic.FLDENV, Mnemonic.FRSTOR)
_FORGETTING = (Mnemonic.FNINIT, Mnemonic.FNSAVE)
CALL = ctypes.PYFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)


def get_mxcsr(cpu: SoftCore) -> int:
    """MXCSR as the guest sees it."""
    return int(cpu.state.guest_mxcsr ^ cpu.state.mxcsr_difference)


def set_mxcsr(cpu: SoftCore, value: int) -> None:
    """Change MXCSR (16 bits; the caller has checked the reserved ones); the mode follows."""
    difference = mxcsr.difference(value)
    cpu.state.guest_mxcsr, cpu.state.mxcsr_difference = value ^ difference, difference
    cpu.update_mode()


def unmasked(cpu: SoftCore) -> int:
    """The flags of exceptions that MXCSR unmasks."""
    return ~get_mxcsr(cpu) >> 7 & FLAGS


def flag(cpu: SoftCore, raised: int) -> None:
    """Set flags in MXCSR."""
    set_mxcsr(cpu, get_mxcsr(cpu) | raised)


def pending(cpu: SoftCore) -> bool:
    """Whether the next waiting x87 instruction owes #MF."""
    image = cpu.state.fxsave
    return bool(image[FSW] & ~image[FCW] & FLAGS)


@dataclass(slots=True)
class Run:
    """One instruction on the host's FPU: what it works on, and what it finds there."""

    cpu: GuestCpu
    instruction: Instruction
    plan: hosted.Plan | None  # None: it has no operands, and is an x87 instruction
    on_x87: bool  # it uses the x87 registers, be it as MMX's
    memory: int | None  # which operand is in memory,
    general: int | None  # or is a general register
    image: bytes  # the FXSAVE image before it
    xmm: bytes  # the XMM registers before it
    address: int = 0  # linear, of the operand in memory
    data: bytearray = field(default_factory=lambda: bytearray(128))  # of that operand
    registers: "ctypes.Array[ctypes.c_uint64]" = field(default_factory=lambda: (ctypes.c_uint64 * 3)())  # RAX, RFLAGS, room

    @classmethod
    def of(cls, cpu: GuestCpu, i: Instruction) -> "Run":
        """What is known before anything is read."""
        plan = hosted.plan(i.code) if i.op_count else None
        on_x87 = plan is None or (plan.live and not _memory_source(i)) or _is_x87(i)
        memory = plan.memory if plan is not None and plan.memory is not None and i.op_kind(plan.memory) == OpKind.MEMORY else None
        xmm = b"".join(bytes(getattr(cpu.state, place.field)) for place in XMM.values())
        return cls(cpu, i, plan, on_x87, memory, general_operand(i), bytes(cpu.state.fxsave), xmm)

    @property
    def stores(self) -> bool:
        """Whether the operand in memory is written."""
        return self.plan is not None and self.memory is not None and self.plan.written[self.memory]

    @property
    def late(self) -> bool:
        """Whether its address is looked at behind the operation only: stores of Intel's x87 (docs/vendors.md)."""
        i = self.instruction
        return self.stores and not self.cpu.model.amd and _is_x87(i) and i.mnemonic not in x87.KEEP_POINTERS

    @property
    def operands(self) -> tuple[bytes, bytes]:
        """The two vector operands before it ran."""
        return _operands(self.instruction, self.xmm, bytes(self.data[:16]))


@handles_the_rest
def execute(cpu: GuestCpu, i: Instruction) -> Exit | None:
    """One x87, MMX or SSE instruction. GuestFault: #MF, #XM (#UD without CR4.OSXMMEXCPT), and those of its memory operand."""
    if i.mnemonic in x87.NOTHING:
        if i.mnemonic not in x87.NO_WAIT and pending(cpu):
            raise GuestFault(vectors.MF)
        return None
    run = Run.of(cpu, i)
    if run.on_x87 and i.mnemonic not in x87.NO_WAIT and pending(cpu):
        raise GuestFault(vectors.MF)
    _fetch(run)
    _operate(run)
    _settle(run)
    if i.mnemonic in _SAVING:
        _show(run)
    _store(run)
    _point(run)
    return None


def _fetch(run: Run) -> None:
    """Read the operands; GuestFault when the one in memory is not to be had."""
    cpu, plan = run.cpu, run.plan
    if plan is not None and run.memory is not None:
        if not run.late:
            run.address = _reach(cpu, run.instruction, plan, run.stores)
        if not run.stores:
            run.data[: plan.size] = cpu.read_bytes(run.address, plan.size)
    if run.general is not None:
        run.registers[0] = read_register(cpu, run.instruction.op_register(run.general))
    run.registers[1] = cpu.state.get_rflags() & STATUS | 0x202


def _operate(run: Run) -> None:
    """Run it on the image in `fxsave`, under a MXCSR that masks everything."""
    cpu, image = run.cpu, run.cpu.state.fxsave
    host_mxcsr = get_mxcsr(cpu) | MASKS
    if unmasked(cpu) & UE:
        host_mxcsr &= ~FTZ  # which only holds while underflow is masked
    image[MXCSR : MXCSR + 4] = (host_mxcsr & ~FLAGS).to_bytes(4, "little")
    summary = 0x80 * pending(cpu)  # ES and B follow from the rest, whatever a guest wrote there
    image[FSW], image[FSW + 1] = image[FSW] & 0x7F | summary, image[FSW + 1] & 0x7F | summary
    image[xstate.XMM0 : xstate.XMM0 + len(run.xmm)] = run.xmm
    _on_host(cpu, run.instruction, ctypes.addressof(ctypes.c_char.from_buffer(run.data)), ctypes.addressof(run.registers))


def _settle(run: Run) -> None:
    """Take over MXCSR's flags and the XMM registers; GuestFault where an SSE exception is unmasked."""
    st, image, i = run.cpu.state, run.cpu.state.fxsave, run.instruction
    if i.mnemonic in (Mnemonic.DPPS, Mnemonic.DPPD):
        after = bytes(image)
        raised = dot_product(run.cpu, i, *run.operands)
        image[:] = after
    else:
        raised = _raised(run.cpu, i, lambda: run.operands)
    flag(run.cpu, raised)
    if raised & unmasked(run.cpu):
        image[:] = as_mmx(run.image) if run.on_x87 else run.image
        raise GuestFault(vectors.XM if st.cr4 & CR4_OSXMMEXCPT else vectors.UD)
    for place in XMM.values():
        getattr(st, place.field)[:] = image[place.offset : place.offset + place.size]


def _store(run: Run) -> None:
    """Write the result to memory, a general register, RFLAGS; GuestFault when memory is not to be had."""
    cpu, st, plan, i, image = run.cpu, run.cpu.state, run.plan, run.instruction, run.cpu.state.fxsave
    failed = run.on_x87 and i.mnemonic not in x87.KEEP_POINTERS and image[FSW] & ~image[FCW] & FLAGS & ~PE
    if failed and run.late:
        run.address = unchecked_address(cpu, SEGMENT_NAME[i.memory_segment], effective_offset(cpu, i))
    if plan is not None and run.stores and not failed:
        if run.late:
            try:
                run.address = _reach(cpu, i, plan, writes=True)
            except GuestFault:
                image[:] = run.image
                raise
        cpu.write_bytes(run.address, bytes(run.data[: plan.size]))
    if plan is not None and run.general is not None and plan.written[run.general]:
        write_register(cpu, i.op_register(run.general), run.registers[0])
    if i.rflags_modified & hosted.STATUS_FLAGS:
        st.set_rflags(st.get_rflags() & ~STATUS | run.registers[1] & STATUS)


def _point(run: Run) -> None:
    """FOP, FIP and FDP, which the host has set to its own, or to 0."""
    cpu, image, i = run.cpu, run.cpu.state.fxsave, run.instruction
    if i.mnemonic in _FORGETTING:
        image[FOP : FDP + 8] = bytes(FDP + 8 - FOP)
    elif i.mnemonic in _LOADING:
        image[FOP : FDP + 8] = b"".join(_places(run))
    else:
        image[FOP : FDP + 8] = run.image[FOP : FDP + 8]
    if run.on_x87 and i.mnemonic not in x87.KEEP_POINTERS and _is_x87(i):
        image[FOP : FIP + 8] = run.image[FOP:FIP] + int(cpu.state.rip).to_bytes(8, "little")
        moves = run.memory is not None and (pending(cpu) or not cpu.model.has("fdp-excptn-only"))
        image[FDP : FDP + 8] = run.address.to_bytes(8, "little") if moves else run.image[FDP : FDP + 8]


def _places(run: Run) -> tuple[bytes, bytes, bytes]:
    """FOP, FIP and FDP out of an environment in memory (SDM vol. 1, figures 8-9 to 8-12): the short one has no FOP."""
    assert run.plan is not None
    data, wide = run.data, run.plan.size in (28, 108)
    at, size = (12, 4) if wide else (6, 2)
    opcode = int.from_bytes(data[18:20], "little") & 0x7FF if wide else 0
    fip, fdp = (bytes(data[place : place + size]).ljust(8, b"\0") for place in (at, at + 2 * size))
    return opcode.to_bytes(2, "little"), fip, fdp


def _show(run: Run) -> None:
    """The guest's pointers in the environment that FNSTENV or FNSAVE stores, selectors 0; the host's FXRSTOR need not have them."""
    assert run.plan is not None
    image, wide = run.image, run.plan.size in (28, 108)
    at, size = (12, 4) if wide else (6, 2)
    opcode = bytes(2) + image[FOP : FOP + 2] if wide else bytes(2)
    end = (0xFFFF0000 if wide else 0).to_bytes(size, "little")  # reserved bits read as ones
    run.data[at : at + 4 * size] = image[FIP : FIP + size] + opcode + image[FDP : FDP + size] + end


def _reach(cpu: GuestCpu, i: Instruction, p: hosted.Plan, writes: bool) -> int:
    """The linear address of the operand in memory; GuestFault where a store would fault, or it is not aligned as it must be.

    AMD's x87 stores come here before they compute, Intel's behind that, and not at all where an unmasked exception means that
    nothing is stored (as measured: docs/vendors.md).
    """
    try:
        if p.aligned(cpu.model.amd):  # then it is no matter of #AC
            address = linear_address(cpu, SEGMENT_NAME[i.memory_segment], effective_offset(cpu, i), p.size, writes)
            if address & 15:
                raise GuestFault(vectors.GP, 0)
        else:
            address = effective_address(cpu, i, p.size, writes)
        if writes:
            cpu.pieces(address, p.size, cpu.rights() | s.ACCESS_WRITE)
    except GuestFault:
        if writes and p.live and not _is_x87(i) and not cpu.model.amd:
            faulted_store(cpu)
        raise
    return address


@handles(Mnemonic.MASKMOVQ)
def masked_move(cpu: GuestCpu, i: Instruction) -> Exit | None:
    """MASKMOVQ; #MF when one is pending. It moves the x87 into MMX state (TOP 0, all valid), on Intel even where it faults."""
    if pending(cpu):
        raise GuestFault(vectors.MF)
    new = as_mmx(bytes(cpu.state.fxsave))
    if not cpu.model.amd:
        cpu.state.fxsave[:] = new
    address = string_address(cpu, i, 0, 8, write=True)
    cpu.pieces(address, 8, cpu.rights() | s.ACCESS_WRITE)
    cpu.state.fxsave[:] = image = new
    data = bytearray(cpu.read_bytes(address, 8))
    first, second = (ST0 + 16 * (r - Register.MM0) for r in (i.op1_register, i.op2_register))
    for n in range(8):
        if image[second + n] & 0x80:
            data[n] = image[first + n]
    cpu.write_bytes(address, bytes(data))
    return None


def _raised(cpu: SoftCore, i: Instruction, operands: Callable[[], tuple[bytes, bytes]]) -> int:
    """The flags of an SSE instruction that has just run masked, as they are under the guest's masks. `operands`: before it ran."""
    wanted, image = unmasked(cpu), cpu.state.fxsave
    raised = int(image[MXCSR]) & FLAGS
    if not i.op_count:
        return raised
    p = hosted.plan(i.code)
    if wanted & UE and not raised & UE and _tiny(i, bytes(image)):
        raised |= UE
    if raised & wanted & BEFORE:
        raised &= BEFORE
    elif raised & wanted and not raised & (OE | UE) & ~wanted and len(p.kinds) == 2:
        if rounding.exact(p.name.split("_")[0], *operands(), bool(cpu.state.guest_mxcsr & DAZ)):
            raised &= ~PE
    return raised


def dot_product(cpu: SoftCore, i: Instruction, first: bytes, second: bytes) -> int:
    """The flags of DPPS and DPPD, which are a multiplication and then sums of neighbours (SDM vol. 2, "Operation"): those of each
    step up to the first that raises. The image in `fxsave` is used up; its MXCSR is that of the masked run."""
    image, size = cpu.state.fxsave, 4 if i.mnemonic in (Mnemonic.DPPS, Mnemonic.VDPPS) else 8
    multiply, add = (
        (Code.MULPS_XMM_XMMM128, Code.ADDPS_XMM_XMMM128) if size == 4 else (Code.MULPD_XMM_XMMM128, Code.ADDPD_XMM_XMMM128)
    )
    spare = (ctypes.c_uint64 * 16)()
    unused, total = ctypes.addressof(spare), 0

    def step(code: Code_, pairs: list[tuple[bytes, bytes]]) -> list[bytes]:
        nonlocal total
        results, raised = [], 0
        for one, two in pairs:
            image[MXCSR] &= ~FLAGS
            both = one.ljust(16, b"\0"), two.ljust(16, b"\0")
            image[xstate.XMM0 : xstate.XMM0 + 32] = both[0] + both[1]
            alone = Instruction.create_reg_reg(code, Register.XMM0, Register.XMM1)
            _on_host(cpu, alone, unused, unused)
            raised |= _raised(cpu, alone, lambda both=both: both)  # type: ignore[misc]
            results.append(bytes(image[xstate.XMM0 : xstate.XMM0 + 16]))
        total |= raised & BEFORE if raised & BEFORE & unmasked(cpu) else raised  # of all lanes
        return results

    def chosen(value: bytes) -> bytes:
        return b"".join(value[at : at + size] if i.immediate8 >> 4 + at // size & 1 else bytes(size) for at in range(0, 16, size))

    def every_other(value: bytes, start: int) -> bytes:
        return b"".join(value[at : at + size] for at in range(start, left * size, 2 * size))

    lanes = range(0, len(first), 16)
    values, left = step(multiply, [(chosen(first[at : at + 16]), chosen(second[at : at + 16])) for at in lanes]), 16 // size
    while left > 1 and not total & unmasked(cpu):
        values = step(add, [(every_other(value, 0), every_other(value, size)) for value in values])
        left //= 2
    return total


def _operands(i: Instruction, registers: bytes, data: bytes) -> tuple[bytes, bytes]:
    """The two vector operands of an instruction before it ran."""
    found = []
    for n in range(2):
        if i.op_kind(n) == OpKind.REGISTER and Register.XMM0 <= i.op_register(n) <= Register.XMM15:
            at = 16 * (i.op_register(n) - Register.XMM0)
            found.append(registers[at : at + 16])
        else:
            found.append(data)
    return found[0], found[1]


def _memory_source(i: Instruction) -> bool:
    """CVTPI2PS and CVTPI2PD with an operand in memory touch no MMX register (SDM vol. 2): no #MF either."""
    return i.mnemonic in (Mnemonic.CVTPI2PS, Mnemonic.CVTPI2PD) and i.op1_kind == OpKind.MEMORY


def _is_x87(i: Instruction) -> bool:
    return i.code in _x87_codes() or i.mnemonic in x87.NOTHING


@cache
def _x87_codes() -> frozenset[int]:
    return frozenset(x87.codes())


def general_operand(i: Instruction) -> int | None:
    """The number of the operand that is a general register."""
    found = (n for n in range(i.op_count) if i.op_kind(n) == OpKind.REGISTER and Register.AL <= i.op_register(n) <= Register.R15)
    return next(found, None)


def renamed(i: Instruction) -> bytes:
    """The instruction for the host: its memory operand is at RSI, its general register RAX."""
    alone = i.copy()
    for n in range(i.op_count):
        if i.op_kind(n) == OpKind.MEMORY:
            alone.memory_base, alone.memory_index, alone.segment_prefix = Register.RSI, Register.NONE, Register.NONE
            alone.memory_displacement = alone.memory_displ_size = 0
    register = general_operand(i)
    if register is not None:
        alone.set_op_register(register, {2: Register.AX, 4: Register.EAX, 8: Register.RAX}[hosted.general_size(i.code, register)])
    encoder = Encoder(64)
    encoder.encode(alone, 0)
    return bytes(encoder.take_buffer())


def _on_host(cpu: SoftCore, i: Instruction, operand: int, registers: int) -> None:
    """Execute the instruction on the image in `fxsave`: its memory operand is at `operand`, RAX and RFLAGS at `registers`."""
    assert not operand & 15, "packed operands are aligned"
    at = cpu.code.scratch(_BEFORE + renamed(i) + _AFTER)
    CALL(at)(ctypes.addressof(cpu.state.fxsave), operand, registers)


def _tiny(i: Instruction, image: bytes) -> bool:
    """Whether a result is denormal: unmasked underflow is raised for exact ones, too (SDM vol. 1, 4.9.1.5)."""
    name = hosted.plan(i.code).name
    if not name.startswith(TINY):
        return False
    at = xstate.XMM0 + 16 * (i.op0_register - Register.XMM0)
    kind = name.split("_")[0][-2:]
    size = 4 if kind[1] == "s" else 8
    return rounding.any_denormal(image[at:], size, 16 if kind[0] == "p" else size)
