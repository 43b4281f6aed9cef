"""The worker's native part: one signal handler that ends a case and starts the next, both through the signal frame.

The kernel's signal frame (struct ucontext, then the XSAVE image) is a complete picture of the interrupted CPU, and sigreturn loads
all of it again. So the handler needs no trampoline: it copies the frame into the finished case's slot, the next case's slot into
the frame, and returns; a case that is traced goes on behind each step (`host_trace`). The first case is entered by an INT3 of the
driver, whose frame is kept and restored behind the last case.
"""

import ctypes

from . import host_trace
from .assemble import assemble
from .processor import host_processor
from .state import (
    AC_FLAG,
    AVX_IN_USE,
    CODE,
    CODE_PAGE,
    CODE_SIZE,
    FX_SIZE,
    SCRATCH,
    SCRATCH_SIZE,
    SLOT_FX,
    SLOT_GPR,
    SLOT_IN_USE,
    SLOT_MEMORY,
    SLOT_SIGNAL,
    SLOT_SIZE,
    SLOT_TRACE,
    SLOT_UPPER,
    UPPER_SIZE,
)

# Far from everything that a 32-bit or slightly wrong address of a case can reach.
NATIVE = 0x1234_0000_0000  # handler and driver
CONTROL = 0x1234_1000_0000  # the shared page: index of the running case, number of cases, then the driver's frame
CODE_ALIAS = 0x1234_2000_0000  # writable view of CODE_PAGE
SLOTS = 0x1234_4000_0000
IDLE = (1 << 64) - 1  # value of the index before the first case
FINISHED = IDLE - 1  # and behind the last one

USER_CS = 0x33  # Linux's selector of 64-bit code (asm/segment.h)
USER_SS = 0x2B
FRAME_GPR, FRAME_FPSTATE = 40, 224  # in struct ucontext: uc_mcontext, and its pointer to the XSAVE image (asm/sigcontext.h)
DRIVER_GPR, DRIVER_FX = 64, 256
DRIVER_FS, DRIVER_GS = 896, 904  # the segment bases of the worker's own code
AT_HWCAP2, HWCAP2_FSGSBASE = 26, 2  # getauxval(3), asm/hwcap2.h


def segment_bases() -> bool:
    """Whether user code may set the bases of FS and GS: a processor that can, and Linux from 5.9 on."""
    libc = ctypes.CDLL(None)
    libc.getauxval.restype, libc.getauxval.argtypes = ctypes.c_ulong, (ctypes.c_ulong,)
    return bool(libc.getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE)


KEEP_BASES = f"""
    rdfsbase rax
    movabs [{CONTROL + DRIVER_FS}], rax
    rdgsbase rax
    movabs [{CONTROL + DRIVER_GS}], rax
"""
GIVE_BASES_BACK = f"""
    xor eax, eax                    ; the selectors are those of a fresh process
    mov fs, eax
    mov gs, eax
    mov rax, [r13 + {DRIVER_FS}]
    wrfsbase rax
    mov rax, [r13 + {DRIVER_GS}]
    wrgsbase rax
"""
HANDLER = f"""
    ; edi = signal, rdx = struct ucontext; every register may be used: sigreturn loads them all
    cld
    pushfq                          ; Linux leaves AC as the case had it, and the copies below are not all aligned
    and dword ptr [rsp], {~AC_FLAG & 0xFFFFFFFF}
    popfq
    mov r12, rdx
    movabs r13, {CONTROL}
    mov r14, [r12 + {FRAME_FPSTATE}]
    {host_trace.record(FRAME_GPR)}
    mov rax, [r13]
    cmp rax, -1
    je start
    imul r15, rax, {SLOT_SIZE}
    movabs rbx, {SLOTS}
    add r15, rbx
    mov [r15 + {SLOT_SIGNAL}], rdi
    {host_trace.end(SLOT_TRACE)}
    lea rsi, [r12 + {FRAME_GPR}]
    lea rdi, [r15 + {SLOT_GPR}]
    mov ecx, 23
    rep movsq
    mov rsi, r14
    lea rdi, [r15 + {SLOT_FX}]
    mov ecx, {FX_SIZE // 8}
    rep movsq
    SAVE_UPPER
    mov esi, {SCRATCH}
    lea rdi, [r15 + {SLOT_MEMORY}]
    mov ecx, {SCRATCH_SIZE // 8}
    rep movsq
    inc qword ptr [r13]
    jmp next
start:
    lea rsi, [r12 + {FRAME_GPR}]
    lea rdi, [r13 + {DRIVER_GPR}]
    mov ecx, 18
    rep movsq
    mov rsi, r14
    lea rdi, [r13 + {DRIVER_FX}]
    mov ecx, {FX_SIZE // 8}
    rep movsq
    mov rax, [r13 + 16]
    mov [r13], rax
next:
    mov rax, [r13]
    cmp rax, [r13 + 8]
    jae done
    imul r15, rax, {SLOT_SIZE}
    movabs rbx, {SLOTS}
    add r15, rbx
    mov rsi, r15
    movabs rdi, {CODE_ALIAS + CODE - CODE_PAGE}
    mov ecx, {CODE_SIZE // 8}
    rep movsq
    lea rsi, [r15 + {SLOT_MEMORY}]
    mov edi, {SCRATCH}
    mov ecx, {SCRATCH_SIZE // 8}
    rep movsq
    {host_trace.begin(SLOT_TRACE)}
    lea rsi, [r15 + {SLOT_GPR}]
    lea rbx, [r15 + {SLOT_FX}]
    jmp load
done:
    GIVE_BASES_BACK
    mov qword ptr [r13], -2
    lea rsi, [r13 + {DRIVER_GPR}]
    lea rbx, [r13 + {DRIVER_FX}]
load:
    lea rdi, [r12 + {FRAME_GPR}]
    mov ecx, 18
    rep movsq
    mov word ptr [rdi], {USER_CS}   ; behind RFLAGS: the case may have gone to 32-bit or 16-bit code
    mov word ptr [rdi + 6], {USER_SS}
    mov rsi, rbx
    mov rdi, r14
    mov ecx, {FX_SIZE // 8}
    rep movsq
    or qword ptr [r14 + 512], 3     ; XSTATE_BV: x87 and SSE are not in their initial state
    LOAD_UPPER
    ret
"""
SAVE_UPPER = f"""
    mov rax, [r14 + 512]
    mov [r15 + {SLOT_IN_USE}], rax
    lea rsi, [r14 + 576]
    lea rdi, [r15 + {SLOT_UPPER}]
    mov ecx, {UPPER_SIZE // 8}
    rep movsq
"""
LOAD_UPPER = f"""
    or qword ptr [r14 + 512], {AVX_IN_USE}
    lea rsi, [rbx + {SLOT_UPPER - SLOT_FX}]
    lea rdi, [r14 + 576]
    mov ecx, {UPPER_SIZE // 8}
    rep movsq
"""


def native_code() -> tuple[bytes, int]:
    """The bytes (at most a page) to map at NATIVE and the driver's offset in them; the handler is at 0."""
    keep, give_back = (KEEP_BASES, GIVE_BASES_BACK) if segment_bases() else ("", "")
    save, load = (SAVE_UPPER, LOAD_UPPER) if "avx" in host_processor().features else ("", "")
    text = HANDLER.replace("GIVE_BASES_BACK", give_back).replace("SAVE_UPPER", save).replace("LOAD_UPPER", load)
    handler = assemble(text).ljust(2048, b"\xcc")
    return handler + assemble(keep + "int3\nret"), len(handler)
