"""Lays out the CPU state that translated code works on: two parts, their fields by name. Offsets are bytes; little-endian.

The guest's part comes first. Its bytes are what the guest's CPU is between two instructions, wherever it runs: registers with
what is hidden of them, events that wait, and what follows from those alone. No host address is among them. The host's part is all
else: addresses and tables, the TLB, what is wanted of translated code, what it says to Python. The instruction under way belongs
there with all its transients, for they mean something to the host code that goes on with it and to nobody else, and may be host
addresses.

RIP, the flags and the general registers come first because they are reached with short displacements.
Flags are kept as what they follow from: `flag_result` (sign-extended result: ZF, SF, PF) and `flag_aux`, whose bits are
0 = CF ^ OF, 1 = CF, 2 = SF delta, 3 = AF, 8-15 = parity delta. `isa.flags` is the only reader and writer.
"""

from collections.abc import Iterator
from enum import Enum

from trapgate.arch import xstate
from trapgate.isa.records import Record
from trapgate.values import dataclass

SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr")
GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))

TLB_BITS = 12
TLB_ENTRIES = 1 << TLB_BITS
TLB_GROUP_BITS = TLB_BITS - 6  # entries that one bit of `tlb_local` stands for: a word of it for each table
TLB_ENTRY_BYTES = 32  # tag_read, tag_write, tag_fetch, addend (host address - guest-virtual address)
TLB_BYTES = TLB_ENTRIES * TLB_ENTRY_BYTES
TLB_KERNEL, TLB_USER, TLB_KERNEL_AC = range(3)  # rights at CPL 0-2, at CPL 3, at CPL 0-2 with SMAP overridden by AC
TLB_INVALID = (1 << 64) - 1
TLB_WATCHED, TLB_CODE = 1, 2  # marks in a tag, which no probe matches then: `access` looks for a data breakpoint, for code (stores)
JUMP_ENTRIES = 2048  # of 16 bytes: tag (RIP low 48 bits, of 16-bit code RIP | CS base << 16; mode << 48), host code
JUMP_BYTES = JUMP_ENTRIES * 16
JUMP_FILTER_BYTES = 512  # a bit for each code page, by the low 12 bits of its number

NATIVE_SLOTS = 256
MTRR_RULES = 8
MSR_VALUES = 96
MSR_RULE = Record(index="Q", place="Q", kinds="Q", mask="Q", fixed="Q")  # place: bytes behind RIP
CPUID_ANSWERS = 64
CPUID_ANSWER = Record(asked="Q", key="Q", rax="I", rbx="I", rcx="I", rdx="I")  # asked: leaf, subleaf << 32; key: what it depends on
LOCK_TALLIES = 64
LOCK_TALLY = Record(rip="Q", age="Q", count="Q")  # age: 1 + lock_age when it was made
KNOWN_PLACES = 1 << 18  # of the index of known blocks

# Attributes of a segment beyond its descriptor's: null or unusable; of expand-up ones, what may be done with them.
UNUSABLE, READABLE, WRITABLE = 1 << 16, 1 << 17, 1 << 18

# Why native code left: the value of `exit_reason`.
(
    EXIT_TRANSLATE,
    EXIT_INTERRUPTED,
    EXIT_INSTRUCTION,
    EXIT_ACCESS,
    EXIT_DELIVER,
    EXIT_STEPPED,
    EXIT_DEBUG,
    EXIT_SEGMENT,
    EXIT_FETCH,
    EXIT_BREAKPOINT,
    EXIT_PORT,
    EXIT_REPEATING,
    EXIT_CRASHED,
) = range(13)

REACH = 1 << 40  # in the place of a distance from RIP: the farthest offset that a block fetches from or branches to

FLAG_GLOBAL, FLAG_LARGE, FLAG_LOCAL = 1, 2, 8  # of a TLB entry, none for an unused one

COUNTING_SHIFT = 16  # of `block_space`: blocks count their instructions (instruction clock)
PORT_OUT = 1 << 24

# What an access wants: the argument of the native `access` and `access_kind`.
ACCESS_WRITE, ACCESS_FETCH, ACCESS_USER, ACCESS_AC, ACCESS_PEEK = 1, 2, 4, 8, 16
ACCESS_READ = 32  # beside ACCESS_WRITE: it reads as well
NOT_CANONICAL = 2  # in `fault_has_error`: #GP(0), or #SS(0), as Python finds out
KIND_LOAD, KIND_STORE, KIND_MODIFY, KIND_LOCK, KIND_REFERENCE, KIND_COMMIT = range(6)
# Results of `access` below 4096 are no host addresses.
ACCESS_FAULT, ACCESS_HARD = 1, 2
RIGHT_READ, RIGHT_WRITE, RIGHT_FETCH, RIGHT_GLOBAL, RIGHT_UNCACHED, RIGHT_LARGE, RIGHT_2M = 1, 2, 4, 8, 16, 32, 64


TOLD_CR0, TOLD_CR3, TOLD_CR4, TOLD_MSR, TOLD_CALL = (1 << n for n in range(5))

HAPPENED = 64  # events that are remembered
HAPPENED_ONE = Record(rip="Q", cr2="Q", error="I", what="I", unused="Q")  # what: vector, HAS_ERROR_CODE, cause << CAUSE_SHIFT
HAS_ERROR_CODE, CAUSE_SHIFT = 1 << 8, 9


class Part(Enum):
    """Whose a field is; the module says by which rule."""

    GUEST = "guest"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the CPU state: whose it is, where it lies and how many bytes it has."""

    name: str
    part: Part
    offset: int
    size: int


Declared = Iterator[tuple[str, int] | tuple[str, int, int]]
"""Fields of a part in order: name, size, and what its offset is a multiple of, where that is more than its size or 16 bytes."""


def _guest() -> Declared:
    yield "rip", 8
    yield "flag_result", 8
    yield "flag_aux", 8
    yield "rflags", 8  # every bit but the six status flags
    for name in GENERAL:
        yield name, 8
    for name in SEGMENTS:
        yield f"{name}_base", 8
        yield f"{name}_limit", 4
        yield f"{name}_attributes", 4  # descriptor bits 40-55 (type S DPL P . AVL L D G), bit 16: unusable (null)
        yield f"{name}_selector", 8
    for name in ("gdt", "idt"):
        yield f"{name}_base", 8
        yield f"{name}_limit", 8
    for name in ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "xcr0", "dr0", "dr1", "dr2", "dr3", "dr6", "dr7", "debugctl"):
        yield name, 8
    for name in ("star", "lstar", "cstar", "sfmask", "kernel_gs_base", "tsc_aux", "sysenter_cs", "sysenter_esp", "sysenter_eip"):
        yield name, 8
    yield "tsc_offset", 8  # the time-stamp counter at guest time 0
    yield "guest_mxcsr", 4  # with all exceptions masked, as the host has it; current at each instruction while they are not
    yield "mxcsr_difference", 4  # in which bits MXCSR is another: `isa.families.mxcsr`
    for pointer in ("x87_fip", "x87_fdp", "x87_fop"):
        yield pointer, 8  # of the guest's last x87 instruction, while its state is live: the host's registers have the host's
    # what waits for the end of the instruction under way, or of the next
    yield "pending_debug", 4  # active-high DR6 causes of the instruction under way, delivered behind it
    yield "shadow", 4  # 1: STI shadow, 2: MOV SS shadow; valid for the instruction at shadow_rip
    yield "shadow_rip", 8
    yield "nmi_blocked", 4  # an NMI was delivered; IRET opens the way for the next
    yield "fault_delivering", 4  # a delivery is in progress: another fault goes to the double-fault rules
    # what follows from the registers
    yield "mode", 4  # `isa.modes`
    yield "bus_lock_trap", 4  # not zero: DEBUGCTL[2] is set and CPL > 0
    yield "bld_free", 4  # not zero: MOV to DR6 can change BLD whatever DEBUGCTL says (Intel with bus-lock detection)
    yield "split_lock_ac", 4  # not zero: MSR 33h bit 29
    # what follows from PAT and MTRRs: what is not write-back memory, where a locked access locks the bus (`arch.memtypes`)
    yield "pat_uncached", 8  # one bit for each entry of the PAT
    yield "mtrr_end", 8  # from here on all RAM is write-back; below it hold:
    yield "mtrr_uncached", 8  # 1: where no rule matches
    yield "mtrr_rules_end", 8  # bytes in use of
    yield "mtrr_rules", 16 * MTRR_RULES  # (base and bit 0: uncached; mask), the last that matches counts
    yield "mtrr_fixed_end", 8  # below it, one bit for each page in `mtrr_fixed` counts instead
    yield "mtrr_fixed", 32
    yield "msr_values", 8 * MSR_VALUES  # of MSRs that are no field: `soft.state.msrs` says where each is
    for lower, upper in zip(xstate.SSE.registers.values(), xstate.AVX.registers.values(), strict=True):
        yield lower.field, lower.size, 32  # a register of 32 bytes
        yield upper.field, upper.size
    yield xstate.IMAGE, xstate.LEGACY_BYTES, 64  # the x87 state while it is not live; the guest's part ends inside: see GUEST_BYTES


def _host() -> Declared:
    yield "request", 4  # not zero: leave translated code at the next block
    yield "exit_reason", 4
    yield "budget", 8  # instructions until translated code leaves (instruction clock only); signed
    yield "ahead", 8  # instructions of the block that have been taken off the budget and lie behind the one that has left it
    yield "exit_detail", 4  # number of the instruction for Python; for EXIT_PORT: port, size << 16, PORT_OUT
    yield "x87_live", 4  # the guest's x87 state is in the host's registers
    yield "x87_unmasked", 4  # exceptions that its control word unmasks, while it is
    yield "next_rip", 8
    # the instruction under way
    for name in ("T0", "T1", "T2", "EA", "HOST", "X", "RESUME"):
        yield f"saved_{name}", 8
    yield "fault_vector", 4  # a fault on its way to the guest
    yield "fault_error", 4
    yield "fault_has_error", 4
    yield "stepping", 4  # a block of one instruction runs: watched accesses are recorded, not restarted
    yield "walk_physical", 8  # results of the native page walk
    yield "walk_rights", 8
    yield "walk_entry", 8
    yield "access_size", 4  # an access that could not be settled in translated code
    yield "access_kind", 4
    yield "bounce_address", 8  # guest-virtual address that `bounce` stands for
    yield "bounce_size", 8
    # an operand that lies in two pages or on a device; XSAVE areas are the longest
    yield "bounce", xstate.standard_size(xstate.ALL), xstate.ALIGNMENT
    yield "split_size", 8  # not zero: `bounce` stands for so many bytes of RAM in two pages, which native code puts back:
    yield "split_first", 8  # bytes in the first
    yield "split_low", 8  # host addresses of both parts
    yield "split_high", 8
    yield "scratch", 256, 64
    # what is wanted of translated code
    yield "irq_waiting", 4  # an interrupt waits for IF
    yield "caught", 4  # not zero: Python looks at every exception before it is delivered
    yield "bus_lock_report", 4  # not zero: the machine wants to hear of every bus lock
    yield "lock_age", 8  # one more with each load of CR3: tallies of another age count nothing any more
    yield (
        "lock_tallies",
        LOCK_TALLIES * LOCK_TALLY.size,
        8,
    )  # bus locks that are counted, not told, by RIP: `isa.native.locks`
    yield "sharing", 4  # not zero: another CPU waits for its turn, and PAUSE gives it up
    yield "paused", 4  # not zero: PAUSE has done so
    for name in ("reads", "writes"):  # host addresses of what data breakpoints watch: `isa.native.watching`
        yield f"watched_{name}", 8
        yield f"watched_{name}_end", 8
    # what follows from the CPU model and the size of RAM
    yield "physical_mask", 8  # address bits that may be set in a page-table entry
    yield "cr4_allowed", 8  # bits of CR4 that may be set
    yield "null_keeps", 4  # not zero: a null selector leaves base and limit alone (older AMD)
    yield "table_reserved", 8  # bits that are 0 in a PML4E and in a PDPTE that points to a table, besides PS: AMD's G
    yield "ram_base", 8
    yield "ram_low_end", 8
    yield "ram_high_end", 8
    yield "dirty_pages", 8  # host address of `memory.Ram.dirty`: a page that is not is not writable in the TLB
    yield "msr_count", 8  # how many there are in
    yield "msr_rules", MSR_VALUES * MSR_RULE.size, 8  # what RDMSR and WRMSR do to each, by index: `isa.native.msrs`
    yield "cpuid_answers", CPUID_ANSWERS * CPUID_ANSWER.size, 8  # what CPUID has answered
    # blocks: what CPUs share that share translated code, and each takes over from the one that ran before it (SHARED_*)
    yield "code_lines", 8  # host address of a table: for each guest-physical page, one bit for each 64 bytes that were translated
    yield "kept_lines", 8  # the same for blocks that Python keeps
    yield "block_table", 8  # host address of the table of blocks by (RIP, physical address, mode)
    yield "block_mask", 8
    yield "block_count", 8  # entries of that table in use
    yield "block_space", 8  # what decides translation besides the mode, in the same word: `isa.native.placing`
    yield "page_blocks", 8  # host address of a table: for each guest-physical page, 1 + the place of its first block
    yield "spanning", 8  # host address of the table of blocks in two pages: `isa.native.spanning`
    yield "known_base", 8  # host address of the records of known blocks
    yield "patterns", 8  # host address of the patterns of instructions that blocks are composed of
    yield "code_base", 8  # the code buffer: where it may be executed, where it may be written, where it ends, how far it may grow
    yield "code_write", 8
    yield "code_end", 8
    yield "code_limit", 8
    yield "blocks_forgotten", 8  # how often any were
    yield "pages_marked", 8  # how often a page without code became one with code
    yield "chaining", 4  # not zero: branches between the blocks of a page are direct
    yield "stop_pages", 512, 64  # for each page of linear addresses, by the low 12 bits of its number: breakpoints lie in it
    yield "native_table", 8 * NATIVE_SLOTS, 64  # addresses of the native functions: `codebuffer.table_order`
    # the time-stamp counter, as long as native code reads it
    yield "tsc_hz", 8  # its rate while guest time follows the host's clock, else 0
    yield "counted_hz", 8  # the same with the instruction clock; both 0: Python reads it
    yield "clock_counted", 8  # guest time (ns) plus `budget`, with the instruction clock
    yield "clock_zero", 8  # the host's monotonic clock (ns) at guest time 0
    yield "clock_due", 8  # the same when the next timer is due
    yield "clock_gettime", 8  # the address of the host's function
    yield "host_time", 16  # what it answers: seconds, nanoseconds
    # a signal of the host's amid translated code: what `stencil.entering` needs for it, and leaves of it
    yield "host_mxcsr", 4
    yield "crash_signal", 4
    yield "crash_error", 4  # the exception's error code
    yield "host_stack", 8  # RSP at the entry, 0 outside
    yield "crash_vector", 8
    yield "crash_address", 8
    yield "crash_place", 8  # host RIP
    yield "crash_terminal", 8  # where the terminal's settings are (as TCGETS has them), or 0
    yield "crash_text", 8  # the last words of a process that cannot go on
    for counter in ("count_walks", "count_slow", "count_dispatch", "count_exceptions", "count_code_stores", "count_placed"):
        yield counter, 8
    yield "told", 4  # TOLD_*: Python executes such an instruction, for somebody wants to hear of it
    yield "happened_count", 8  # events that were delivered: HAPPENED_ONE each, the last ones of them in
    yield "happened", HAPPENED * HAPPENED_ONE.size, 64
    # the TLB and the jump cache, and what says how much of them must be forgotten
    yield "large_start", 8  # every translation of a 4 MiB or 1 GiB page in the TLB lies in [large_start, large_end]
    yield "large_end", 8
    yield "large_filter", 512, 64  # of a 2 MiB page: one bit for each, by the low 12 bits of its number
    yield "nonglobal_code", 8  # a kernel-half page without G was executed: its jump cache must go with the next CR3
    yield "jump_pages", 2 * JUMP_FILTER_BYTES, 64  # for each half, one bit for each code page (by hash) that the jump cache knows
    yield "tlb_local", 3 * 8  # one bit for each group of entries that may hold some of this address space alone
    yield "tlb_flags", 3 * TLB_ENTRIES, 64  # one byte an entry: FLAG_*
    yield "tlb", 3 * TLB_BYTES, 4096
    yield "jumps", 2 * JUMP_BYTES, 4096  # user half, kernel half
    yield "jump_base", 8  # of CS, for all 32-bit code that the jump cache knows
    yield "end", 8


def _layout() -> dict[str, Field]:
    fields: dict[str, Field] = {}
    at = 0
    for part, declared in ((Part.GUEST, _guest()), (Part.HOST, _host())):
        for name, size, *aligned in declared:
            align = aligned[0] if aligned else min(size, 16)
            at = (at + align - 1) // align * align
            assert name not in fields
            fields[name] = Field(name, part, at, size)
            at += size
    return fields


LAYOUT = _layout()
STATE_BYTES = LAYOUT["end"].offset + 8
GUEST_BYTES = LAYOUT[xstate.IMAGE].offset + xstate.X87.size
"""How many bytes the guest's part has: behind them, FXSAVE leaves the XMM registers of whatever code of the host ran."""

SHARED_START = LAYOUT["code_lines"].offset
SHARED_BYTES = LAYOUT["stop_pages"].offset + LAYOUT["stop_pages"].size - SHARED_START


def offset(name: str) -> int:
    """Where a field lies."""
    return LAYOUT[name].offset
