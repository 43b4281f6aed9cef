"""Where AVX may run, by mode, CR4.OSXSAVE, XCR0 and CR0; and what of YMM registers is written."""

import pytest

from trapgate.arch import control, xstate
from unit.soft.bench import DATA, Bench
from unit.soft.exact.test_floating_modes import FINE, GP, NM, UD, run

VADDPS, VADDPS_XMM, VZEROUPPER, VZEROALL, VPADDD = "c5f458c2", "c5f058c2", "c5f877", "c5fc77", "c5f5fec2"
VLDMXCSR, VMASKMOVPS, VPGATHERDD, VFMADD, VCVTPH2PS = "c5f8ae17", "c4e2752c07", "c4e26d900c1f", "c4e275a8c2", "c4e27d13c1"
ANDN, ADDPS = "c4e270f2c2", "0f58c1"
AVX = (VADDPS, VADDPS_XMM, VZEROUPPER, VZEROALL, VPADDD, VLDMXCSR, VMASKMOVPS, VFMADD, VCVTPH2PS, VPGATHERDD)
ALL = xstate.ALL


def _bench(mode: str = "64", model: str = "EPYC-Turin") -> Bench:
    bench = Bench(mode, model=model)
    if not bench.cpu.model.has("avx2"):
        pytest.skip("this host has no AVX2")
    st = bench.st
    st.cr4 |= control.CR4_OSFXSR | control.CR4_OSXSAVE | control.CR4_OSXMMEXCPT
    st.xcr0 = xstate.ALL
    bench.ram.write_int(DATA, 4, 0x1F80)
    return bench


@pytest.mark.parametrize("mode", ["64", "32"])
@pytest.mark.parametrize(
    ("cr0", "cr4", "xcr0", "outcome"),
    [
        (0, control.CR4_OSXSAVE, ALL, FINE),
        (control.CR0_EM, control.CR4_OSXSAVE, ALL, FINE),
        (control.CR0_TS, control.CR4_OSXSAVE, ALL, NM),
        (control.CR0_TS | control.CR0_EM, control.CR4_OSXSAVE, ALL, NM),
        (control.CR0_MP, control.CR4_OSXSAVE, ALL, FINE),
        (0, 0, ALL, UD),
        (control.CR0_TS, 0, ALL, UD),
        (0, control.CR4_OSXSAVE | control.CR4_OSFXSR, 3, UD),
        (0, control.CR4_OSXSAVE | control.CR4_OSFXSR, 1, UD),
        (control.CR0_TS, control.CR4_OSXSAVE, 3, UD),
    ],
)
def test_who_may_run(mode: str, cr0: int, cr4: int, xcr0: int, outcome: int | None) -> None:
    """SDM vol. 2, 2.7: neither CR0.EM nor CR4.OSFXSR counts. ANDN needs none of it."""
    bench = _bench(mode)
    st = bench.st
    st.cr0 = st.cr0 & ~(control.CR0_EM | control.CR0_MP | control.CR0_TS) | cr0
    st.cr4 = st.cr4 & ~(control.CR4_OSXSAVE | control.CR4_OSFXSR) | cr4
    st.xcr0 = xcr0
    assert {code: run(bench, code) for code in AVX} == dict.fromkeys(AVX, outcome)
    assert run(bench, ANDN) is FINE


@pytest.mark.parametrize("mode", ["real", "v86"])
def test_no_vex_in_real_mode(mode: str) -> None:
    """C4 and C5 with a register operand are LES and LDS there, and undefined (SDM vol. 2, 2.3)."""
    for code in (VADDPS, VZEROUPPER, ANDN):
        bench = _bench(mode)
        bench.cpu.catch(frozenset({UD}))
        bench.ram.write(0x1040, bytes.fromhex(code) + b"\xf4")
        bench.cpu.update_mode()
        assert getattr(bench.cpu.run(), "vector", None) == UD, code


def test_xsetbv_lets_avx_run_at_once() -> None:
    """XCR0 is changed amid a block: what follows is looked at anew."""
    bench = _bench()
    bench.st.xcr0 = 3
    bench.st.rcx = bench.st.rdx = 0
    bench.st.rax = 7
    assert run(bench, "0f01d1" + VADDPS) is FINE
    bench.st.rax = 3
    assert run(bench, "0f01d1" + VADDPS) == UD
    for value in (5, 4, 6, 0, 8 | 7):
        bench.st.rax = value
        assert run(bench, "0f01d1") == GP


@pytest.mark.parametrize("mode", ["64", "32"])
def test_upper_halves(mode: str) -> None:
    """SSE leaves them alone, VEX.128 clears that of its destination, VZEROUPPER and VZEROALL know the mode's registers."""
    bench = _bench(mode)
    names = [f"ymm{n}h" for n in range(16)]

    def upper() -> list[int]:
        return [bench.cpu.get(name) for name in names]

    def fill() -> None:
        for n, name in enumerate(names):
            bench.cpu.set(name, n + 1)
            bench.cpu.set(f"xmm{n}", 0x100 + n)

    full, known = list(range(1, 17)), 16 if mode == "64" else 8
    fill()
    assert run(bench, ADDPS) is FINE
    assert upper() == full
    assert run(bench, VADDPS_XMM) is FINE
    assert upper() == [0, *full[1:]]
    fill()
    assert run(bench, VZEROUPPER) is FINE
    assert upper() == [0] * known + full[known:]
    assert bench.cpu.get("xmm1") == 0x101
    fill()
    assert run(bench, VZEROALL) is FINE
    assert upper() == [0] * known + full[known:]
    assert [bench.cpu.get(f"xmm{n}") for n in range(16)] == [0] * known + [0x100 + n for n in range(known, 16)]


def test_a_model_without_avx() -> None:
    bench = Bench(model="EPYC-Turin,-avx")
    bench.st.cr4 |= control.CR4_OSXSAVE
    bench.st.xcr0 = 3
    assert {code: run(bench, code) for code in AVX} == dict.fromkeys(AVX, UD)
    assert run(bench, ANDN) is FINE
    for access in (lambda: bench.cpu.get("ymm0h"), lambda: bench.cpu.set("ymm0h", 1)):
        with pytest.raises(KeyError):
            access()
    bench.st.rcx = bench.st.rdx = 0
    bench.st.rax = 7
    assert run(bench, "0f01d1") == GP
