"""Where the vendors' CPUs differ in user mode: an instruction, the state before it, and what each vendor's leaves behind.

`docs/vendors.md` has the same rules with their sources. The answers stand here for both, so that a host of one vendor keeps the
other's rules as well.
"""

import struct
from dataclasses import dataclass, field

from . import compat
from .processor import Processor
from .state import CODE, FX_INIT, GP, GPR_NAMES, PF_FAULT, SCRATCH, SCRATCH_SIZE, VECTOR_SIGNALS, Fault, State

END, HIGH, BEYOND = SCRATCH + SCRATCH_SIZE, 0x1234_5678 << 32, 1 << 63
POINTER = SCRATCH + 0x1000  # what every register holds that a rule does not name
FSW, FTW = 2, 4  # of the FXSAVE image
GP0 = Fault(VECTOR_SIGNALS[GP], GP)


def page_fault(address: int, error: int = 4) -> Fault:
    """#PF at CPL 3: error code 4 for a load, 6 for a store."""
    return Fault(VECTOR_SIGNALS[PF_FAULT], PF_FAULT, error, address)


@dataclass(frozen=True)
class Answer:
    """What is left behind: how it ended, and what has changed: registers, RFLAGS but for its bit 1, x87 status and tags, quadwords
    of memory by address. `rip`: where it goes on or faults, relative to the code, where the answers name it."""

    fault: Fault | None = None
    registers: dict[str, int] = field(default_factory=dict)
    rflags: int | None = None
    fsw: int | None = None
    tags: int | None = None
    memory: dict[int, int] = field(default_factory=dict)
    rip: int | None = None


@dataclass(frozen=True)
class Rule:
    """One rule. `needs`: the host's feature without which it cannot judge; `tags`: the abridged x87 tag word; `amd_varies`: the
    answer of some of AMD's CPUs is Intel's, which no CPU model stands for."""

    name: str
    code: bytes
    intel: Answer
    amd: Answer
    registers: dict[str, int] = field(default_factory=dict)
    rflags: int = 0x202
    fcw: int = 0x37F
    fsw: int = 0
    tags: int = 0
    st0: int = 0
    memory: dict[int, bytes] = field(default_factory=dict)
    needs: str = ""
    amd_varies: bool = False

    def answers(self, processor: Processor) -> tuple[Answer, ...]:
        """What a processor may leave behind."""
        if processor.vendor != "amd":
            return (self.intel,)
        return (self.amd, self.intel) if self.amd_varies else (self.amd,)

    @property
    def state(self) -> State:
        """The state before it."""
        gpr = tuple(self.registers.get(name, POINTER) for name in GPR_NAMES)
        fx, memory = bytearray(FX_INIT), bytearray(SCRATCH_SIZE)
        struct.pack_into("<HHB", fx, 0, self.fcw, self.fsw, self.tags)
        fx[32:42] = self.st0.to_bytes(10, "little")
        for address, data in self.memory.items():
            memory[address - SCRATCH : address - SCRATCH + len(data)] = data
        return State(gpr, self.rflags, bytes(fx), bytes(memory))


_NOTHING = Answer()
_REP = {"rcx": HIGH, "rsi": HIGH | POINTER, "rdi": HIGH | POINTER}
_ALL_FLAGS, _EQUAL = 0x8D5, 0x44  # of a comparison with a result of 0: ZF and PF


def _no_iterations() -> list[Rule]:
    extended = {"movs": ("rcx", "rsi", "rdi"), "stos": ("rcx", "rdi"), "lods": ("rcx",), "scas": ("rcx",), "cmps": ("rcx",)}
    opcodes = {"movs": 0xA4, "cmps": 0xA6, "stos": 0xAA, "lods": 0xAC, "scas": 0xAE}
    return [
        Rule(
            f"{prefix} {name}, 32-bit addresses, ECX = 0",
            bytes((0x67, byte, opcodes[name])),
            Answer(registers={one: _REP[one] & 0xFFFF_FFFF for one in names}),
            _NOTHING,
            _REP,
        )
        for name, names in extended.items()
        for prefix, byte in (("REP", 0xF3), ("REPNE", 0xF2))
    ]


def _mmx_stores() -> list[Rule]:
    fault = page_fault(END, 6)
    codes = {"MOVD": "0f7e1f", "MOVD, 64 bits": "480f7e1f", "MOVQ": "0f7f1f", "MOVNTQ": "0fe71f"}
    return [
        *(
            Rule(
                f"{name} that faults",
                bytes.fromhex(code),
                Answer(fault, fsw=0),
                Answer(fault),
                {"rdi": END},
                fcw=fcw,
                fsw=0x2800,
                tags=0x81,
            )
            for name, code in codes.items()
            for fcw in (0x37F, 0x37E)  # natively, from Python
        ),
        *(
            Rule(
                f"MASKMOVQ that faults, FCW {fcw:X}",
                bytes.fromhex("0ff7de"),
                Answer(fault, fsw=0, tags=0xFF),
                Answer(fault),
                {"rdi": END},
                fcw=fcw,
                fsw=0x2800,
                tags=0x81,
                amd_varies=True,
            )
            for fcw in (0x37F, 0x37E)
        ),
    ]


def _x87_stores() -> list[Rule]:
    """Names, codes, FCW, what ST0 holds, the status behind an unmasked exception that keeps the store from happening."""
    third, large, huge = 0x3FFD_AAAA_AAAA_AAAA_AAAB, 0x5FFF_8000_0000_0000_0000, 0x403F_8000_0000_0000_0000
    rows = (
        ("FST m32, overflow", "d917", 0x377, large, 0xA888),
        ("FSTP m64, overflow", "dd1f", 0x377, large, 0xA888),
        ("FISTP m64, too large", "df3f", 0x37E, huge, 0xA881),
        ("FBSTP, too large", "df37", 0x37E, huge, 0xA881),
    )
    return [
        *(
            Rule(f"{name}, of what faults", bytes.fromhex(code), Answer(fsw=fsw), Answer(page_fault(END, 6)), {"rdi": END},
                 fcw=fcw, fsw=0x2800, tags=0x20, st0=value)
            for name, code, fcw, value, fsw in rows
        ),
        Rule("FST m32, inexact, of what faults", bytes.fromhex("d917"), Answer(page_fault(END, 6)), Answer(page_fault(END, 6)),
             {"rdi": END}, fcw=0x35F, fsw=0x2800, tags=0x20, st0=third),
    ]  # fmt: skip


def _sha() -> list[Rule]:
    codes = ("0fc8", "0fc9", "0fca", "0fcb", "0fcc", "0fcd")
    return [
        Rule(f"0F 38 {code[2:].upper()} (SHA) off its alignment, of what faults", bytes.fromhex(f"0f38{code[2:]}0f"), Answer(GP0),
             Answer(page_fault(END)), {"rdi": END - 8}, needs="sha_ni")
        for code in codes
    ] + [
        Rule("SHA1RNDS4 off its alignment, of what faults", bytes.fromhex("0f3acc0f01"), Answer(GP0), Answer(page_fault(END)),
             {"rdi": END - 8}, needs="sha_ni"),
    ]  # fmt: skip


def _wraps() -> list[Rule]:
    """Compatibility mode, flat segments: the first byte is not there either."""
    last = 0xFFFF_FFFF
    rows = (
        ("MOV store", "8930", {"rax": last}, page_fault(last, 6)),
        ("MOV load", "8b30", {"rax": last}, page_fault(last)),
        ("MOVSD", "a5", {"rsi": last}, page_fault(last)),
        ("PUSH m32", "ff30", {"rax": last}, page_fault(last)),
        ("BTS m32, r32", "0fab08", {"rax": last, "rcx": 1}, page_fault(last, 6)),
        ("MOVDQU", "f30f6f00", {"rax": last - 4}, page_fault(last - 4)),
        ("FLD m64", "dd00", {"rax": last - 4}, page_fault(last - 4)),
    )
    stack = CODE + len(compat.PREFIX)  # what PREFIX has pushed stands in memory
    frame = {POINTER - 16: stack, POINTER - 8: compat.USER_CS32}
    return [
        Rule(
            f"{name} across 4 GiB",
            compat.PREFIX + bytes.fromhex(code),
            Answer(fault, memory=frame),
            Answer(GP0, memory=frame),
            registers,
        )
        for name, code, registers, fault in rows
    ]


def _branches() -> list[Rule]:
    """Near branches with a 16-bit operand size, and a far pointer with REX.W: nothing is mapped at their 16-bit targets."""
    low, ahead = CODE & 0xFFFF, CODE + 0x20

    def lost(rip: int, **changed: int) -> Answer:
        return Answer(page_fault(rip, 0x14), changed, rip=rip - CODE)

    return [
        Rule("JMP with a 16-bit operand size", bytes.fromhex("66e900000000"), Answer(rip=6), lost(low + 4)),
        Rule("JMP short with a 16-bit operand size", bytes.fromhex("66eb10"), Answer(rip=0x13), lost(low + 0x13)),
        Rule("JE with a 16-bit operand size", bytes.fromhex("667410"), Answer(rip=0x13), lost(low + 0x13), rflags=0x246),
        Rule("LOOP with a 16-bit operand size", bytes.fromhex("66e210"), Answer(registers={"rcx": POINTER - 1}, rip=0x13),
             lost(low + 0x13, rcx=POINTER - 1)),
        Rule("RET with a 16-bit operand size", bytes.fromhex("66c3"), Answer(registers={"rsp": POINTER + 8}, rip=0x20),
             lost(low + 0x20, rsp=POINTER + 2), memory={POINTER: ahead.to_bytes(8, "little")}),
        Rule("CALL with a 16-bit operand size", bytes.fromhex("66ffd0"),
             Answer(registers={"rsp": POINTER - 8}, memory={POINTER - 8: CODE + 3}, rip=0x20),
             Answer(page_fault(low + 0x20, 0x14), {"rsp": POINTER - 2}, memory={POINTER - 8: low + 3 << 48}, rip=low + 0x20 - CODE),
             {"rax": ahead}),
        Rule("JMP far with REX.W", bytes.fromhex("48ff2f"), Answer(GP0), Answer(), {"rdi": POINTER},
             memory={POINTER: ahead.to_bytes(4, "little") + b"\x33\0"}),
    ]  # fmt: skip


RULES = (
    *_branches(),
    *_no_iterations(),
    Rule(
        "REP MOVSQ, 32-bit addresses, whose first iteration faults",
        bytes.fromhex("67f348a5"),
        Answer(page_fault(END, 6), {"rcx": 7, "rsi": POINTER, "rdi": END - 7}),
        Answer(page_fault(END, 6)),
        {"rcx": HIGH | 7, "rsi": HIGH | POINTER, "rdi": HIGH | END - 7},
    ),
    Rule(
        "REPE SCASB that faults after three",
        bytes.fromhex("f3ae"),
        Answer(page_fault(END), {"rcx": 6, "rdi": END}),
        Answer(page_fault(END), {"rcx": 6, "rdi": END}, 0x200 | _EQUAL),
        {"rax": 0, "rcx": 9, "rdi": END - 3},
        0x202 | _ALL_FLAGS,
    ),
    Rule(
        "REPE CMPSB that faults after three",
        bytes.fromhex("f3a6"),
        Answer(page_fault(END), {"rcx": 6, "rsi": POINTER + 3, "rdi": END}),
        Answer(page_fault(END), {"rcx": 6, "rsi": POINTER + 3, "rdi": END}, 0x200 | _EQUAL),
        {"rcx": 9, "rdi": END - 3},
        0x202 | _ALL_FLAGS,
    ),
    Rule("CALL to what is not canonical", b"\xff\xd0", Answer(GP0, memory={POINTER - 8: CODE + 2}), Answer(GP0), {"rax": BEYOND}),
    *_mmx_stores(),
    *_x87_stores(),
    *_sha(),
    *_wraps(),
    Rule(
        "MOVSXD with a 16-bit operand",
        bytes.fromhex("66630f"),
        Answer(registers={"rcx": 0x1111_2222_3333_4444}),
        Answer(page_fault(END)),
        {"rcx": 0x1111_2222_3333_5555, "rdi": END - 2},
        memory={END - 2: b"\x44\x44"},
    ),
)  # fmt: skip
