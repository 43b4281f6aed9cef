"""Executes floating-point instructions under unmasked exceptions, one at a time, from Python.

Translated code runs with every exception masked (`isa.families.sse`, `isa.families.x87`). What the guest has unmasked is kept
beside: `mxcsr_unmasked` (mask bits that MXCSR has clear; `guest_mxcsr` has them set), and the x87 control word in `fxsave`. With
a bit unmasked, an instruction that may raise comes here. It runs on the host's FPU between FXRSTOR and FXSAVE; then its
exceptions are looked at.

x87 runs under the guest's own control word: the host would take #MF only at the next waiting instruction, which never comes, so
the silicon gives the unmasked response itself. ES then says that the guest's next waiting instruction owes #MF (SDM vol. 1, 8.7).
SSE runs masked: what would have been raised is in MXCSR's flags, and the destination is thrown away (SDM vol. 1, 11.5). Not told
exactly by that: PE beside an unmasked overflow or underflow, for which see `rounding`, and which of the steps of DPPS and DPPD
raised, which are therefore taken one by one.
"""

import ctypes
from collections.abc import Callable
from functools import cache

from iced_x86 import Code, Code_, Encoder, Instruction, Mnemonic, OpKind, Register

from trapgate.arch import vectors
from trapgate.arch.control import CR4_OSXMMEXCPT
from trapgate.exits import Exit
from trapgate.isa import state as s
from trapgate.isa.families import hosted, sse, x87
from trapgate.soft.exact.mmx import as_mmx, faulted_store
from trapgate.soft.exact.operands import effective_address, read_register, string_address, write_register
from trapgate.soft.state.core import SoftCore
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.guest_cpu import GuestCpu
from trapgate.soft.state.instructions import handles, handles_the_rest
from trapgate.soft.state.view import STATUS

IE, DE, ZE, OE, UE, PE = (1 << n for n in range(6))
BEFORE = IE | DE | ZE  # found before the operation is carried out
MASKS, FTZ, DAZ, FLAGS = 0x1F80, 0x8000, 0x40, 0x3F
FCW, FSW, MXCSR, ST0, XMM = 0, 2, 24, 32, 160  # offsets in the FXSAVE image (SDM vol. 1, table 10-2)
FOP, FIP, FDP = 6, 8, 16
TINY = ("add", "sub", "mul", "div", "cvtpd2ps", "cvtsd2ss", "dp", "hadd", "hsub")  # may give a denormal exactly

# stmxcsr [rdx+16]; push [rdx+8]; popfq; mov rax, [rdx]; fxrstor64 [rdi]
_BEFORE = bytes.fromhex("0fae5a10 ff7208 9d 488b02 480fae0f")
# fxsave64 [rdi]; fninit; mov [rdx], rax; pushfq; pop [rdx+8]; ldmxcsr [rdx+16]; ret
_AFTER = bytes.fromhex("480fae07 dbe3 488902 9c 8f4208 0fae5210 c3")
_CALL = ctypes.PYFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)


def get_mxcsr(cpu: SoftCore) -> int:
    """MXCSR as the guest sees it."""
    return int(cpu.state.guest_mxcsr & ~cpu.state.mxcsr_unmasked)


def set_mxcsr(cpu: SoftCore, value: int) -> None:
    """Change MXCSR (16 bits; the caller has checked the reserved ones); the mode follows."""
    cpu.state.guest_mxcsr, cpu.state.mxcsr_unmasked = value | MASKS, ~value & MASKS
    cpu.update_mode()


def pending(cpu: SoftCore) -> bool:
    """Whether the next waiting x87 instruction owes #MF."""
    image = cpu.state.fxsave
    return bool(image[FSW] & ~image[FCW] & FLAGS)


@handles_the_rest
def execute(cpu: GuestCpu, i: Instruction) -> Exit | None:
    """One x87, MMX or SSE instruction. GuestFault: #MF, #XM (#UD without CR4.OSXMMEXCPT), and those of its memory operand."""
    st = cpu.state
    nothing = i.mnemonic in x87.NOTHING
    p = None if nothing or not i.op_count else hosted.plan(i.code)
    on_x87 = p is None or (p.live and not _memory_source(i)) or _is_x87(i)
    if on_x87 and i.mnemonic not in x87.NO_WAIT and pending(cpu):
        raise GuestFault(vectors.MF)
    if nothing:
        return None
    memory = p.memory if p is not None and p.memory is not None and i.op_kind(p.memory) == OpKind.MEMORY else None
    address, data = 0, bytearray(128)
    writes = late = False
    if p is not None and memory is not None:
        writes = p.written[memory]
        late = writes and not cpu.model.amd and _is_x87(i) and i.mnemonic not in x87.KEEP_POINTERS
        if not late:
            address = _reach(cpu, i, p, writes)
        if not writes:
            data[: p.size] = cpu.read_bytes(address, p.size)
    before = bytes(st.fxsave)
    host_mxcsr = get_mxcsr(cpu) | MASKS
    if st.mxcsr_unmasked & UE << 7:
        host_mxcsr &= ~FTZ  # which only holds while underflow is masked
    image = st.fxsave
    image[MXCSR : MXCSR + 4] = (host_mxcsr & ~FLAGS).to_bytes(4, "little")
    summary = 0x80 * pending(cpu)  # ES and B follow from the rest, whatever a guest wrote there
    image[FSW], image[FSW + 1] = image[FSW] & 0x7F | summary, image[FSW + 1] & 0x7F | summary
    before_xmm = b"".join(bytes(getattr(st, f"xmm{n}")) for n in range(16))
    image[XMM : XMM + 256] = before_xmm
    general = _general(i)
    registers = (ctypes.c_uint64 * 3)(0, st.get_rflags() & STATUS | 0x202)
    if general is not None:
        registers[0] = read_register(cpu, i.op_register(general))
    _run(cpu, i, ctypes.addressof(ctypes.c_char.from_buffer(data)), ctypes.addressof(registers))
    if i.mnemonic in (Mnemonic.DPPS, Mnemonic.DPPD):
        after = bytes(image)
        raised = _dot_product(cpu, i, *_operands(i, before_xmm, bytes(data[:16])))
        image[:] = after
    else:
        raised = _raised(cpu, i, lambda: _operands(i, before_xmm, bytes(data[:16])))
    if raised & st.mxcsr_unmasked >> 7:
        st.guest_mxcsr |= raised
        image[:] = as_mmx(before) if on_x87 else before
        raise GuestFault(vectors.XM if st.cr4 & CR4_OSXMMEXCPT else vectors.UD)
    st.guest_mxcsr |= raised
    for n in range(16):
        getattr(st, f"xmm{n}")[:] = image[XMM + 16 * n : XMM + 16 * n + 16]
    failed = on_x87 and i.mnemonic not in x87.KEEP_POINTERS and image[FSW] & ~image[FCW] & FLAGS & ~PE
    if p is not None and writes and not failed:
        try:
            address = _reach(cpu, i, p, writes) if late else address
        except GuestFault:
            image[:] = before
            raise
        cpu.write_bytes(address, bytes(data[: p.size]))
    if p is not None and general is not None and p.written[general]:
        write_register(cpu, i.op_register(general), registers[0])
    if i.rflags_modified & hosted.STATUS_FLAGS:
        st.set_rflags(st.get_rflags() & ~STATUS | registers[1] & STATUS)
    if on_x87:
        if i.mnemonic not in x87.KEEP_POINTERS and _is_x87(i):
            image[FOP : FIP + 8] = before[FOP:FIP] + int(st.rip).to_bytes(8, "little")
            moves = memory is not None and (pending(cpu) or not cpu.model.has("fdp-excptn-only"))
            image[FDP : FDP + 8] = address.to_bytes(8, "little") if moves else before[FDP : FDP + 8]
    return None


def _reach(cpu: GuestCpu, i: Instruction, p: hosted.Plan, writes: bool) -> int:
    """The linear address of the operand in memory; GuestFault where a store would fault, or it is not aligned as it must be.

    AMD's x87 stores come here before they compute, Intel's behind that, and not at all where an unmasked exception means that
    nothing is stored (as measured: docs/vendors.md).
    """
    try:
        address = effective_address(cpu, i, p.size, writes)
        if p.aligned(cpu.model.amd) and address & 15:
            raise GuestFault(vectors.GP, 0)
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


@handles(Mnemonic.LDMXCSR)
def load_mxcsr(cpu: GuestCpu, i: Instruction) -> Exit | None:
    """LDMXCSR where an exception is or was unmasked; #GP(0) for reserved bits."""
    value = cpu.read(effective_address(cpu, i, 4), 4)
    if value & sse.RESERVED:
        raise GuestFault(vectors.GP, 0)
    set_mxcsr(cpu, value)
    return None


def _raised(cpu: SoftCore, i: Instruction, operands: Callable[[], tuple[bytes, bytes]]) -> int:
    """The flags of an SSE instruction that has just run masked, as they are under the guest's masks. `operands`: before it ran."""
    unmasked, image = cpu.state.mxcsr_unmasked >> 7, cpu.state.fxsave
    raised = int(image[MXCSR]) & FLAGS
    if not i.op_count:
        return raised
    p = hosted.plan(i.code)
    if unmasked & UE and not raised & UE and _tiny(i, bytes(image)):
        raised |= UE
    if raised & unmasked & BEFORE:
        raised &= BEFORE
    elif raised & unmasked and not raised & (OE | UE) & ~unmasked and len(p.kinds) == 2:
        from trapgate.soft.exact import rounding  # hardly any guest comes here

        if rounding.exact(p.name.split("_")[0], *operands(), bool(cpu.state.guest_mxcsr & DAZ)):
            raised &= ~PE
    return raised


def _dot_product(cpu: SoftCore, i: Instruction, first: bytes, second: bytes) -> int:
    """The flags of DPPS and DPPD, which are a multiplication and then sums of neighbours (SDM vol. 2, "Operation"): those of each
    step up to the first that raises. The image in `fxsave` is used up; its MXCSR is that of the masked run."""
    image, size = cpu.state.fxsave, 4 if i.mnemonic == Mnemonic.DPPS else 8
    multiply, add = (
        (Code.MULPS_XMM_XMMM128, Code.ADDPS_XMM_XMMM128) if size == 4 else (Code.MULPD_XMM_XMMM128, Code.ADDPD_XMM_XMMM128)
    )
    spare = (ctypes.c_uint64 * 16)()
    unused, total = ctypes.addressof(spare), 0

    def step(code: Code_, one: bytes, two: bytes) -> bytes:
        nonlocal total
        image[MXCSR] &= ~FLAGS
        one, two = one.ljust(16, b"\0"), two.ljust(16, b"\0")
        image[XMM : XMM + 32] = one + two
        alone = Instruction.create_reg_reg(code, Register.XMM0, Register.XMM1)
        _run(cpu, alone, unused, unused)
        total |= _raised(cpu, alone, lambda: (one, two))
        return bytes(image[XMM : XMM + 16])

    chosen = range(0, 16, size)
    lanes = [
        b"".join(value[at : at + size] if i.immediate8 >> 4 + at // size & 1 else bytes(size) for at in chosen)
        for value in (first, second)
    ]
    values, left = step(multiply, *lanes), 16 // size
    while left > 1 and not total & cpu.state.mxcsr_unmasked >> 7:
        even, odd = (b"".join(values[at : at + size] for at in range(start, left * size, 2 * size)) for start in (0, size))
        values, left = step(add, even, odd), left // 2
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


def _general(i: Instruction) -> int | None:
    """The number of the operand that is a general register."""
    found = (n for n in range(i.op_count) if i.op_kind(n) == OpKind.REGISTER and Register.AL <= i.op_register(n) <= Register.R15)
    return next(found, None)


def _run(cpu: SoftCore, i: Instruction, operand: int, registers: int) -> None:
    """Execute the instruction on the image in `fxsave`: its memory operand is at `operand`, RAX and RFLAGS at `registers`."""
    alone = i.copy()
    for n in range(i.op_count):
        if i.op_kind(n) == OpKind.MEMORY:
            alone.memory_base, alone.memory_index, alone.segment_prefix = Register.RSI, Register.NONE, Register.NONE
            alone.memory_displacement = alone.memory_displ_size = 0
    general = _general(i)
    if general is not None:
        size = hosted.general_size(i.code, general)
        alone.set_op_register(general, {2: Register.AX, 4: Register.EAX, 8: Register.RAX}[size])
    encoder = Encoder(64)
    encoder.encode(alone, 0)
    assert not operand & 15, "packed operands are aligned"
    at = cpu.code.scratch(_BEFORE + encoder.take_buffer() + _AFTER)
    _CALL(at)(ctypes.addressof(cpu.state.fxsave), operand, registers)


def _tiny(i: Instruction, image: bytes) -> bool:
    """Whether a result is denormal: unmasked underflow is raised for exact ones, too (SDM vol. 1, 4.9.1.5)."""
    name = hosted.plan(i.code).name
    if not name.startswith(TINY):
        return False
    at = XMM + 16 * (i.op0_register - Register.XMM0)
    kind = name.split("_")[0][-2:]
    size = 4 if kind[1] == "s" else 8
    for place in range(at, at + (16 if kind[0] == "p" else size), size):
        bits = int.from_bytes(image[place : place + size], "little") & (1 << 8 * size - 1) - 1
        if bits and not bits >> (23 if size == 4 else 52):
            return True
    return False
