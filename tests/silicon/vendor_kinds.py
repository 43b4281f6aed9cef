"""Where the vendors' processors differ, or where only silicon tells: cases of each kind, for recordings.

What random operands hardly meet: ends of memory, addresses that are not canonical, two faults of one instruction, 32-bit wraps. The
manuals' places: SDM vol. 1, 4.3 (wrapping), vol. 2 (the instruction), vol. 3, 6.9 (order of faults); APM vol. 2, 8.5, vol. 3.
"""

from collections.abc import Iterator
from typing import NamedTuple

from .assemble import assemble
from .compare import Case
from .compat import PREFIX
from .decoded import form_of
from .state import CODE, CODE_PAGE, DF, FX_INIT, GPR_NAMES, SCRATCH, SCRATCH_SIZE, State

MIDDLE = SCRATCH + 0x1000
END = SCRATCH + SCRATCH_SIZE  # nothing is mapped behind it
BEYOND = 1 << 63  # not canonical
HIGH = 0xDEAD_BEEF << 32
CONTROL = SCRATCH + 0x100  # of a control word for the x87
MASKED, UNMASKED = 0x037F, 0x0340  # FCW with every exception masked, unmasked; 64 bits of precision
# Opcodes of string instructions, of bytes and wider, and of those bytes-wide ones that compare.
REPEATED = {"movs": ("a4", "a5"), "stos": ("aa", "ab"), "lods": ("ac", "ad"), "scas": ("ae", "af"), "cmps": ("a6", "a7")}
COMPARING = ("ae", "a6")
SHA = ("sha1msg1", "sha1msg2", "sha1nexte", "sha256msg1", "sha256msg2", "sha256rnds2")


class Kind(NamedTuple):
    ""

    "Code and what its state has other than registers that point to MIDDLE: registers by name, words of memory by address."
    ""

    code: bytes
    registers: dict[str, int]
    memory: dict[int, int]
    rflags: int = 0x202


def _text(text: str, memory: dict[int, int] | None = None, **registers: int) -> Kind:
    return Kind(assemble(text.replace("; ", "\n")), registers, memory or {})


def _bytes(code: str, memory: dict[int, int] | None = None, **registers: int) -> Kind:
    return Kind(bytes.fromhex(code), registers, memory or {})


def _narrow(code: str, memory: dict[int, int] | None = None, **registers: int) -> Kind:
    """32-bit code; its registers are 32 bits wide."""
    return Kind(PREFIX + bytes.fromhex(code), registers, memory or {})


def _counts_of_zero() -> Iterator[Kind]:
    """REP with a 32-bit address size, ECX = 0 or a fault before the first repetition: which registers lose their upper halves."""
    for byte, wide in REPEATED.values():
        for opcode in (byte, "66" + wide, wide, "48" + wide):
            for prefix in ("f3", "f2") if byte in COMPARING else ("f3",):
                code = "67" + prefix + opcode if not opcode.startswith("66") else "6667" + prefix + wide
                for rcx in (HIGH, HIGH | 2):
                    yield _bytes(code, rcx=rcx, rsi=HIGH | MIDDLE, rdi=HIGH | MIDDLE + 64)
                    yield _bytes(code, rcx=rcx, rsi=HIGH | END, rdi=HIGH | MIDDLE)
                    yield _bytes(code, rcx=rcx, rsi=HIGH | MIDDLE, rdi=HIGH | END)


def _faults_amid_repetitions() -> Iterator[Kind]:
    ""
    "SCAS and CMPS that meet the end of memory behind some rounds: flags and registers of the fault; forwards and backwards."
    ""
    unlike = {MIDDLE + 8 * n: 0x1111 * (n + 1) for n in range(8)}
    for opcode in REPEATED["scas"] + REPEATED["cmps"]:
        for before, size in (("", 1),) if opcode in COMPARING else (("66", 2), ("", 4), ("48", 8)):
            for prefix, rax, words in (("f3", 0, {}), ("f2", 0x7777_7777_7777_7777, unlike)):  # while equal; memory is 0 there
                code = bytes.fromhex(before + prefix + opcode if before == "66" else prefix + before + opcode)
                for rounds in (0, 1, 3, 5):
                    up, down = END - size * rounds, SCRATCH + size * (rounds - 1)
                    yield Kind(code, {"rax": rax, "rcx": 9, "rdi": up}, words)
                    yield Kind(code, {"rax": rax, "rcx": 9, "rdi": down, "rsi": MIDDLE + 56}, words, 0x202 | DF)


def _calls_to_nowhere() -> Iterator[Kind]:
    ""
    "Near branches to a target that is not canonical or not there: what has been stored when the fault comes, and whose it is."
    ""
    for rsp in (MIDDLE, END - 4, SCRATCH + 4, END + 64, BEYOND):
        yield _text("call rax", rax=BEYOND, rsp=rsp)
        yield _text("call qword ptr [rbx]", {MIDDLE: BEYOND}, rsp=rsp if rsp != MIDDLE else MIDDLE + 128)
        yield _text("call rax", rax=CODE_PAGE + 0x2000, rsp=rsp)
        yield _text("ret", {MIDDLE: BEYOND}, rsp=rsp)
        yield _text("ret 16", {MIDDLE: BEYOND}, rsp=rsp)
        yield _text("jmp rax", rax=BEYOND, rsp=rsp)
    for target in (SCRATCH, CODE_PAGE - 16, END, 0x7FFF_FFFF_F000, (1 << 47) - 1):
        yield _text("jmp rax", rax=target)
        yield _text("call rax", rax=target)
        yield _text("ret", {MIDDLE: target})


def _sha() -> Iterator[Kind]:
    """SHA instructions with a memory operand that is not aligned, or not there, or neither."""
    for name in (*(f"{name} xmm1, [rbx]" for name in SHA), "sha1rnds4 xmm1, [rbx], 2"):
        for rbx in (
            MIDDLE,
            MIDDLE + 1,
            MIDDLE + 8,
            MIDDLE - 4,
            END,
            END + 4,
            END - 8,
            SCRATCH - 16,
            SCRATCH - 8,
            BEYOND,
            BEYOND + 4,
        ):
            yield _text(name, rbx=rbx)


def _mmx_that_faults() -> Iterator[Kind]:
    """MMX instructions with an operand that faults, the x87 stack in use: whether the transition to MMX has happened."""
    for text in (
        "movntq [rdx], mm3", "movd dword ptr [rdx], mm3", "movq qword ptr [rdx], mm3", "maskmovq mm0, mm1",
        "movd mm3, dword ptr [rdx]",
        "movq mm3, qword ptr [rdx]", "paddb mm0, [rdx]", "pshufw mm1, [rdx], 1", "punpcklbw mm0, dword ptr [rdx]",
        "pinsrw mm1, [rdx], 1",
        "psllw mm1, [rdx]", "pabsb mm1, [rdx]", "cvtps2pi mm1, [rdx]", "cvttpd2pi mm1, [rdx]", "cvtpi2ps xmm1, [rdx]",
        "cvtpi2pd xmm1, [rdx]",
    ):  # fmt: skip
        for where in (MIDDLE, END, END - 2, BEYOND):
            yield _text(f"fld1; fldpi; {text}", rdx=where, rdi=where)


def _x87_stores_that_fault() -> Iterator[Kind]:
    """x87 stores with an unmasked response and a page fault together, and each alone."""
    stores = (
        "fst dword ptr [rdx]", "fst qword ptr [rdx]", "fstp dword ptr [rdx]", "fstp qword ptr [rdx]",
        "fstp tbyte ptr [rdx]",
        "fist word ptr [rdx]", "fist dword ptr [rdx]", "fistp word ptr [rdx]", "fistp dword ptr [rdx]",
        "fistp qword ptr [rdx]",
        "fisttp word ptr [rdx]", "fisttp dword ptr [rdx]", "fisttp qword ptr [rdx]", "fbstp tbyte ptr [rdx]",
        "fnstcw word ptr [rdx]", "fnstsw word ptr [rdx]",
    )  # fmt: skip
    pi, huge, none = "fldpi; ", "fld tbyte ptr [rcx]; ", ""
    big = {MIDDLE + 0x200: 0xC000_0000_0000_0001, MIDDLE + 0x208: 0x7FF0}
    for text in stores:
        for before in (pi, huge, none):
            for control in (UNMASKED, MASKED):
                for where in (MIDDLE, END):
                    yield _text(
                        f"fldcw [rsi]; {before}{text}", big | {CONTROL: control}, rsi=CONTROL, rcx=MIDDLE + 0x200, rdx=where
                    )


def _x87_encodings() -> Iterator[Kind]:
    """Extended reals that IEEE 754 does not know: pseudo-denormals, unnormals, pseudo-infinities, pseudo-NaNs."""
    for significand, exponent in (
        (1 << 63, 0), ((1 << 63) + 5, 0x8000), (1 << 62, 0x3FFF), (5, 0x4000), (0, 0x7FFF), (1 << 62, 0x7FFF), (1, 0x7FFF),
    ):  # fmt: skip
        words = {MIDDLE: significand, MIDDLE + 8: exponent}
        for text in (
            "fxam",
            "fld1; fadd st, st(1)",
            "fsqrt",
            "frndint",
            "fstp qword ptr [rdx]",
            "fist dword ptr [rdx]",
            "fxtract",
            "fcomi st, st(0)",
        ):
            yield _text(f"fld tbyte ptr [rbx]; {text}", words, rdx=MIDDLE + 64)


def _wraps_at_4gib() -> Iterator[Kind]:
    """32-bit accesses that straddle 4 GiB in a flat segment, and stacks that do."""
    for where in (0xFFFF_FFFE, 0xFFFF_FFFF, 0xFFFF_FFFD, 0xFFFF_FFF8):
        for code in ("8b03", "8903", "0103", "668b03", "d9ee db3b", "dd03", "0f1003", "0fc70b", "ff33", "8f03", "0fab03", "6203"):
            yield _narrow(code.replace(" ", ""), rbx=where)
    for esp in ("02000000", "01000000", "00000000", "03000000", "feffffff"):
        for code in ("50", "60", "6a05", "9c", "58", "61", "c3", "c8080000", "e800000000", "ffd0"):
            yield _narrow(f"bc{esp}{code}")  # mov esp, ...
    for code in ("a4", "a5", "ab", "ad", "af", "a7"):
        yield _narrow(code, rsi=0xFFFF_FFFE, rdi=MIDDLE)
        yield _narrow(code, rsi=MIDDLE, rdi=0xFFFF_FFFF)


def _widths_of_branches() -> Iterator[Kind]:
    """Near branches with 66h: Intel ignores the prefix in 64-bit mode, AMD has 16-bit branches. And far ones with REX.W."""
    for code in (
        "66eb10",
        "66e910000000",
        "66e810000000",
        "66c3",
        "66c20800",
        "660f8410000000",
        "667410",
        "66e310",
        "66e210",
        "66ffe0",
        "66ffd0",
        "66ff23",
        "66ff13",
    ):
        yield _bytes(code, {MIDDLE: CODE + 0x20, MIDDLE + 0x100: CODE + 0x20}, rax=CODE + 0x20, rbx=MIDDLE + 0x100, rcx=1)
    far = {MIDDLE: CODE + 0x20, MIDDLE + 8: 0x33, MIDDLE + 0x100: 0x33_0000_0000 | CODE + 0x20}
    for code in ("48ff2b", "48ff1b", "48cb"):
        yield _bytes(code, far, rsp=MIDDLE if code == "48cb" else MIDDLE + 0x80)
    for code in ("ff2b", "ff1b"):
        yield _bytes(code, far, rbx=MIDDLE + 0x100)


def _what_is_not_written() -> Iterator[Kind]:
    ""
    "Read-modify-write on a page that can only be read, also where nothing would change; wide moves of 16 bits; cache control."
    ""
    for text in (
        "add dword ptr [rbx], 1", "cmpxchg [rbx], ecx", "xadd [rbx], ecx", "bts dword ptr [rbx], 3", "xchg [rbx], ecx",
        "lock inc dword ptr [rbx]",
        "rol dword ptr [rbx], 0", "shl dword ptr [rbx], cl", "shld dword ptr [rbx], eax, cl", "cmpxchg8b [rbx]",
        "cmpxchg16b [rbx]", "not byte ptr [rbx]",
        "setc [rbx]", "pop qword ptr [rbx]", "fnstcw [rbx]", "movaps [rbx], xmm1", "rep stosb", "bt dword ptr [rbx], 3",
        "cmp dword ptr [rbx], 1",
    ):  # fmt: skip
        for address in (CODE_PAGE + 0x100, CODE_PAGE + 0x108, END, END + 8, BEYOND):
            yield _text(text, rbx=address, rdi=address, rcx=0, rsp=MIDDLE)
    for code in (
        "6663 03",
        "63 03",
        "4863 03",
        "660fb6 03",
        "0fb7 03",
        "660fbe 03",
        "0f18 03",
        "0f0d 0b",
        "0fae 3b",
        "660fae 3b",
        "0f1f 03",
    ):
        for address in (END - 2, END - 1, END, BEYOND):
            yield _bytes(code.replace(" ", ""), rbx=address)


def _zero_sources() -> Iterator[Kind]:
    """BSF and BSR of zero: whether the destination stays, and how wide."""
    for code in ("660fbcc3", "0fbcc3", "480fbcc3", "660fbdc3", "0fbdc3", "480fbdc3"):
        for rbx in (0, 8):
            yield _bytes(code, rax=0x1234_5678_9ABC_DEF0, rbx=rbx)


def _not_instructions() -> Iterator[Kind]:
    """Encodings that are none, that need a privilege, or that only one vendor or mode has."""
    for code in (
        # none
        "0f0b", "0fff03", "0fff04c5", "0fb903", "0fb8c3", "0f0f03bf", "0f04", "0f0a", "0f3f0000", "0fa6c0", "0f2403",
        "0faecb",
        "06", "27", "60", "9a", "d4", "d6", "ea", "82c001",  # 32-bit only
        "f090", "f001c8", "f08b03", "f00fa303", "f03903", "f08ac8",  # LOCK before what cannot be locked
        # privileged
        "0f06", "0f08", "0f09", "0f30", "0f32", "f4", "fa", "fb", "e410", "e610", "ec", "6c", "0f20c0", "0f23c0", "0f0113",
        # MONITOR, CLAC, RSM, VMX, SMX
        "0f01c8", "0f01c9", "0f01ca", "0faa", "0f78c3", "0fc733", "660fc733", "f30fc733", "0f3703",
        "8ed0",  # MOV SS with a null selector
    ):  # fmt: skip
        yield _bytes(code, rax=0)
    for code in ("f00f05", "d6", "82c001", "0f0b"):  # SYSCALL is one on AMD's CPUs, and enters the host's kernel
        yield _narrow(code)


KINDS = {
    "rep-ecx-0": _counts_of_zero,
    "rep-faults": _faults_amid_repetitions,
    "branch-nowhere": _calls_to_nowhere,
    "sha-unaligned": _sha,
    "mmx-faults": _mmx_that_faults,
    "x87-store-faults": _x87_stores_that_fault,
    "x87-encodings": _x87_encodings,
    "wrap-4gib": _wraps_at_4gib,
    "branch-widths": _widths_of_branches,
    "not-written": _what_is_not_written,
    "zero-source": _zero_sources,
    "no-instruction": _not_instructions,
}


def cases(kind: str) -> Iterator[Case]:
    """The cases of a kind (a key of KINDS)."""
    for code, registers, words, rflags in KINDS[kind]():
        memory = bytearray(SCRATCH_SIZE)
        for address, value in words.items():
            memory[address - SCRATCH : address - SCRATCH + 8] = value.to_bytes(8, "little")
        gpr = tuple(registers.get(name, MIDDLE) for name in GPR_NAMES)
        yield Case(form_of("vendors", code), State(gpr, rflags, FX_INIT, bytes(memory)))
