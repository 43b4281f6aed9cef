"""x87, MMX and SSE outside 64-bit mode, and where CR0 and CR4 do not let them run."""

import pytest

from trapgate.exits import Halted
from unit.soft.bench import CODE, DATA, K32, K64, Bench

MP, EM, TS = 1 << 1, 1 << 2, 1 << 3
OSFXSR, OSXSAVE = 1 << 9, 1 << 18
UD, NM, GP = 6, 7, 13
HANDLERS = 0x30000  # a HLT for each vector, 16 bytes apart
FINE = None

ADDPS, PADDB, FLD1, EMMS, WAIT = "0f58c1", "0ffcc1", "d9e8", "0f77", "9b"
LDMXCSR, FXSAVE, XSAVE, PSHUFW = "0fae17", "0fae07", "0fae27", "0f70c100"


def run(bench: Bench, code: str) -> int | None:
    """Execute code at CPL 0 up to a HLT behind it; the vector of the fault that came first, or None."""
    for vector in range(32):
        bench.gate(vector, K64 if bench.mode == "64" else K32, HANDLERS + 16 * vector)
        bench.ram.write(HANDLERS + 16 * vector, b"\xf4")
    bench.ram.write(CODE, bytes.fromhex(code) + b"\xf4")
    bench.st.rip = CODE
    bench.st.rdi = DATA
    bench.cpu.update_mode()
    assert isinstance(bench.cpu.run(), Halted)
    at = bench.st.rip - 1 - HANDLERS
    return at // 16 if 0 <= at < 512 else None


@pytest.mark.parametrize(
    ("cr0", "cr4", "outcomes"),
    [
        (0, OSFXSR | OSXSAVE, {}),
        (TS, OSFXSR | OSXSAVE, dict.fromkeys((ADDPS, PADDB, FLD1, EMMS, LDMXCSR, FXSAVE, XSAVE, PSHUFW), NM)),
        (TS | MP, OSFXSR, {**dict.fromkeys((ADDPS, PADDB, FLD1, EMMS, LDMXCSR, FXSAVE, PSHUFW, WAIT), NM), XSAVE: UD}),
        (EM, OSFXSR, {**dict.fromkeys((ADDPS, PADDB, EMMS, LDMXCSR, XSAVE, PSHUFW), UD), FLD1: NM, FXSAVE: NM}),
        (0, 0, dict.fromkeys((ADDPS, LDMXCSR, XSAVE), UD)),
        (TS, 0, {**dict.fromkeys((ADDPS, LDMXCSR, XSAVE), UD), **dict.fromkeys((PADDB, FLD1, EMMS, FXSAVE, PSHUFW), NM)}),
    ],
)
def test_who_may_run(cr0: int, cr4: int, outcomes: dict[str, int]) -> None:
    bench = Bench("64")
    st = bench.st
    st.cr0 = st.cr0 & ~(MP | EM | TS) | cr0
    st.cr4 = st.cr4 & ~(OSFXSR | OSXSAVE) | cr4
    bench.ram.write_int(DATA, 4, 0x1F80)
    bench.cpu.set("fctrl", 0x37F)
    found = {code: run(bench, code) for code in (ADDPS, PADDB, FLD1, EMMS, WAIT, LDMXCSR, FXSAVE, XSAVE, PSHUFW)}
    assert {code: vector for code, vector in found.items() if vector is not None} == outcomes


def test_fxsave_outside_64_bit_mode_knows_eight_registers() -> None:
    bench = Bench("32")
    bench.st.cr4 |= OSFXSR
    for n in range(16):
        getattr(bench.st, f"xmm{n}")[:] = bytes([n + 1] * 16)
    bench.ram.write(DATA, b"\xee" * 512)
    assert run(bench, FXSAVE) is FINE
    image = bench.ram.read(DATA, 512)
    assert image[160:288] == b"".join(bytes([n + 1] * 16) for n in range(8))
    assert image[288:] == b"\xee" * 224
    bench.ram.write(DATA + 160, bytes(256))
    assert run(bench, "0fae0f") is FINE  # FXRSTOR
    assert [bytes(getattr(bench.st, f"xmm{n}"))[0] for n in range(16)] == [0] * 8 + [n + 1 for n in range(8, 16)]


@pytest.mark.parametrize("mxcsr", [0x1F80, 0x1D80])
def test_ffxsr_leaves_xmm_out_at_cpl_0(mxcsr: int) -> None:
    bench = Bench("64")
    bench.st.efer |= 1 << 14
    bench.cpu.set("mxcsr", mxcsr)
    bench.st.xmm0[:] = b"\x11" * 16
    bench.ram.write(DATA, b"\xee" * 512)
    assert run(bench, FXSAVE) is FINE
    assert bench.ram.read_int(DATA + 24, 4) == mxcsr
    assert bench.ram.read(DATA + 160, 256) == b"\xee" * 256
    assert run(bench, "0fae0f") is FINE  # FXRSTOR
    assert bytes(bench.st.xmm0) == b"\x11" * 16


def test_masked_move_takes_edi_outside_64_bit_mode() -> None:
    bench = Bench("32")
    bench.st.cr4 |= OSFXSR
    bench.st.xmm1[:] = bytes(range(16))
    bench.st.xmm2[:] = b"\x80\x7f" * 8
    bench.ram.write(DATA, b"\xee" * 16)
    assert run(bench, "660ff7ca") is FINE
    assert bench.ram.read(DATA, 16) == bytes(0xEE if n & 1 else n for n in range(16))


def test_reset_leaves_x87_unmasked_and_fninit_masks_it() -> None:
    """After power-on FCW is 40h: nothing may reach the host's x87 with an exception unmasked."""
    bench = Bench("32")
    assert bench.cpu.get("fctrl") == 0x40
    bench.st.cr0 |= 1 << 5
    assert run(bench, "d9e8 dfe0".replace(" ", "")) is FINE  # FLD1 (all registers are full), FNSTSW AX
    assert bench.st.rax & 0x82C1 == 0x82C1  # B, C1: overflow, ES, SF, IE
    assert run(bench, "9b") == 16
    assert run(bench, "dbe3 d9ee d9e8 d8f1 dfe0 9b".replace(" ", "")) is FINE
    assert bench.st.rax & 0x8084 == 0x0004
    assert bench.cpu.get("fctrl") == 0x37F


def test_segment_limit_counts_the_whole_operand() -> None:
    bench = Bench("32")
    bench.st.cr4 |= OSFXSR
    bench.st.ds_limit = DATA + 14
    assert run(bench, "0f1007") == GP  # MOVUPS XMM0, [EDI]
    bench.st.ds_limit = DATA + 15
    assert run(bench, "0f1007") is FINE


def test_mxcsr_from_outside() -> None:
    bench = Bench("64")
    bench.st.cr4 |= 1 << 10
    bench.cpu.set("mxcsr", 0x1D80)  # ZM clear
    assert bench.cpu.get("mxcsr") == 0x1D80
    bench.st.xmm0[:] = bytes.fromhex("0000803f") * 4
    bench.st.xmm1[:] = bytes(16)
    assert run(bench, "0f5ec1") == 19
    assert bench.cpu.get("mxcsr") == 0x1D84
    assert bytes(bench.st.xmm0) == bytes.fromhex("0000803f") * 4
    with pytest.raises(ValueError, match="reserved"):
        bench.cpu.set("mxcsr", 0x10000)
