"""Every difference from silicon that was found once: what it was, and a run that shows it. The fast tier replays them all."""

import struct
from dataclasses import dataclass, field

from iced_x86 import Decoder

from .compare import Case
from .forms import Form
from .state import CODE, FX_INIT, FX_SIZE, GPR_NAMES, SCRATCH, SCRATCH_SIZE, State


@dataclass(frozen=True)
class Regression:
    """A run and the state before it: registers by name (the others point into the scratch area), MXCSR, XMM by number, memory by
    address."""

    why: str
    text: str
    code: str
    registers: dict[str, int] = field(default_factory=dict)
    mxcsr: int = 0x1F80
    xmm: dict[int, int] = field(default_factory=dict)
    memory: dict[int, bytes] = field(default_factory=dict)

    def case(self) -> Case:
        """As a case."""
        code = bytes.fromhex(self.code)
        gpr = tuple(self.registers.get(name, SCRATCH + 0x1000) for name in GPR_NAMES)
        fx, memory = bytearray(FX_INIT), bytearray(SCRATCH_SIZE)
        struct.pack_into("<I", fx, 24, self.mxcsr)
        for number, value in self.xmm.items():
            fx[160 + 16 * number : 176 + 16 * number] = value.to_bytes(16, "little")
        for address, data in self.memory.items():
            memory[address - SCRATCH : address - SCRATCH + len(data)] = data
        assert len(fx) == FX_SIZE and len(memory) == SCRATCH_SIZE
        form = Form(code, Decoder(64, b"\x90", ip=CODE).decode(), "nop", self.text)
        return Case(form, State(gpr, 0x202, bytes(fx), bytes(memory)))


END = SCRATCH + SCRATCH_SIZE  # nothing is mapped behind it
REGRESSIONS = (
    Regression(
        "AMD's MOVSXD reads 32 bits for a 16-bit operand; MOVSX and MOVZX, translated by the same rule, did so too",
        "movsx ax,word ptr [rbx]",
        "660fbf03",
        {"rbx": END - 2},
    ),
    Regression("the same", "movzx ax,word ptr [rbx]", "660fb703", {"rbx": END - 2}),
    Regression(
        "ADDSUBPD whose unmasked overflow is exact: PE was told all the same, as it was for HADDPD and HSUBPD",
        "addsubpd xmm9,xmm9",
        "66450fd0c9",
        mxcsr=0x5280,
        xmm={9: 0xFFEFFFFFFFFFFFFFC0E21B0000000000},
    ),
    Regression("the same", "haddpd xmm9,xmm9", "66450f7cc9", mxcsr=0x5280, xmm={9: 0xFFEFFFFFFFFFFFFFFFEFFFFFFFFFFFFF}),
    Regression(
        "DPPS with underflow unmasked: the product raises, so no sum is made whose denormal operand would be told",
        "dpps xmm9,xmm9,10h",
        "66450f3a40c910",
        mxcsr=0x4600,
        xmm={9: 0x0000000000007FFFEF80F6A21843BF31},
    ),
    Regression(
        "the same with two results",
        "dpps xmm15,xmm7,11h",
        "66440f3a40ff11",
        mxcsr=0x2A00,
        xmm={7: 0x079A1EE4A8AFD5E2BFF3C034B088A088, 15: 0x18488A833E316C6DD68A7D7388E50D5B},
    ),
    Regression(
        "DPPS whose product overflows unmasked and is exact: PE stays clear",
        "dpps xmm9,xmm9,10h",
        "66450f3a40c910",
        mxcsr=0xA640,
        xmm={9: 0x007FFFFF7FC000003FEA34D600800000},
    ),
    Regression(
        "an operand in memory that faults, where #MF is pending: #MF comes first",
        "fldcw [rbx]; fldz; fld1; fdivrp; fidiv word ptr [rdx]",
        "d92bd9eed9e8def1de32",
        {"rdx": 1 << 63},
        memory={SCRATCH + 0x1000: (0x340).to_bytes(2, "little")},
    ),
    Regression(
        "the same with MMX",
        "fldcw [rbx]; fldz; fld1; fdivrp; por mm7,[rdx]",
        "d92bd9eed9e8def10feb3a",
        {"rdx": END},
        memory={SCRATCH + 0x1000: (0x340).to_bytes(2, "little")},
    ),
    Regression(
        "the same with MASKMOVQ",
        "fldcw [rbx]; fldz; fld1; fdivrp; maskmovq mm0,mm1",
        "d92bd9eed9e8def10ff7c1",
        {"rdi": END},
        memory={SCRATCH + 0x1000: (0x340).to_bytes(2, "little")},
    ),
    Regression(
        "CVTPI2PD and CVTPI2PS with an operand in memory are no MMX instructions: no #MF, though one is pending",
        "fldcw [rbx]; fldz; fld1; fdivrp; cvtpi2pd xmm1,[rdx]; cvtpi2ps xmm2,[rdx]",
        "d92bd9eed9e8def1660f2a0a0f2a12",
        memory={SCRATCH + 0x1000: (0x340).to_bytes(2, "little")},
    ),
    Regression(
        "DPPD whose product is exact and denormal",
        "dppd xmm9,xmm9,99h",
        "66450f3a41c999",
        mxcsr=0x7380,
        xmm={9: 0xC62A7C007FC00001F0CE745940000000},
    ),
)
