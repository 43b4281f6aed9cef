"""States for SSE, MMX and x87 forms: what `inputs` makes, with interesting XMM, MXCSR and x87 contents and memory operands."""

import random
import struct

from iced_x86 import OpKind, Register, RegisterExt

from . import operands
from .effective import address_of
from .forms import Form, access_bytes
from .inputs import make_state
from .state import FX_SIZE, RDI, SCRATCH, SCRATCH_SIZE, State
from .undefined import full_register

EXCEPTIONS = 0x3F  # IE DE ZE OE UE PE, in FSW, and in FCW as masks; in MXCSR the masks stand 7 bits higher


def _mxcsr(rng: random.Random) -> int:
    """Any rounding, sometimes DAZ and FTZ, sticky flags at random, exceptions mostly masked (SDM vol. 1, 10.2.3)."""
    masks = EXCEPTIONS if rng.random() < 0.85 else rng.getrandbits(6)
    flushing = rng.choice((0, 0, 0, 0x40, 0x8000, 0x8040))
    return masks << 7 | rng.getrandbits(2) << 13 | flushing | (rng.getrandbits(6) if rng.random() < 0.3 else 0)


def xmm(rng: random.Random) -> bytes:
    """XMM0-XMM15."""
    return b"".join(operands.vector(rng).to_bytes(16, "little") for _ in range(16))


def image(control: int, status: int, tags: int, mxcsr: int, stack: bytes, xmm: bytes) -> bytes:
    """The FXSAVE image (SDM vol. 1, table 10-2)."""
    head = struct.pack("<HHBBHQQII", control, status, tags, 0, 0, 0, 0, mxcsr, 0x2FFFF)
    return (head + stack + xmm).ljust(FX_SIZE, b"\0")


def x87_stack(rng: random.Random) -> bytes:
    """ST0-ST7 as the FXSAVE image has them."""
    return b"".join(operands.floating(rng, 80).to_bytes(10, "little") + bytes(6) for _ in range(8))


def _patch(form: Form, state: State, value: int) -> bytes:
    """The scratch memory with a value in the memory operand, when that lies inside."""
    instruction = form.instruction
    size = access_bytes(instruction)
    if not any(instruction.op_kind(n) == OpKind.MEMORY for n in range(instruction.op_count)):
        return state.memory
    at = address_of(form, state) - SCRATCH
    if at < 0 or at + size > SCRATCH_SIZE:
        return state.memory
    return state.memory[:at] + (value & (1 << 8 * size) - 1).to_bytes(size, "little") + state.memory[at + size :]


def make_sse_state(form: Form, rng: random.Random) -> State:
    """For SSE and MMX: vectors in XMM, MM and memory, any MXCSR, an x87 stack in any state (MMX instructions reset its tags)."""
    state = make_state(form, rng)
    size = access_bytes(form.instruction)
    value = operands.vector(rng)
    if size == 32:
        value |= operands.vector(rng) << 128
    if size in (4, 8) and rng.random() < 0.6:
        value = operands.floating(rng, 8 * size)
    if form.mnemonic.endswith("ldmxcsr"):
        value = _mxcsr(rng) | (0x10000 if rng.random() < 0.1 else 0)  # a reserved bit: #GP
    if form.mnemonic in ("maskmovdqu", "maskmovq", "vmaskmovdqu"):
        gpr = list(state.gpr)
        gpr[RDI] = SCRATCH + 0x1000 + rng.randrange(-64, 64)
        state = state._replace(gpr=tuple(gpr))
    top = rng.randrange(8)
    fx = image(0x37F, top << 11, rng.getrandbits(8), _mxcsr(rng), x87_stack(rng), xmm(rng))
    return state._replace(fx=fx, memory=_patch(form, state, value))


def make_avx_state(form: Form, rng: random.Random) -> State:
    """As for SSE, with upper halves of YMM registers. Elements of a gather lie around the middle of the scratch memory, or not."""
    state = make_sse_state(form, rng)._replace(upper=xmm(rng))
    index = form.instruction.memory_index
    return _aim_elements(form, state, rng) if RegisterExt.is_vector_register(index) else state


def _aim_elements(form: Form, state: State, rng: random.Random) -> State:
    instruction = form.instruction
    gpr, low, high = list(state.gpr), bytearray(state.fx), bytearray(state.upper)
    base = full_register(instruction.memory_base) if instruction.memory_base else None
    middle = SCRATCH + 0x1000
    if base is not None:
        gpr[base] = middle - instruction.memory_displacement + rng.randrange(-0x80, 0x80) & (1 << 64) - 1
    number = instruction.memory_index - (Register.XMM0 if instruction.memory_index < Register.YMM0 else Register.YMM0)
    wide = "q" in form.mnemonic.split("gather")[1][:1]
    reach = 0xF00 // instruction.memory_index_scale
    far = rng.random() < 0.2
    for n in range(4 if wide else 8):
        place = (
            rng.randrange(-reach, reach)
            if not far or rng.random() < 0.7
            else rng.choice((reach * 2, -reach * 2, 1 << 40, -1 << 20))
        )
        size = 8 if wide else 4
        element = (place & (1 << 8 * size) - 1).to_bytes(size, "little")
        image, at = (low, 160) if n * size < 16 else (high, -16)
        image[at + 16 * number + n * size : at + 16 * number + (n + 1) * size] = element
    return state._replace(gpr=tuple(gpr), fx=bytes(low), upper=bytes(high))


def make_x87_state(form: Form, rng: random.Random) -> State:
    """For x87: stacks full, partly empty and empty, every precision and rounding, exceptions mostly masked; numbers, edges and
    noise."""
    state = make_state(form, rng)
    control = 0x40 | rng.choice((0x300, 0x300, 0x200, 0)) | rng.getrandbits(2) << 10
    control |= EXCEPTIONS if rng.random() < 0.85 else rng.getrandbits(6)
    sticky = rng.getrandbits(6) & control if rng.random() < 0.3 else 0  # only masked ones: nothing is pending
    top = rng.randrange(8)
    status = top << 11 | rng.getrandbits(3) << 8 | rng.getrandbits(1) << 14 | sticky
    room = 0xFF & ~(1 << (top - 1) % 8)  # the abridged tags count physical registers: a push finds a place
    tags = rng.choice((0xFF, 0xFF, 0xFF, room, room, room, rng.getrandbits(8), 0))
    size = 8 * access_bytes(form.instruction)
    value = operands.floating(rng, size) if size in (32, 64, 80) and rng.random() < 0.7 else operands.integer(rng, size or 16)
    if form.mnemonic == "fbld":
        value = int("".join(rng.choice("0123456789") for _ in range(18)), 16) | rng.getrandbits(1) << 79
    if form.mnemonic == "fldcw":
        value = 0x40 | EXCEPTIONS | rng.getrandbits(4) << 8
    fx = image(control, status, tags, 0x1F80, x87_stack(rng), xmm(rng))
    return state._replace(fx=fx, memory=_patch(form, state, value))
