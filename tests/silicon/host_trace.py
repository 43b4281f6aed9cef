"""The worker's native part that records a trace: what its signal handler does at every single-step trap of a case with TF set.

It writes a record (`trace`) of the interrupted CPU and the lines of the scratch memory that differ from a shadow of it, and lets
the case go on. A case that ends with #DB is told from a trace by TRACE_AT: 0 when nobody wants one.
"""

import struct

from .state import CODE, SCRATCH, SCRATCH_SIZE
from .trace import (
    FLAGS_RECORDED,
    FX_MXCSR,
    FX_ST,
    GPR,
    LINE,
    MOST_STEPS,
    MXCSR,
    RECORD_SIZE,
    RFLAGS,
    RIP,
    ST,
    STORE_SIZE,
    X87,
    X87_BYTES,
)

# In the control page: where the next record goes (0: no tracing), where there is no more room, the same for stores; the number of
# the step, where its instruction lies.
TRACE_AT, TRACE_END, STORE_AT, STORE_END, STEP, LAST_RIP = range(1024, 1024 + 48, 8)
SHADOW = 0x1234_3000_0000
RECORDS, STORES = 0x1235_0000_0000, 0x1236_0000_0000
RECORDS_SIZE, STORES_SIZE = 24 << 20, 8 << 20
MOST_LINES = SCRATCH_SIZE // LINE  # of one step

TF, DB = 0x100, 1
_R8, _RDI, _RSI, _RBP, _RBX, _RDX, _RAX, _RCX, _RSP, _RIP, _RFLAGS, _TRAP = 0, 64, 72, 80, 88, 96, 104, 112, 120, 128, 136, 160
_ORDER = (_RAX, _RCX, _RDX, _RBX, _RSP, _RBP, _RSI, _RDI)  # encoding order, by their places in struct sigcontext


def switch(control: memoryview, on: bool) -> None:
    """Tell the worker, through its control page, that the next cases are traced, or no longer."""
    records = (RECORDS, RECORDS + RECORDS_SIZE - RECORD_SIZE) if on else (0, 0)
    stores = STORES, STORES + STORES_SIZE - MOST_LINES * STORE_SIZE
    struct.pack_into("<4Q", control, TRACE_AT, *records, *stores)


def bounds(slots: memoryview, at: int) -> tuple[slice, slice]:
    """Where the records and the stores of a case lie, by what is at SLOT_TRACE of its slot."""
    first, last, first_store, last_store = struct.unpack_from("<4Q", slots, at)
    return slice(first - RECORDS, last - RECORDS), slice(first_store - STORES, last_store - STORES)


def _line(n: int) -> str:
    return f"movdqu xmm{n}, [rsi + {16 * n}]\nmovdqu xmm{n + 4}, [rdx + {16 * n}]\npcmpeqb xmm{n + 4}, xmm{n}"


def record(frame_gpr: int) -> str:
    """Assembly: falls through to what follows unless the signal is a step of a trace. r12: struct ucontext, r13: control page, r14:
    FXSAVE image, edi: signal. `frame_gpr`: offset of the general registers in r12."""
    lower = "\n".join(f"mov rax, [r8 + {at}]\nmov [rbx + {GPR + 8 * n}], rax" for n, at in enumerate(_ORDER))
    compare = "\n".join(_line(n) for n in range(4))
    keep = "\n".join(f"movdqu [rdx + {16 * n}], xmm{n}\nmovdqu [r9 + {16 + 16 * n}], xmm{n}" for n in range(4))
    return f"""
    lea r8, [r12 + {frame_gpr}]
    cmp qword ptr [r8 + {_TRAP}], {DB}
    jne ordinary
    mov rbx, [r13 + {TRACE_AT}]
    test rbx, rbx
    je ordinary
    mov r9, [r13 + {STORE_AT}]
    cmp qword ptr [r13 + {STEP}], {MOST_STEPS}
    jae ordinary
    cmp rbx, [r13 + {TRACE_END}]
    ja ordinary                     ; no room: the case ends with #DB
    cmp r9, [r13 + {STORE_END}]
    ja ordinary
    {lower}
    lea rsi, [r8 + {_R8}]
    lea rdi, [rbx + {GPR + 64}]
    mov ecx, 8
    rep movsq
    mov r10, [r13 + {LAST_RIP}]     ; PUSHF stores TF: nobody else knows of it
    mov eax, [r10]
    cmp al, 0x9c
    je pushed
    cmp ax, 0x9c66
    jne popped
pushed:
    mov rax, [r8 + {_RSP}]
    and word ptr [rax], {~TF & 0xFFFF}
popped:
    mov rax, [r8 + {_RIP}]
    mov [r13 + {LAST_RIP}], rax
    mov [rbx + {RIP}], rax
    mov rax, [r8 + {_RFLAGS}]
    and eax, {FLAGS_RECORDED}
    mov [rbx + {RFLAGS}], rax
    or qword ptr [r8 + {_RFLAGS}], {TF}   ; POPF may have cleared it
    mov rax, [r14]
    shl rax, {64 - 8 * X87_BYTES}
    shr rax, {64 - 8 * X87_BYTES}
    mov [rbx + {X87}], rax
    mov eax, [r14 + {FX_MXCSR}]
    mov [rbx + {MXCSR}], rax
    lea rsi, [r14 + {FX_ST}]
    lea rdi, [rbx + {ST}]
    mov ecx, {(RECORD_SIZE - ST) // 8}
    rep movsq
    mov esi, {SCRATCH}
    movabs rdx, {SHADOW}
    mov ecx, {SCRATCH_SIZE // LINE}
line:
    {compare}
    pand xmm4, xmm5
    pand xmm6, xmm7
    pand xmm4, xmm6
    pmovmskb eax, xmm4
    cmp eax, 0xffff
    je same
    mov rax, [r13 + {STEP}]
    mov [r9], rax
    lea rax, [rsi - {SCRATCH}]
    mov [r9 + 8], rax
    {keep}
    add r9, {STORE_SIZE}
same:
    add rsi, {LINE}
    add rdx, {LINE}
    dec ecx
    jne line
    mov [r13 + {STORE_AT}], r9
    inc qword ptr [r13 + {STEP}]
    add rbx, {RECORD_SIZE}
    mov [r13 + {TRACE_AT}], rbx
    ret
ordinary:
"""


def begin(slot_trace: int) -> str:
    """Assembly: a case begins whose slot is r15; note where its trace begins."""
    return f"""
    mov rax, [r13 + {TRACE_AT}]
    mov [r15 + {slot_trace}], rax
    test rax, rax
    je untraced
    mov rax, [r13 + {STORE_AT}]
    mov [r15 + {slot_trace + 16}], rax
    mov qword ptr [r13 + {STEP}], 0
    mov eax, {CODE}
    mov [r13 + {LAST_RIP}], rax
    mov esi, {SCRATCH}
    movabs rdi, {SHADOW}
    mov ecx, {SCRATCH_SIZE // 8}
    rep movsq
untraced:
"""


def end(slot_trace: int) -> str:
    """Assembly: the case in slot r15 has ended; note where its trace ends."""
    return f"""
    mov rax, [r13 + {TRACE_AT}]
    mov [r15 + {slot_trace + 8}], rax
    mov rax, [r13 + {STORE_AT}]
    mov [r15 + {slot_trace + 24}], rax
"""
