"""Rows for what no operand names: frames, descriptors, gates and stack pointers that the CPU reads and writes by itself.

docs/debugging.md says why each of them hits. A #DB that comes behind a delivery is logged before the handler that it interrupts.
"""

from programs.debug.cases import ACCESS, BLD, BP, BS, DB, DEVICE, EXEC, GP, HANDLER, NONE, PF, SPLIT, UD, WRITE, Case, Record, arm
from programs.debug.harness import (
    CASE,
    DATA,
    GDT,
    IDT,
    IF,
    K64,
    KERNEL_STACK,
    RF,
    SET_RF,
    SPARE,
    STACK0,
    TF,
    TSS,
    U32,
    U64,
    UDATA,
    USER_STACK,
    Armed,
)

FRAME3, FRAME0 = STACK0 - 8, KERNEL_STACK - 0x400 - 8  # where a frame from ring 3, from ring 0 holds SS
INNER = DATA + 0x100  # beyond what other rows watch
TIMER = 31
END = 0x30
UNACCESSED = 0x00CFF2000000FFFF  # flat data, DPL 3, accessed = 0


def hit(at: int, flags: int = 0, dr6: int = NONE | 2) -> Record:
    """A #DB for DR1."""
    return DB, dr6, at, flags


def behind(vector: int, dr6: int = NONE | 2) -> Record:
    """A #DB for DR1 that comes before the first instruction of a handler."""
    return hit(HANDLER + 16 * vector, 0, dr6)


def _quads(*values: int) -> bytes:
    return b"".join(one.to_bytes(8, "little") for one in values)


def _descriptor(base: int, limit: int, access: int) -> bytes:
    """A system descriptor of 16 bytes."""
    return _quads(limit | (base & 0xFFFFFF) << 16 | access << 40, 0)


def frames() -> list[Case]:
    """Pushes by deliveries: ordinary stores that end with the handler's RIP in place, before its first instruction."""
    three, zero = Armed((0, FRAME3), arm(1, WRITE, 8)), Armed((0, FRAME0), arm(1, WRITE, 8), ring=0)
    fault = "ud2\nnop"
    timer = (
        "mov dword ptr [0x500f0], 0x1ff\nmov dword ptr [0x503e0], 0xb\n"
        f"mov dword ptr [0x50320], {TIMER}\nmov dword ptr [0x50380], 500\nsti\nhlt\nnop"
    )
    page_fault = "mov edi, 0x50000\nmov eax, [rdi]\nnop"
    two = Armed((0, FRAME3, IDT + 16 * UD), arm(1, WRITE, 8) | arm(2, ACCESS, 8))
    return [
        Case("frame, INT n", "int 0x1f\nnop", three, (behind(31), (31, NONE, 1, 0), behind(END)), resume_at=1),
        Case("frame, INT3", "int3\nnop", three, (behind(BP), (BP, NONE, 1, 0), behind(END))),
        Case("frame, a fault", fault, three, (behind(UD), (UD, NONE, 0, RF), behind(END)), resume_at=1),
        Case("frame, a fault in ring 0", fault, zero, (behind(UD), (UD, NONE, 0, RF), behind(END)), resume_at=1),
        Case("frame, with an error code", page_fault, three, (behind(PF), (PF, NONE, 1, RF), behind(END)), resume_at=2),
        Case("frame, its error code", page_fault, Armed((0, STACK0 - 48), arm(1, WRITE, 8)),
             (behind(PF), (PF, NONE, 1, RF), hit(HANDLER + 16 * END + 2)), resume_at=2),  # last, a push of the handler's
        Case("frame, a timer", timer, Armed(zero.dr, zero.dr7, ring=0, fixed=DEVICE),
             (behind(TIMER), (TIMER, NONE, 6, IF), behind(END)), resume_at=6),
        Case("frame and gate", fault, two, (behind(UD, NONE | 6), (UD, NONE, 0, RF), behind(END)), resume_at=1),
        # TF of the interrupted program neither traps behind its fault nor joins the #DB for the frame
        Case("frame, with TF", fault, Armed(three.dr, three.dr7, tf=True, flags=SET_RF),
             (behind(UD), (UD, NONE, 0, TF | RF), behind(DB, BS | 2), (DB, NONE, 2, TF), behind(END)), resume_at=1),
        # a #DB's own frame: the next #DB comes before the handler could read DR6, and BS stays for it to find
        Case("frame of a single step", "nop\nnop", Armed(three.dr, three.dr7, tf=True),
             (behind(DB, BS | 2), (DB, NONE, 1, TF), behind(END))),
        Case("frame of a bus lock", SPLIT, Armed(three.dr, three.dr7, debugctl=4),
             (behind(DB, BLD | 2), (DB, NONE, 1, 0), behind(END))),
        Case("frame of Bn exec", "nop\nnop", Armed((CASE, FRAME3), arm(0, EXEC) | arm(1, WRITE, 8), flags=SET_RF),
             (behind(DB), (DB, NONE, 0, 0), behind(END))),
        Case("frame of ICEBP", ".byte 0xf1\nnop", three, (behind(DB), (DB, NONE, 1, 0), behind(END))),
    ]  # fmt: skip


def tables() -> list[Case]:
    """Gates, stack pointers and descriptors, read by linear address; the bits that the CPU sets there."""
    fault, load = "ud2\nnop", f"mov eax, {U32 | 3:#x}\nmov ds, eax\nmov es, eax\nnop"
    spare = f"mov eax, {SPARE:#x}\n"
    ldt = {GDT + SPARE: _descriptor(INNER, 15, 0x82), INNER: _quads(UNACCESSED & ~(3 << 45))}
    accessed = {GDT + U32: _quads(UNACCESSED)}
    return [
        Case("stack pointer of the TSS", fault, Armed((0, TSS + 4), arm(1, ACCESS, 4)),
             (behind(UD), (UD, NONE, 0, RF), behind(END)), resume_at=1),
        Case("stack pointer of the TSS, not read in ring 0", fault, Armed((0, TSS + 4), arm(1, ACCESS, 4), ring=0),
             ((UD, NONE, 0, RF),), resume_at=1),
        Case("IDT gate", fault, Armed((0, IDT + 16 * UD), arm(1, ACCESS, 8)), (behind(UD), (UD, NONE, 0, RF)), resume_at=1),
        Case("IDT gate, writes only", fault, Armed((0, IDT + 16 * UD), arm(1, WRITE, 8)), ((UD, NONE, 0, RF),), resume_at=1),
        # what did not come to its end hits nothing: the gate of INT 21h is none
        Case("IDT gate that raises #GP", "int 0x21\nnop", Armed((0, IDT + 16 * 0x21), arm(1, ACCESS, 8)), ((GP, NONE, 0, RF),),
             resume_at=1),
        Case("GDT descriptor", load, Armed((0, GDT + U32), arm(1, ACCESS, 8)), (hit(2), hit(3))),
        Case("GDT descriptor, LAR", f"mov eax, {U32}\nlar eax, eax\nnop", Armed((0, GDT + U32), arm(1, ACCESS, 8)), (hit(2),)),
        Case("GDT descriptor, accessed bit", load, Armed((0, GDT + U32 + 5), arm(1, WRITE), fixed=accessed), (hit(2),)),
        Case("GDT descriptor, already accessed", load, Armed((0, GDT + U32 + 5), arm(1, WRITE))),
        Case("LDT descriptor", f"{spare}lldt ax\nmov eax, 4\nmov ds, eax\nnop",
             Armed((0, INNER, GDT + SPARE), arm(1, ACCESS, 8) | arm(2, ACCESS, 8), ring=0, fixed=ldt),
             ((DB, NONE | 4, 2, 0), hit(4))),
        Case("TSS descriptor, busy bit", f"{spare}ltr ax\nnop",
             Armed((0, GDT + SPARE + 5), arm(1, WRITE), ring=0, fixed={GDT + SPARE: _descriptor(TSS, 0x67, 0x89)}), (hit(2),)),
    ]  # fmt: skip


def transfers() -> list[Case]:
    """IRET and far CALL, whose stack is as much memory as any other."""
    pop, call = f"mov esp, {INNER:#x}\niretq\nnop", "call fword ptr [rdi+0x100]\nnop"
    outer = (CASE + 7, U64 | 3, 0x3002, USER_STACK, UDATA | 3)
    read = (0, INNER)
    gate = _quads((CASE + 6) & 0xFFFF | K64 << 16 | 0xEC00 << 32 | (CASE + 6) >> 16 << 48, 0)
    through = {GDT + SPARE: gate, INNER: ((SPARE | 3) << 32).to_bytes(6, "little")}
    return [
        Case("IRET pops, ring 3", pop, Armed(read, arm(1, ACCESS, 8), fixed={INNER: _quads(*outer)}), (hit(2),)),
        Case("IRET pops, ring 0 to 3", pop, Armed(read, arm(1, ACCESS, 8), ring=0, fixed={INNER: _quads(*outer)}), (hit(2),)),
        Case("IRET pops, ring 0", pop, Armed(read, arm(1, ACCESS, 8), ring=0, fixed={INNER: _quads(CASE + 7, K64, 2, 0xD000, 0)}),
             (hit(2),)),
        Case("IRET pops, TF", pop, Armed(read, arm(1, ACCESS, 8), tf=True, fixed={INNER: _quads(*outer)}),
             ((DB, BS, 1, TF), hit(2))),
        Case("far CALL pushes", call,
             Armed((0, USER_STACK - 8), arm(1, WRITE, 4), fixed={INNER: (CASE + 6 | (U64 | 3) << 32).to_bytes(6, "little")}),
             (hit(1),)),
        Case("far CALL through a gate", call,
             Armed((0, FRAME3), arm(1, WRITE, 8), fixed=through),
             (hit(1),)),
        Case("far CALL, the gate", call,
             Armed((0, GDT + SPARE), arm(1, ACCESS, 8), fixed=through),
             (hit(1),)),
        Case("Bn write, INSB", "insb\nnop", Armed((0, DATA), arm(1, WRITE)), (hit(1),)),
    ]  # fmt: skip


IMPLICIT = [*frames(), *tables(), *transfers()]
