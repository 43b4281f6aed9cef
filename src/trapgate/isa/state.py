"""The CPU state that translated code works on: one flat struct, its fields by name. Offsets are bytes; little-endian.

RIP and the flags come first so that out-of-line code can reach them with short displacements.
Flags are kept as what they follow from: `flag_result` (sign-extended result: ZF, SF, PF) and `flag_aux`, whose bits are
0 = CF ^ OF, 1 = CF, 2 = SF delta, 3 = AF, 8-15 = parity delta. `isa.flags` is the only reader and writer.
"""

from dataclasses import dataclass

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
JUMP_ENTRIES = 2048  # of 16 bytes: tag (RIP low 48 bits | mode << 48), host code
JUMP_BYTES = JUMP_ENTRIES * 16
JUMP_FILTER_BYTES = 512  # a bit for each code page, by the low 12 bits of its number

NATIVE_SLOTS = 256
MTRR_RULES = 8
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

PORT_OUT = 1 << 24
NATIVE_FALLBACK = 0xFFFF0000  # EXIT_INSTRUCTION with such a number and above: a native function whose case is not plain

# What an access wants: the argument of the native `access` and `access_kind`.
ACCESS_WRITE, ACCESS_FETCH, ACCESS_USER, ACCESS_AC, ACCESS_PEEK = 1, 2, 4, 8, 16
ACCESS_READ = 32  # beside ACCESS_WRITE: it reads as well
NOT_CANONICAL = 2  # in `fault_has_error`: #GP(0), or #SS(0), as Python finds out
KIND_LOAD, KIND_STORE, KIND_MODIFY, KIND_LOCK, KIND_REFERENCE, KIND_COMMIT = range(6)
# Results of `access` below 4096 are no host addresses.
ACCESS_FAULT, ACCESS_HARD = 1, 2
RIGHT_READ, RIGHT_WRITE, RIGHT_FETCH, RIGHT_GLOBAL, RIGHT_UNCACHED, RIGHT_LARGE, RIGHT_2M = 1, 2, 4, 8, 16, 32, 64


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the CPU state: where it lies and how many bytes it has."""

    name: str
    offset: int
    size: int


def _layout() -> dict[str, Field]:
    fields: dict[str, Field] = {}
    at = 0

    def add(name: str, size: int, align: int = 0) -> None:
        nonlocal at
        align = align or min(size, 16)
        at = (at + align - 1) // align * align
        assert name not in fields
        fields[name] = Field(name, at, size)
        at += size

    add("rip", 8)
    add("flag_result", 8)
    add("flag_aux", 8)
    add("rflags", 8)  # every bit but the six status flags
    add("request", 4)  # not zero: leave translated code at the next block
    add("mode", 4)  # `isa.modes`
    add("budget", 8)  # instructions until translated code leaves (instruction clock only); signed
    add("exit_reason", 4)
    add("exit_detail", 4)  # number of the instruction for Python; for EXIT_PORT: port, size << 16, PORT_OUT
    add("next_rip", 8)
    for name in GENERAL:
        add(name, 8)
    for name in SEGMENTS:
        add(f"{name}_base", 8)
        add(f"{name}_limit", 4)
        add(f"{name}_attributes", 4)  # descriptor bits 40-55 (type S DPL P . AVL L D G), bit 16: unusable (null)
        add(f"{name}_selector", 8)
    for name in ("gdt", "idt"):
        add(f"{name}_base", 8)
        add(f"{name}_limit", 8)
    for name in ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "xcr0", "dr0", "dr1", "dr2", "dr3", "dr6", "dr7", "debugctl"):
        add(name, 8)
    for name in ("star", "lstar", "cstar", "sfmask", "kernel_gs_base", "tsc_aux", "sysenter_cs", "sysenter_esp", "sysenter_eip"):
        add(name, 8)
    # a fault on its way to the guest
    add("fault_vector", 4)
    add("fault_error", 4)
    add("fault_has_error", 4)
    add("caught", 4)  # not zero: Python looks at every exception before it is delivered
    add("fault_delivering", 4)  # a delivery is in progress: another fault goes to the double-fault rules
    # debug
    add("pending_debug", 4)  # active-high DR6 causes of the instruction under way, delivered behind it
    add("bus_lock_trap", 4)  # not zero: DEBUGCTL[2] is set and CPL > 0
    add("bld_free", 4)  # not zero: MOV to DR6 can change BLD whatever DEBUGCTL says (Intel with bus-lock detection)
    add("bus_lock_report", 4)  # not zero: the machine wants to hear of every bus lock
    add("split_lock_ac", 4)  # not zero: MSR 33h bit 29
    add("irq_waiting", 4)  # an interrupt waits for IF
    add("shadow", 4)  # 1: STI shadow, 2: MOV SS shadow; valid for the instruction at shadow_rip
    add("stepping", 4)  # a block of one instruction runs: watched accesses are recorded, not restarted
    add("shadow_rip", 8)
    # an access that could not be settled in translated code
    add("access_size", 4)
    add("access_kind", 4)
    add("bounce_address", 8)  # guest-virtual address that `bounce` stands for
    add("bounce_size", 8)
    add("bounce", 576, 64)  # an operand that lies in two pages or on a device; XSAVE areas are the longest
    for name in ("T0", "T1", "T2", "EA", "HOST", "X", "RESUME"):
        add(f"saved_{name}", 8)
    # the host's side
    add("ram_base", 8)
    add("ram_low_end", 8)
    add("ram_high_end", 8)
    add("code_lines", 8)  # host address of a table: for each guest-physical page, one bit for each 64 bytes that were translated
    add("kept_lines", 8)  # the same for blocks that Python keeps
    add("block_table", 8)  # host address of the table of blocks by (RIP, physical address, mode)
    add("block_mask", 8)
    add("block_count", 8)  # entries of that table in use
    add("block_space", 8)  # what decides translation besides the mode, in the same word: `isa.native.placing`
    add("page_blocks", 8)  # host address of a table: for each guest-physical page, 1 + the place of its first block
    add("known_base", 8)  # host address of the records of known blocks
    add("patterns", 8)  # host address of the patterns of instructions that blocks are composed of
    add("chaining", 4)  # not zero: branches between the blocks of a page are direct
    add("code_base", 8)  # the code buffer: where it may be executed, where it may be written, where it ends, how far it may grow
    add("code_write", 8)
    add("code_end", 8)
    add("code_limit", 8)
    add("stop_pages", 512, 64)  # for each page of linear addresses, by the low 12 bits of its number: breakpoints lie in it
    add("physical_mask", 8)  # address bits that may be set in a page-table entry
    add("walk_physical", 8)  # results of the native page walk
    add("walk_rights", 8)
    for name in ("reads", "writes"):  # host addresses of what data breakpoints watch: `isa.native.watching`
        add(f"watched_{name}", 8)
        add(f"watched_{name}_end", 8)
    add("walk_entry", 8)
    # What is not write-back memory, where a locked access locks the bus: `arch.memtypes` says it all.
    add("pat_uncached", 8)  # one bit for each entry of the PAT
    add("mtrr_end", 8)  # from here on all RAM is write-back; below it hold:
    add("mtrr_uncached", 8)  # 1: where no rule matches
    add("mtrr_rules_end", 8)  # bytes in use of
    add("mtrr_rules", 16 * MTRR_RULES)  # (base and bit 0: uncached; mask), the last that matches counts
    add("mtrr_fixed_end", 8)  # below it, one bit for each page in `mtrr_fixed` counts instead
    add("mtrr_fixed", 32)
    add("table_reserved", 8)  # bits that are 0 in a PML4E and in a PDPTE that points to a table, besides PS: AMD's G
    add("nmi_blocked", 4)  # an NMI was delivered; IRET opens the way for the next
    add("large_start", 8)  # every translation of a 4 MiB or 1 GiB page in the TLB lies in [large_start, large_end]
    add("large_end", 8)
    add("large_filter", 512, 64)  # of a 2 MiB page: one bit for each, by the low 12 bits of its number
    add("jump_pages", 2 * JUMP_FILTER_BYTES, 64)  # for each half, one bit for each code page (by hash) that the jump cache knows
    add("nonglobal_code", 8)  # a kernel-half page without G was executed: its jump cache must go with the next CR3
    # the time-stamp counter, as long as guest time follows the host's monotonic clock
    add("tsc_hz", 8)  # its rate while guest time follows the host's clock, else 0
    add("counted_hz", 8)  # the same with the instruction clock; both 0: Python reads it
    add("clock_counted", 8)  # guest time (ns) plus `budget`, with the instruction clock
    add("tsc_offset", 8)  # its value at guest time 0
    add("clock_zero", 8)  # the host's monotonic clock (ns) at guest time 0
    add("clock_due", 8)  # the same when the next timer is due
    add("clock_gettime", 8)  # the address of the host's function
    add("host_time", 16)  # what it answers: seconds, nanoseconds
    add("guest_mxcsr", 4)
    add("host_mxcsr", 4)
    add("x87_live", 4)  # the guest's x87 state is in the host's registers
    for pointer in ("x87_fip", "x87_fdp", "x87_fop"):
        add(pointer, 8)  # of the guest's last x87 instruction, while its state is live: the host's registers have the host's
    add("mxcsr_unmasked", 4)
    add("fxsave", 512, 64)  # the guest's x87 state while it is not live; XMM live in `xmm0`-`xmm15`
    for n in range(16):
        add(f"xmm{n}", 16)
    add("scratch", 256, 64)
    # a signal of the host's amid translated code: what `stencil.entering` needs for it, and leaves of it
    add("host_stack", 8)  # RSP at the entry, 0 outside
    add("crash_signal", 4)
    add("crash_error", 4)  # the exception's error code
    add("crash_vector", 8)
    add("crash_address", 8)
    add("crash_place", 8)  # host RIP
    add("crash_terminal", 8)  # where the terminal's settings are (as TCGETS has them), or 0
    add("crash_text", 8)  # the last words of a process that cannot go on
    add("native_table", 8 * NATIVE_SLOTS, 64)  # addresses of the native functions, by their place in the sorted list of names
    for counter in ("count_walks", "count_slow", "count_dispatch", "count_exceptions", "count_code_stores", "count_placed"):
        add(counter, 8)
    add("tlb_local", 3 * 8)  # one bit for each group of entries that may hold some of this address space alone
    add("tlb_flags", 3 * TLB_ENTRIES, 64)  # one byte an entry: FLAG_*
    add("tlb", 3 * TLB_BYTES, 4096)
    add("jumps", 2 * JUMP_BYTES, 4096)  # user half, kernel half
    add("end", 8)
    return fields


LAYOUT = _layout()
STATE_BYTES = LAYOUT["end"].offset + 8


def offset(name: str) -> int:
    """Where a field lies."""
    return LAYOUT[name].offset
