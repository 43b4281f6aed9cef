"""The integer instructions of 64-bit user mode, every form of each. Its siblings list SSE and x87."""

from functools import cache

from iced_x86 import Code, Code_, CpuidFeature, EncodingKind, OpCodeInfo

from .forms import Form, encodings, features, is_legacy, legal_codes, mnemonic_of, names

CONDITIONS = ["o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g"]
ARITHMETIC = [
    "add",
    "or",
    "adc",
    "sbb",
    "and",
    "sub",
    "xor",
    "cmp",
    "test",
    "neg",
    "not",
    "inc",
    "dec",
    "mul",
    "imul",
    "div",
    "idiv",
]
SHIFTS = ["rol", "ror", "rcl", "rcr", "shl", "sal", "shr", "sar", "shld", "shrd"]
BITS = ["bt", "bts", "btr", "btc", "bsf", "bsr", "tzcnt", "lzcnt", "popcnt", "bswap", "movbe"]
BMI = [
    "andn",
    "bextr",
    "blsi",
    "blsmsk",
    "blsr",
    "bzhi",
    "mulx",
    "pdep",
    "pext",
    "rorx",
    "sarx",
    "shlx",
    "shrx",
    "adcx",
    "adox",
    "crc32",
]
MOVES = [
    "mov",
    "movzx",
    "movsx",
    "movsxd",
    "lea",
    "xchg",
    "xadd",
    "cmpxchg",
    "cmpxchg8b",
    "cmpxchg16b",
    "cbw",
    "cwde",
    "cdqe",
    "cwd",
    "cdq",
    "cqo",
    "xlatb",
]
STACK = ["push", "pop", "pushf", "pushfq", "popf", "popfq", "enter", "leave"]
BRANCHES = ["jmp", "call", "ret", "loop", "loope", "loopne", "jecxz", "jrcxz"]
FLAGS = ["lahf", "sahf", "clc", "stc", "cmc", "cld", "std", "nop", "pause"]
STRINGS = [name + size for name in ("movs", "stos", "lods", "scas", "cmps") for size in "bwdq"]
CONDITIONAL = [prefix + condition for prefix in ("cmov", "set", "j") for condition in CONDITIONS]
INTEGER = tuple(ARITHMETIC + SHIFTS + BITS + BMI + MOVES + STACK + BRANCHES + FLAGS + STRINGS + CONDITIONAL)

# Codes that exist but do not belong here: far branches, and those of VIA, Cyrix or Knights Corner. Near branches with 66h are left
# out
# by `forms` (SDM vol. 2, JMP: operand size is forced to 64 bits; AMD APM vol. 3 honours the prefix).
_LEFT_OUT = ("M1616", "M1632", "M1664", "VIA", "CYRIX", "KNC")


def _left_out(code: Code_) -> bool:
    return any(word in names(Code)[code] for word in _LEFT_OUT)


@cache
def _codes() -> dict[str, list[Code_]]:
    """Integer `Code`s by mnemonic. MOVSD and CMPSD are also names of SSE2 instructions, which do not count here."""
    foreign = {getattr(CpuidFeature, name) for name in ("SSE", "SSE2", "KNC", "CYRIX_SMM")}
    table: dict[str, list[Code_]] = {name: [] for name in INTEGER}
    for code in legal_codes():
        name = mnemonic_of(code)
        vex_bmi = OpCodeInfo(code).encoding == EncodingKind.VEX and name in BMI
        if name in table and (is_legacy(code) or vex_bmi) and not features(code) & foreign and not _left_out(code):
            table[name].append(code)
    return table


@cache
def forms(mnemonic: str) -> tuple[Form, ...]:
    """Every form of an integer instruction by its mnemonic; KeyError when it is none."""
    found = (form for code in _codes()[mnemonic] for form in encodings(code))
    if mnemonic == "enter":  # frames that fit into the scratch area
        found = (form for form in found if form.instruction.immediate16 <= 0x80)
    return tuple(found)
