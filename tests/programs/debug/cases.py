"""The table: what a guest arms, what it executes, what its handler must read, each from the manual's section beside it.

Frames and descriptor tables have their rows in `implicit`.

Sections: SDM vol. 3: 18.2 (debug registers), 18.3 (debug exceptions), 7.8.3 (MOV SS), 18.4 (DEBUGCTL); APM vol. 2: 13.1. The
bus-lock rows follow SDM vol. 3, 18.3.1.6 and APM vol. 2, 13.1.3.6. A record is (vector, DR6, number of the instruction that the
pushed RIP is on, TF and RF of the pushed RFLAGS). INT 30h, with which each case ends, is left out.
"""

from dataclasses import dataclass, replace

from programs.debug.harness import (
    CASE,
    CLEAR_TF,
    DATA,
    EDGE,
    GDT,
    IF,
    KEEP_DR6,
    KERNEL_STACK,
    LOG,
    NO_DR,
    PT,
    RF,
    SET_RF,
    SPARE,
    SYSCALL_ENTRY,
    TF,
    UNCACHED,
    USER_STACK,
    Armed,
    handler,
)
from trapgate.arch.debugregs import dr7_fields

DE, DB, BP, UD, NP, GP, PF, AC = 0, 1, 3, 6, 11, 13, 14, 17
NONE, BLD, BS, BD = 0xFFFF0FF0, 0xFFFF07F0, 0xFFFF4FF0, 0xFFFF2FF0
BLD_BS = 0xFFFF47F0
EXEC, WRITE, IO, ACCESS = range(4)
GD = 1 << 13
HANDLER = 1 << 16  # in the third number of a record: + 16 * vector, the first instruction of that vector's handler
INTEL = "SapphireRapids"
LINE = DATA + 60  # a line ends in the middle of four, eight bytes from here

DEVICE = {PT + 8 * 0x50: (0xFEE00000 | 7).to_bytes(8, "little")}  # 50000h: the local APIC

Record = tuple[int, int, int, int]


@dataclass(frozen=True)
class Case:
    """One row."""

    name: str
    text: str
    armed: Armed
    expected: tuple[Record, ...] = ()
    cpu: str = "EPYC-Turin"
    resume_at: int = -1


def steps(*at: int) -> tuple[Record, ...]:
    """Single steps of the guest's own that end on these instructions."""
    return tuple((DB, BS, n, TF) for n in at)


def arm(n: int, kind: int, length: int = 1) -> int:
    """DR7 for one breakpoint."""
    return dr7_fields(n, kind, length)


SPLIT = "lock add dword ptr [rdi+61], 1\nnop"
LOCKED = (  # section 1 of the rules: every instruction that locks; XCHG needs no prefix
    "xchg [rdi+61], eax", "xchg [rdi+57], rax", "xchg [rdi+63], ax",
    *(f"lock {op} [rdi+61], eax" for op in ("add", "sub", "and", "or", "xor", "adc", "sbb", "xadd", "cmpxchg")),
    *(f"lock {op} qword ptr [rdi+57]" for op in ("inc", "dec", "not", "neg")),
    *(f"lock {op} dword ptr [rdi+62], 3" for op in ("bts", "btr", "btc")),
    "lock btc [rdi+61], eax", "lock add word ptr [rdi+63], 7", "lock cmpxchg8b [rdi+60]",
)  # fmt: skip
NOT_LOCKED = {
    "inside its line": "lock add qword ptr [rdi+52], 1", "a byte": "lock inc byte ptr [rdi+63]", "plain store": "mov [rdi+61], rax",
    "plain load": "mov rax, [rdi+61]", "no prefix": "add [rdi+61], eax", "wide, aligned": "lock cmpxchg16b [rdi]",
}  # fmt: skip


def _bus_locks() -> list[Case]:
    armed, plain = Armed(debugctl=4), Armed()
    rows = [Case(f"bus lock: {one}", f"{one}\nnop", armed, ((DB, BLD, 1, 0),)) for one in LOCKED]
    rows += [Case(f"bus lock, Intel: {one}", f"{one}\nnop", armed, ((DB, BLD, 1, 0),), INTEL) for one in LOCKED[:4]]
    rows += [Case(f"no bus lock: {name}", f"{one}\nnop", armed) for name, one in NOT_LOCKED.items()]
    uncached = (
        "lock inc dword ptr [rsi]", "xchg [rsi], al", "lock cmpxchg16b [rsi]", "lock or qword ptr [rsi+8], 1",
        "lock inc byte ptr [rsi+1]",
    )  # fmt: skip
    rows += [Case(f"uncached: {one}", f"{one}\nnop", armed, ((DB, BLD, 1, 0),)) for one in uncached]
    edge = "mov edi, {at:#x}\nlock inc dword ptr [rdi]\nnop"
    return [
        *rows,
        Case("a device", "lock or dword ptr [0x50030], 0\nnop", Armed(debugctl=4, fixed=DEVICE), ((DB, BLD, 1, 0),)),
        Case("uncached, no lock", "inc dword ptr [rsi]\nnop", armed),
        Case("wide, misaligned: #GP first", "lock cmpxchg16b [rdi+60]\nnop", armed, ((GP, NONE, 0, RF),)),
        Case("faults on its second page", edge.format(at=EDGE + 61), armed, ((PF, NONE, 1, RF),)),
        Case("ring 0", SPLIT, Armed(debugctl=4, ring=0)),
        Case("not armed", SPLIT, plain),
        Case("two in a row", f"{SPLIT}\n{SPLIT}", armed, ((DB, BLD, 1, 0), (DB, BLD, 3, 0))),
        Case("in a loop", "1: lock inc dword ptr [rdi+61]\nloop 1b", armed, ((DB, BLD, 1, 0),) * 3),
        # 13.1.3.6: BLD is software's to set again; a stale one makes a single step look like a bus lock
        Case("stale BLD", f"{SPLIT}\npush 0x3102\npopf\nnop\nnop", Armed(debugctl=4, flags=CLEAR_TF | KEEP_DR6),
             ((DB, BLD, 1, 0), (DB, BLD_BS, 5, TF))),
        # split-lock #AC (Intel): before the access, at any CPL, and it wins
        Case("#AC", SPLIT, Armed(test_ctrl=1 << 29), ((AC, NONE, 0, RF),), f"{INTEL},+split-lock-detect"),
        Case("#AC wins", SPLIT, Armed(debugctl=4, test_ctrl=1 << 29), ((AC, NONE, 0, RF),), f"{INTEL},+split-lock-detect"),
        Case("#AC in ring 0", SPLIT, Armed(ring=0, test_ctrl=1 << 29), ((AC, NONE, 0, RF),), f"{INTEL},+split-lock-detect"),
        Case("#AC, uncached: a bus lock", "lock inc dword ptr [rsi]\nnop", Armed(debugctl=4, test_ctrl=1 << 29),
             ((DB, BLD, 1, 0),), f"{INTEL},+split-lock-detect"),
    ]  # fmt: skip


def _causes() -> list[Case]:
    step, at = Armed(tf=True), (CASE,)
    dr = (CASE, DATA + 8, 0x80, LINE)
    w, a, x, io = arm(1, WRITE, 4), arm(1, ACCESS, 4), arm(0, EXEC), arm(2, IO)
    split = arm(3, WRITE, 4)
    rf = SET_RF | CLEAR_TF
    store, out = "mov [rdi+8], eax\nnop", "out dx, al\nnop"
    return [
        Case("BS", "nop\nnop\nnop", step, ((DB, BS, 1, TF),)),
        Case("BS, each instruction", "nop\nnop\nnop", Armed(tf=True, flags=0), steps(1, 2, 3)),
        Case("Bn exec", "nop\nnop", Armed(at, x, flags=rf), ((DB, NONE | 1, 0, 0),)),
        Case("Bn write", store, Armed(dr, w), ((DB, NONE | 2, 1, 0),)),
        Case("Bn write, a load", "mov eax, [rdi+8]\nnop", Armed(dr, w)),
        Case("Bn access, a load", "mov eax, [rdi+8]\nnop", Armed(dr, a), ((DB, NONE | 2, 1, 0),)),
        Case("Bn write, aligned down", "mov byte ptr [rdi+8], 1\nnop", Armed((0, DATA + 11), w), ((DB, NONE | 2, 1, 0),)),
        Case("Bn write, beside it", "mov [rdi+12], eax\nmov [rdi+4], eax\nnop", Armed(dr, w)),
        Case("Bn write, overlapping", "mov [rdi+5], eax\nnop", Armed(dr, w), ((DB, NONE | 2, 1, 0),)),
        Case("Bn write, by push", "push rax\nnop", Armed((0, 0xEEF8), arm(1, WRITE, 8)), ((DB, NONE | 2, 1, 0),)),
        Case("Bn write, by call", "call 1f\n1: nop", Armed((0, 0xEEF8), arm(1, WRITE, 8)), ((DB, NONE | 2, 1, 0),)),
        Case("Bn access, SSE", "movups xmm0, [rdi]\nnop", Armed(dr, a), ((DB, NONE | 2, 1, 0),)),
        Case("Bn write, FXSAVE", "fxsave [rdi]\nnop", Armed(dr, w), ((DB, NONE | 2, 1, 0),)),
        Case("Bn write, 8 bytes across two pages", "mov [rdi+4092], rax\nnop", Armed((0, DATA + 4096), w), ((DB, NONE | 2, 1, 0),)),
        Case("Bn write, code that is executed", "mov byte ptr [rip], 0x90\nnop\nnop", Armed((0, CASE + 7), arm(1, WRITE)),
             ((DB, NONE | 2, 1, 0),)),
        Case("two Bn", store, Armed((0, DATA + 8, DATA + 8), w | arm(2, ACCESS, 2)), ((DB, NONE | 6, 1, 0),)),
        Case("Bn I/O", out, Armed(dr, io), ((DB, NONE | 4, 1, 0),)),
        Case("Bn I/O, IN", "in al, dx\nnop", Armed(dr, io), ((DB, NONE | 4, 1, 0),)),
        Case("Bn I/O without CR4.DE", out, Armed(dr, io, de=False)),  # 18.2.4: undefined; nothing matches here
        Case("Bn I/O, REP OUTSB", "mov esi, 0x30000\nrep outsb\nnop", Armed(dr, io),
             ((DB, NONE | 4, 1, RF), (DB, NONE | 4, 1, RF), (DB, NONE | 4, 2, 0))),
        Case("BD", "nop\nmov rax, dr0\nnop", Armed(dr7=GD, ring=0), ((DB, BD, 1, 0),)),
        Case("BD, a store", "nop\nmov dr6, rax\nnop", Armed(dr7=GD, ring=0), ((DB, BD, 1, 0),)),
        Case("BD, DR4", "mov rax, dr4\nnop", Armed(dr7=GD, ring=0, de=False), ((DB, BD, 0, 0),)),
        Case("BD with TF", "mov rax, dr0\nnop", Armed(dr7=GD, ring=0, tf=True, flags=0),  # a fault first, the trap behind it
             ((DB, BD, 0, TF), (DB, BS, 1, TF), (DB, BS, 2, TF))),
        Case("DR at CPL 3: #GP", "mov rax, dr0\nnop", Armed(dr7=GD, flags=CLEAR_TF | NO_DR), ((GP, 0, 0, RF),)),
        Case("DR4 with CR4.DE: #UD", "mov rax, dr4\nnop", Armed(ring=0), ((UD, NONE, 0, RF),)),
        Case("DR4 is DR6 without CR4.DE", "mov rax, dr4\nmov dr5, rcx\nmov rbx, dr7\nnop", Armed(ring=0, de=False)),
        Case("DR6 above 32 bits", "mov rax, -1\nmov dr6, rax\nnop", Armed(ring=0), ((GP, NONE, 1, RF),)),
        Case("ICEBP", ".byte 0xf1\nnop", Armed(), ((DB, NONE, 1, 0),)),
        Case("ICEBP with TF", ".byte 0xf1\nnop\nnop", Armed(tf=True, flags=0), ((DB, NONE, 1, TF), *steps(2, 3))),
        Case("INT3", "int3\nnop", Armed(), ((BP, NONE, 1, 0),)),
        # 18.3.1.4: INT clears TF and does not trap itself
        Case("INT3 with TF", "int3\nnop\nnop", Armed(tf=True, flags=0), ((BP, NONE, 1, TF), (DB, BS, 2, TF), (DB, BS, 3, TF))),
        # every pair in one instruction
        Case("BS + Bn write", store, Armed(dr, w, tf=True), ((DB, BS | 2, 1, TF),)),
        Case("BS + Bn I/O", out, Armed(dr, io, tf=True), ((DB, BS | 4, 1, TF),)),
        Case("BS + BLD", SPLIT, Armed(debugctl=4, tf=True), ((DB, BLD_BS, 1, TF),)),
        Case("BLD + Bn", SPLIT, Armed(dr, split, debugctl=4), ((DB, BLD | 8, 1, 0),)),
        Case("BLD + Bn + BS", SPLIT, Armed(dr, split, debugctl=4, tf=True), ((DB, BLD_BS | 8, 1, TF),)),
        Case("BLD + Bn, uncached", "lock inc dword ptr [rsi]\nnop", Armed((0, UNCACHED), w, debugctl=4), ((DB, BLD | 2, 1, 0),)),
        # a fault before the instruction, then the traps behind it: two #DBs
        Case("Bn exec, then BS", "nop\nnop\nnop", Armed(at, x, tf=True, flags=SET_RF), ((DB, NONE | 1, 0, TF), *steps(1, 2, 3))),
        Case("Bn exec, then Bn write", store, Armed(dr, x | w, flags=rf), ((DB, NONE | 1, 0, 0), (DB, NONE | 2, 1, 0))),
        Case("Bn exec, then BLD", SPLIT, Armed(dr, x, debugctl=4, flags=rf), ((DB, NONE | 1, 0, 0), (DB, BLD, 1, 0))),
        Case("Bn exec, then ICEBP", ".byte 0xf1\nnop", Armed(at, x, flags=rf), ((DB, NONE | 1, 0, 0), (DB, NONE, 1, 0))),
        # the #DB has cleared GD
        Case("Bn exec, then BD", "mov rax, dr0\nnop", Armed(at, x | GD, ring=0, flags=rf), ((DB, NONE | 1, 0, 0),)),
        Case("BS, then Bn exec under RF", "nop\nnop\nnop", Armed((CASE + 1,), x, tf=True, flags=rf), ((DB, BS, 1, TF),)),
        Case("Bn exec with RF", "nop\nnop", Armed(at, x, rflags=RF)),
        Case("Bn exec on REP: once", "mov esi, edi\nrep movsb\nnop", Armed((CASE + 2,), x, flags=SET_RF), ((DB, NONE | 1, 1, 0),)),
    ]  # fmt: skip


def _flow() -> list[Case]:
    w = Armed((0, DATA + 128), arm(1, ACCESS, 2))
    every = Armed(tf=True, flags=0)
    dr = (DATA + 128, LINE)
    both = arm(0, ACCESS, 2) | arm(1, WRITE, 4)
    mov_ss = "mov ss, [rdi+128]\n"
    iret = "mov rax, rsp\npush 0x23\npush rax\npush 0x3102\npush 0x2b\nlea rax, [rip+3]\npush rax\niretq"
    bits = arm(1, ACCESS, 4)
    return [
        # 7.8.3: MOV SS and POP SS hold traps back until behind the next instruction; STI does not
        Case("MOV SS + Bn", f"{mov_ss}nop\nnop", w, ((DB, NONE | 2, 2, 0),)),
        Case("MOV SS + Bn, ring 0", f"{mov_ss}nop\nnop", Armed(w.dr, w.dr7, ring=0), ((DB, NONE | 2, 2, 0),)),
        Case("MOV SS + Bn + BLD", mov_ss + SPLIT, Armed(w.dr, w.dr7, 4), ((DB, BLD | 2, 2, 0),)),
        Case("MOV SS + Bn + BLD + Bn", mov_ss + SPLIT, Armed(dr, both, 4), ((DB, BLD | 3, 2, 0),)),
        Case("MOV SS + Bn + BS", f"{mov_ss}nop\nnop", Armed(w.dr, w.dr7, tf=True), ((DB, BS | 2, 2, TF),)),
        Case("MOV SS with TF", "mov ss, [rdi+128]\nnop\nnop", every, ((DB, BS, 2, TF), (DB, BS, 3, TF))),
        Case("MOV SS + Bn, then a fault", f"{mov_ss}ud2\nnop", w, ((UD, NONE, 1, RF),)),
        Case("MOV SS + Bn, then ICEBP", f"{mov_ss}.byte 0xf1\nnop", w, ((DB, NONE | 2, 2, 0),)),
        Case("MOV SS, then Bn exec", "mov ss, [rdi+128]\nnop\nnop", Armed((CASE + 6,), arm(0, EXEC))),
        Case("MOV SS, a loop back behind it", "mov ss, [rdi+128]\n1: dec ecx\njnz 1b\nnop", Armed(tf=True, flags=0, rcx=2),
             steps(2, 1, 2, 3, 4)),
        Case("STI with TF", "sti\nnop\nnop", every, tuple((DB, BS, n, TF | IF) for n in (1, 2, 3))),
        Case("STI, data", "mov [rdi+8], eax\nsti\nmov [rdi+8], eax\nnop", Armed((0, DATA + 8), arm(1, WRITE, 4)),
             ((DB, NONE | 2, 1, 0), (DB, NONE | 2, 3, IF))),
        # 18.3.1.4: TF as it was before the instruction
        Case("POPF that sets TF", "push 0x3102\npopf\nnop\nnop", Armed(), ((DB, BS, 3, TF),)),
        Case("POPF that clears TF", "push 0x3002\npopf\nnop\nnop", every, ((DB, BS, 1, TF), (DB, BS, 2, 0))),
        Case("PUSHF with TF", "pushf\npop rax\nmov [rdi], rax\nnop", every, steps(1, 2, 3, 4)),
        Case("IRET that sets TF", f"{iret}\nnop\nnop", Armed(), ((DB, BS, 9, TF),)),
        Case("BTF", "nop\nnop\njmp 1f\nud2\n1: nop", Armed(tf=True, debugctl=2), ((DB, BS, 4, TF),)),
        Case("BTF, to the next instruction", "nop\njmp 1f\n1: nop\nnop", Armed(tf=True, debugctl=2), ((DB, BS, 2, TF),)),
        Case("BTF, not taken", "test eax, eax\njnz 1f\nnop\njz 1f\nud2\n1: nop", Armed(tf=True, debugctl=2), ((DB, BS, 5, TF),)),
        Case("BTF, REP", "rep stosb\ncall 1f\n1: nop", Armed(tf=True, debugctl=2), ((DB, BS, 2, TF),)),
        Case("BTF is cleared by #DB", "jmp 1f\n1: nop\nnop", Armed(tf=True, debugctl=2, flags=0), steps(1, 2, 3)),
        Case("BLD outlives #DB", f"{SPLIT}\n{SPLIT}", Armed(debugctl=6), ((DB, BLD, 1, 0), (DB, BLD, 3, 0))),
        # SYSCALL clears TF by SFMASK: no trap until SYSRET brings it back, and then at once
        Case("SYSCALL with TF", "syscall\nnop\nnop", every, steps(1, 2, 3)),
        # exceptions end single steps: the faulting instruction traps no more, its handler never did
        Case("a fault with TF", "nop\nud2\nnop\nnop", every, (*steps(1), (UD, NONE, 1, TF | RF), *steps(3, 4)),
             resume_at=2),
        Case("a fault, then its data", "mov eax, [rdi+8]\nmov edi, 0x50000\npush qword ptr [rdi]\nnop", Armed((0, DATA + 8), bits),
             ((DB, NONE | 2, 1, 0), (PF, NONE, 2, RF))),
        # 18.3.1.1: each iteration traps, RF = 1 between them
        Case("REP with TF", "rep stosb\nnop", every, ((DB, BS, 0, TF | RF),) * 2 + steps(1, 2)),
        Case("REP, data", "rep stosb\nnop", Armed((0, DATA + 1), arm(1, WRITE)), ((DB, NONE | 2, 0, RF),)),
        Case("REP, data, the last one", "rep stosb\nnop", Armed((0, DATA + 2), arm(1, WRITE)), ((DB, NONE | 2, 1, 0),)),
        Case("REP MOVSB, both", "lea rsi, [rdi+64]\nrep movsb\nnop", Armed((DATA, DATA + 64), arm(0, WRITE) | arm(1, ACCESS)),
             ((DB, NONE | 3, 1, RF),)),
        Case("REP of nothing, with TF", "xor ecx, ecx\nrep stosb\nnop", every, steps(1, 2, 3)),
        Case("REPNE SCASB", "mov byte ptr [rdi+1], 0\nmov al, 0\nrepne scasb\nnop", Armed((0, DATA), arm(1, ACCESS)),
             ((DB, NONE | 2, 3, 0),)),
    ]  # fmt: skip


def _dr6() -> list[Case]:
    """What MOV to and from DR6 does, by vendor: the result is left in memory."""
    text = "mov eax, 0xffff07f0\nmov dr6, rax\nmov rax, dr6\nmov [rdi], rax"
    text += "\nxor eax, eax\nmov dr6, rax\nmov rax, dr6\nmov [rdi+8], rax\nnop"
    return [
        Case(f"DR6, {cpu}, DEBUGCTL {control}", text, Armed(ring=0, debugctl=control, flags=CLEAR_TF), (), cpu)
        for cpu in ("EPYC-Turin", INTEL, "EPYC-Turin,-bus-lock-detect", f"{INTEL},-bus-lock-detect")
        for control in ((0,) if "-bus" in cpu else (0, 4))
    ]


def _by_both_vendors() -> list[Case]:
    """Transfers and locks that debuggers and kernels have stumbled over, on both models. UD2 is met where a value is wrong."""
    split = "mov eax, 7\nxchg [rdi+61], eax\ncmp eax, {}\njne 1f\ncmp dword ptr [rdi+61], {}\nje 2f\n1: ud2\n2: nop"
    device = "mov eax, 0x20\nxchg [0x50080], eax\ncmp dword ptr [0x50080], 0x20\nje 1f\nud2\n1: nop"  # the APIC's TPR
    mov_ss, watch = "mov ss, [rdi+128]\n", Armed((0, DATA + 128), arm(1, ACCESS, 2))
    syscall = HANDLER + SYSCALL_ENTRY - handler(0)
    every = Armed(tf=True, flags=0)
    rows = [
        *(_absent(ring) for ring in (0, 3)),
        # 7.8.3: the held trap comes behind the transfer, before the first instruction of what it leads to
        Case("MOV SS + Bn, then INT3", f"{mov_ss}int3\nnop", watch, ((DB, NONE | 2, HANDLER + 16 * BP, 0), (BP, NONE, 2, 0))),
        Case("MOV SS + Bn, then INT n", f"{mov_ss}int 0x1f\nnop", watch, ((DB, NONE | 2, HANDLER + 16 * 31, 0), (31, NONE, 2, 0)),
             resume_at=2),
        Case("MOV SS + Bn, then SYSCALL", f"{mov_ss}syscall\nnop", watch, ((DB, NONE | 2, syscall, 0),)),
        # 18.3.1.4: INT clears TF behind the pushed flags; the first trap comes behind the first instruction after IRET
        Case("INT n with TF", "int 0x1f\nnop\nnop", every, ((31, NONE, 1, TF), *steps(2, 3)), resume_at=1),
        Case("XCHG across a line, ring 0", split.format(0, 7), Armed(ring=0, debugctl=4)),
        Case("XCHG with a device, ring 0", device, Armed(ring=0, debugctl=4, fixed=DEVICE)),
        Case("XCHG with a device, ring 3", device, Armed(debugctl=4, fixed=DEVICE), ((DB, BLD, 2, 0),)),
    ]  # fmt: skip
    both = [replace(row, name=f"{row.name}, {cpu}", cpu=cpu) for row in rows for cpu in ("EPYC-Turin", INTEL)]
    detects = Armed(ring=0, test_ctrl=1 << 29)  # Intel's alone; the #AC leaves register and memory as they were
    return [*both, Case("#AC of XCHG", split.format(7, 0), detects, ((AC, NONE, 1, RF),), f"{INTEL},+split-lock-detect", 2)]


def _absent(ring: int) -> Case:
    """A far RET, traced, to a code segment that is not present: the fault wins, and nothing of the RET is traced."""
    selector, descriptor = SPARE + 8, 0x00AF1B000000FFFF | ring << 45
    frame = (CASE | (selector | ring) << 64).to_bytes(16, "little")
    stack = USER_STACK if ring else KERNEL_STACK - 0x400
    fixed = {GDT + selector: descriptor.to_bytes(8, "little"), stack: frame}
    text = f"retfq\ncmp dword ptr [{LOG + 64 + 8}], {selector}\nje 1f\nud2\n1: nop"  # the first record's error code
    armed, expected = Armed(tf=True, flags=0, ring=ring, fixed=fixed), ((NP, NONE, 0, TF | RF), *steps(2, 4, 5))
    return Case(f"far RET to an absent segment with TF, ring {ring}", text, armed, expected, resume_at=1)


CASES = [*_bus_locks(), *_causes(), *_flow(), *_dr6(), *_by_both_vendors()]
