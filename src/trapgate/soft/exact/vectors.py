"""Executes AVX's masked moves and gathers element by element, where not all of them can be reached in native code.

Elements that are not asked for are not accessed: no fault, no data breakpoint. A gather that faults keeps what it has got, and its
mask says what is left: on Intel's CPUs made all ones and zeros, on AMD's as it was where it is left; there what lies above the
operand is kept until all is done (beyond the manuals: as measured). Neither checks alignment (SDM vol. 2, VMASKMOV and VGATHERDPS).
"""

from iced_x86 import Instruction, OpKind

from trapgate.isa import state as s
from trapgate.isa.families import avx, hosted
from trapgate.soft.exact.operands import effective_offset, linear_address, offset_bits
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.guest_cpu import GuestCpu
from trapgate.soft.state.instructions import handles
from trapgate.soft.state.registers import SEGMENT_NAME

WHOLE = 32


def get(cpu: GuestCpu, register: int) -> bytearray:
    """All 32 bytes of the YMM register that an XMM or YMM register is part of."""
    number = hosted.number(register)
    return bytearray(bytes(getattr(cpu.state, f"xmm{number}")) + bytes(getattr(cpu.state, f"ymm{number}h")))


def put(cpu: GuestCpu, register: int, value: bytes) -> None:
    """Change such a register; what `value` does not reach becomes 0."""
    number = hosted.number(register)
    value = value.ljust(WHOLE, b"\0")
    getattr(cpu.state, f"xmm{number}")[:], getattr(cpu.state, f"ymm{number}h")[:] = value[:16], value[16:]


def _element(cpu: GuestCpu, i: Instruction, ahead: int, size: int, write: bool = False) -> int:
    """The linear address of an element that lies `ahead` bytes behind the operand's start."""
    offset = effective_offset(cpu, i) + ahead & (1 << offset_bits(i)) - 1
    return linear_address(cpu, SEGMENT_NAME[i.memory_segment], offset, size, write)


@handles(*avx.MASKED)
def masked_move(cpu: GuestCpu, i: Instruction) -> None:
    """VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ: all elements are checked before anything is done."""
    size, mask = avx.MASKED[i.mnemonic], get(cpu, i.op1_register)
    chosen = [at for at in range(0, hosted.vector_bytes(i), size) if mask[at + size - 1] & 0x80]
    if i.op0_kind == OpKind.MEMORY:
        source = get(cpu, i.op2_register)
        places = [(at, _element(cpu, i, at, size, write=True)) for at in chosen]
        if (
            cpu.model.amd
        ):  # #PF tells of the first element that is not there, on Intel's CPUs of the first or last byte (as measured)
            reached = [(address, size) for _, address in places]
        else:
            reached = [(places[0][1], 1), (places[-1][1] + size - 1, 1)] if places else []
        for address, length in reached:
            cpu.pieces(address, length, cpu.rights() | s.ACCESS_WRITE)
        for at, address in places:
            cpu.write_bytes(address, bytes(source[at : at + size]))
        return
    value = bytearray(WHOLE)
    for at in chosen:
        value[at : at + size] = cpu.read_bytes(_element(cpu, i, at, size), size)
    put(cpu, i.op0_register, bytes(value))


@handles(*avx.GATHERS)
def gather(cpu: GuestCpu, i: Instruction) -> None:
    """VPGATHERDD and its like."""
    index_size, size = avx.GATHERS[i.mnemonic]
    count = hosted.vector_bytes(i) // max(index_size, size)
    value, mask, indices = get(cpu, i.op0_register), get(cpu, i.op2_register), get(cpu, i.memory_index)
    length = hosted.vector_bytes(i)
    n, left = 0, [mask[at + size - 1] & 0x80 for at in range(0, length, size)]
    try:
        for n in range(count):
            if left[n]:
                index = int.from_bytes(indices[index_size * n : index_size * (n + 1)], "little", signed=True)
                value[size * n : size * (n + 1)] = cpu.read_bytes(_element(cpu, i, index * i.memory_index_scale, size), size)
                left[n] = 0
                put(cpu, i.op0_register, bytes(value if cpu.model.amd else value[:length]))
    except GuestFault:
        rest = bytes(size * n) + mask[size * n :]
        put(cpu, i.op2_register, rest if cpu.model.amd else b"".join((b"\xff" if one else b"\0") * size for one in left))
        raise
    put(cpu, i.op0_register, bytes(value[: size * count]))
    put(cpu, i.op2_register, b"")
