"""The guest in which a software CPU runs cases: page tables, descriptor tables and a tiny kernel, as one image of physical memory.

It is the host worker's signal handler over again: every exception of the case (CPL 3) enters the kernel, which stores the whole
state in the case's slot, loads the next one and returns with IRETQ. Scratch and code lie at the same linear addresses as on the
host with the same rights; the kernel itself lies in the upper half, supervisor only.
"""

import struct

from .assemble import assemble
from .state import (
    AVX_IN_USE,
    CODE,
    CODE_PAGE,
    CODE_SIZE,
    INT3,
    LDT,
    SCRATCH,
    SCRATCH_SIZE,
    SLOT_FX,
    SLOT_GPR,
    SLOT_MEMORY,
    SLOT_SIZE,
)

PAGE = 4096
UPPER = 0xFFFF_8000_0000_0000  # linear address of physical 0, supervisor only
PML4, PDPT, PD, PT_SCRATCH, PT_CODE, PDPT_UPPER, PD_UPPER = (n * PAGE for n in range(1, 8))
GDT, LDT_TABLE, TSS, IDT, KERNEL, CONTROL, STACK_TOP = 0x8000, 0x8400, 0x8800, 0x9000, 0xA000, 0xB000, 0xE000
SCRATCH_PHYSICAL, CODE_PHYSICAL = 0x2_0000, 0x2_4000
SLOTS = 0x10_0000

# The control page: quadwords.
GO, NEXT_SLOT, CASES_LEFT, DONE, WITH_FX = range(0, 40, 8)
WITH_UPPER = 2  # in WITH_FX: the upper halves of YMM registers, too; CR4.OSXSAVE is set and XCR0 has AVX
DONE_PORT = 0x80  # written when a batch is finished

# Selectors; those of user mode are the ones that Linux has (asm/segment.h), so that a case may name them.
KERNEL_CS, KERNEL_SS, USER_CS32, USER_SS, USER_CS, TR, LDTR, GDT_LIMIT = 0x8, 0x10, 0x23, 0x2B, 0x33, 0x40, 0x50, 0x5F
CR0 = 0x8005_0033  # PG AM WP NE ET MP PE, as Linux has it
CR4 = 0x10620  # PAE OSFXSR OSXMMEXCPT FSGSBASE
EFER = 0xD00  # LME LMA NXE
PRESENT, WRITABLE, USER, LARGE, NO_EXECUTE = 1, 2, 4, 0x80, 1 << 63
_ACCESSED_DIRTY = 0x60

WITH_ERROR_CODE = frozenset((8, 10, 11, 12, 13, 14, 17, 21, 29, 30))  # SDM vol. 3, table 6-1
ENTRY = 32 * 16  # offset of the kernel's first instruction, behind 32 exception entries of 16 bytes

# Order of the registers in a slot: see `state`.
_SAVED = ("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rdi", "rsi", "rbp", "rbx", "rdx", "rax", "rcx")


def _entries() -> str:
    lines = []
    for vector in range(32):
        lines += [".balign 16", "" if vector in WITH_ERROR_CODE else "push 0", f"push {vector}", "jmp save"]
    return "\n".join([*lines, ".balign 16"])


def _kernel_text() -> str:
    gpr = {
        name: SLOT_GPR + 8 * n
        for n, name in enumerate((*_SAVED, "rsp", "rip", "rflags", "selectors", "error", "vector", "mask", "cr2"))
    }
    save = "\n".join(f"mov [r15 + {gpr[name]}], {name}" for name in _SAVED if name != "r15")
    load = "\n".join(f"mov {name}, [r15 + {gpr[name]}]" for name in _SAVED if name != "r15")
    frame = {"r15": 0, "vector": 8, "error": 16, "rip": 24, "rflags": 40, "rsp": 48}
    from_frame = "\n".join(f"mov rax, [rsp + {at}]\nmov [r15 + {gpr[name]}], rax" for name, at in frame.items())
    return f"""
    {_entries()}
entry:
    movabs rsp, {UPPER + STACK_TOP}
    movabs r13, {UPPER + CONTROL}
    mov eax, {LDTR}
    lldt ax
    jmp look
wait:
    pause
look:
    cmp qword ptr [r13 + {GO}], 0
    je wait
    mov qword ptr [r13 + {GO}], 0
    jmp next
save:
    push r15
    cld                             ; the case may have left DF set
    movabs r15, {UPPER + CONTROL + NEXT_SLOT}
    mov r15, [r15]
    {save}
    {from_frame}
    mov rax, cr2
    mov [r15 + {gpr["cr2"]}], rax
    movabs r13, {UPPER + CONTROL}
    cmp qword ptr [r13 + {WITH_FX}], 0
    je save_memory
    fxsave64 [r15 + {SLOT_FX}]
    test qword ptr [r13 + {WITH_FX}], {WITH_UPPER}
    jz save_memory
    mov eax, {AVX_IN_USE}
    xor edx, edx
    xsave64 [r15 + {SLOT_FX}]
save_memory:
    movabs rsi, {UPPER + SCRATCH_PHYSICAL}
    lea rdi, [r15 + {SLOT_MEMORY}]
    mov ecx, {SCRATCH_SIZE // 8}
    rep movsq
    movabs rsp, {UPPER + STACK_TOP}
    add qword ptr [r13 + {NEXT_SLOT}], {SLOT_SIZE}
    dec qword ptr [r13 + {CASES_LEFT}]
    jnz next
    mov qword ptr [r13 + {DONE}], 1
    out {DONE_PORT}, al
    jmp look
next:
    mov r15, [r13 + {NEXT_SLOT}]
    mov rsi, r15                    ; the code is copied only when it changed, for the sake of translations
    movabs rdi, {UPPER + CODE_PHYSICAL + CODE - CODE_PAGE}
    mov ecx, {CODE_SIZE // 8}
    repe cmpsq
    je load_memory
    mov rsi, r15
    movabs rdi, {UPPER + CODE_PHYSICAL + CODE - CODE_PAGE}
    mov ecx, {CODE_SIZE // 8}
    rep movsq
load_memory:
    lea rsi, [r15 + {SLOT_MEMORY}]
    movabs rdi, {UPPER + SCRATCH_PHYSICAL}
    mov ecx, {SCRATCH_SIZE // 8}
    rep movsq
    cmp qword ptr [r13 + {WITH_FX}], 0
    je leave
    fxrstor64 [r15 + {SLOT_FX}]
    test qword ptr [r13 + {WITH_FX}], {WITH_UPPER}
    jz leave
    mov eax, {AVX_IN_USE}
    xor edx, edx
    xrstor64 [r15 + {SLOT_FX}]
leave:
    push {USER_SS}
    push qword ptr [r15 + {gpr["rsp"]}]
    push qword ptr [r15 + {gpr["rflags"]}]
    push {USER_CS}
    push qword ptr [r15 + {gpr["rip"]}]
    {load}
    mov r15, [r15 + {gpr["r15"]}]
    iretq
"""


def _table(*entries: tuple[int, int]) -> bytes:
    """A page table with these (index, entry) pairs."""
    page = bytearray(PAGE)
    for index, entry in entries:
        struct.pack_into("<Q", page, 8 * index, entry | _ACCESSED_DIRTY)
    return bytes(page)


def _descriptor_tables() -> list[tuple[int, bytes]]:
    """GDT, LDT, TSS and IDT (SDM vol. 3, 3.4.5, 8.2.3, 6.14.1)."""
    tss = UPPER + TSS
    limit, low, high = 0x67, tss & 0xFF_FFFF, tss >> 24
    busy_tss = limit | low << 16 | 0x8B << 40 | (high & 0xFF) << 56
    kernel = (0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0)
    user = (0x00CF_FB00_0000_FFFF, 0x00CF_F300_0000_FFFF, 0x00AF_FB00_0000_FFFF, 0)
    table = UPPER + LDT_TABLE
    ldt = bytearray(8 * (1 + max(entry for entry, *_ in LDT)))
    for entry, base, size, code in LDT:
        access = 0xFB if code else 0xF3
        struct.pack_into("<HHBBBB", ldt, 8 * entry, size, base & 0xFFFF, base >> 16 & 0xFF, access, 0, base >> 24)
    of_ldt = len(ldt) - 1 | (table & 0xFF_FFFF) << 16 | 0x82 << 40 | (table >> 24 & 0xFF) << 56
    gdt = struct.pack("<12Q", 0, *kernel, *user, busy_tss, tss >> 32, of_ldt, table >> 32)
    idt = bytearray()
    for vector in range(32):
        offset = UPPER + KERNEL + 16 * vector
        access = 0xEE if vector in (3, 4) else 0x8E  # INT3 and INTO are for CPL 3 too
        idt += struct.pack("<HHBBHII", offset & 0xFFFF, KERNEL_CS, 0, access, offset >> 16 & 0xFFFF, offset >> 32, 0)
    tss_data = struct.pack("<IQ", 0, UPPER + STACK_TOP).ljust(0x66, b"\0") + b"\x68\0"
    return [(GDT, gdt), (LDT_TABLE, bytes(ldt)), (TSS, tss_data), (IDT, bytes(idt))]


def pieces(slots: int) -> list[tuple[int, bytes]]:
    """(physical address, bytes) of everything that has to be in memory before the guest starts, for so many slots."""
    kernel = assemble(_kernel_text())
    assert len(kernel) <= PAGE
    upper = PRESENT | WRITABLE
    user = upper | USER
    large_pages = -(-(SLOTS + slots * SLOT_SIZE) // (1 << 21))
    data = PRESENT | WRITABLE | USER | NO_EXECUTE
    return [
        (PML4, _table((0, PDPT | user), (256, PDPT_UPPER | upper))),
        (PDPT, _table((0, PD | user))),
        (PD, _table((SCRATCH >> 21, PT_SCRATCH | user), (CODE_PAGE >> 21, PT_CODE | user))),
        (PT_SCRATCH, _table(*((n, SCRATCH_PHYSICAL + n * PAGE | data) for n in range(SCRATCH_SIZE // PAGE)))),
        (PT_CODE, _table((0, CODE_PHYSICAL | PRESENT | USER))),
        (PDPT_UPPER, _table((0, PD_UPPER | upper))),
        (PD_UPPER, _table(*((n, n << 21 | upper | LARGE) for n in range(large_pages)))),
        *_descriptor_tables(),
        (KERNEL, kernel),
        (CODE_PHYSICAL, INT3 * PAGE),
    ]


def memory_size(slots: int) -> int:
    """Bytes of guest RAM needed for so many slots."""
    return -(-(SLOTS + slots * SLOT_SIZE) // (1 << 21)) << 21
