"""Saving and restoring x87 and SSE state, x87 under unmasked exceptions: short sequences, judged by the host CPU."""

import random

import pytest

from trapgate.arch import xstate
from trapgate.arch.xstate import XCOMP_BV, XSTATE_BV
from trapgate.soft.cpu import SoftVcpu

from . import soft as soft_module
from .assemble import assemble
from .host import HostCpu
from .inputs_float import image, x87_stack, xmm
from .processor import host_processor
from .soft_runner import SoftCpu
from .state import FX_SIZE, GP, MF, NO_UPPER, RAX, RCX, RDI, RDX, SCRATCH, SCRATCH_SIZE, Outcome, State

# Not compared: FOP, FIP, FDP (what AMD keeps only beside a pending exception), MXCSR_MASK, and what no processor writes.
LEFT_OUT = {*range(6, 24), *range(28, 32), *range(416, 512)}
AREA_SIZE = xstate.standard_size(xstate.ALL)
REQUESTS = range(8)  # components, in EAX
AREA = 0x200  # offset of the area in the scratch memory
CROSSING = 0x1000 - 0x100


@pytest.fixture(scope="module")
def soft() -> SoftCpu[SoftVcpu]:
    """The software CPU with all that XCR0 may have."""
    return soft_module.make_soft_cpu()


def _fx(rng: random.Random, mxcsr: int = 0x1F80, control: int = 0x37F) -> bytes:
    return image(control, rng.randrange(8) << 11, rng.getrandbits(8) | 1, mxcsr, x87_stack(rng), xmm(rng))


def _state(rng: random.Random, at: int = AREA, area: bytes = b"", eax: int = 3, fx: bytes | None = None) -> State:
    gpr = [rng.getrandbits(64) for _ in range(16)]
    gpr[4], gpr[RDI], gpr[RAX], gpr[RDX] = SCRATCH + 0x1F00, SCRATCH + at, eax, 0
    memory = bytearray(SCRATCH_SIZE)
    memory[at : at + len(area)] = area
    upper = xmm(rng) if "avx" in host_processor().features else NO_UPPER
    return State(tuple(gpr), 0x202, fx or _fx(rng), bytes(memory), upper)


def _memory(outcome: Outcome, at: int) -> list[int]:
    return [0 if n - at in LEFT_OUT else byte for n, byte in enumerate(outcome.memory)]


def _registers(outcome: Outcome) -> tuple[object, ...]:
    fx = bytes(0 if n in LEFT_OUT else byte for n, byte in enumerate(outcome.fx[:FX_SIZE]))
    return outcome.gpr, outcome.rflags, fx, outcome.upper, outcome.rip, outcome.fault


def _code(text: str) -> bytes:
    """Instructions separated by semicolons."""
    return assemble(text.replace(";", "\n"))


def _agree(host: HostCpu, soft: SoftCpu[SoftVcpu], text: str, state: State, at: int = AREA) -> Outcome:
    code = _code(text)
    expected, got = host.run(code, state), soft.run(code, state)
    assert _registers(got) == _registers(expected)
    assert _memory(got, at) == _memory(expected, at)
    return got


def test_the_table_of_components(host: HostCpu) -> None:
    """CPUID leaf 0Dh of the host, for the components behind the header that it has (SDM vol. 2, CPUID)."""
    components, sizes = list(xstate.COMPONENTS), 0
    for number in range(64):
        state = _state(random.Random(1), eax=0xD)
        gpr = list(state.gpr)
        gpr[RCX] = number
        eax, ecx, _, ebx = host.run(_code("cpuid"), state._replace(gpr=tuple(gpr))).gpr[:4]
        if number > 1 and eax and number < len(components):
            one = components[number]
            assert (eax, ebx, ecx) == (one.size, one.offset, one.supervisor | one.aligned << 1)
            sizes += 1
    assert sizes or not "avx" not in host_processor().features


@pytest.mark.parametrize("at", [AREA, CROSSING])
@pytest.mark.parametrize(
    "text", ["fxsave [rdi]", "fxsave64 [rdi]", "fld1; fxsave64 [rdi]", "pxor xmm3, xmm3; fxsave64 [rdi]; fldz"]
)
def test_fxsave(host: HostCpu, soft: SoftCpu[SoftVcpu], text: str, at: int) -> None:
    got = _agree(host, soft, text, _state(random.Random(f"{text} {at}"), at), at)
    assert got.fault is None
    assert any(got.memory[at + 160 : at + 416])


@pytest.mark.parametrize("text", ["fxrstor [rdi]", "fxrstor64 [rdi]", "emms; fxrstor64 [rdi]; fxsave64 [rdi + 0x800]"])
@pytest.mark.parametrize("mxcsr", [0x1F80, 0x9FC0, 0x1F00, 0x0020])
@pytest.mark.parametrize("control", [0x37F, 0x27F, 0x360])
def test_fxrstor(host: HostCpu, soft: SoftCpu[SoftVcpu], text: str, mxcsr: int, control: int) -> None:
    rng = random.Random(f"{text} {mxcsr} {control}")
    code, state = _code(text), _state(rng, area=_fx(rng, mxcsr, control) + bytes(96))
    expected, got = host.run(code, state), soft.run(code, state)
    assert _registers(got) == _registers(expected)
    assert got.fault is None


@pytest.mark.parametrize(
    "text", ["fxsave [rdi + 8]", "fxrstor [rdi + 8]", "xsave [rdi + 32]", "xrstor [rdi + 32]", "movaps xmm0, [rdi + 1]"]
)
def test_misaligned(host: HostCpu, soft: SoftCpu[SoftVcpu], text: str) -> None:
    got = _agree(host, soft, text, _state(random.Random(1)))
    assert got.fault is not None
    assert got.fault.vector == GP


def test_reserved_mxcsr(host: HostCpu, soft: SoftCpu[SoftVcpu]) -> None:
    rng = random.Random(2)
    for text in ("fxrstor64 [rdi]", "ldmxcsr [rdi + 24]"):
        got = _agree(host, soft, text, _state(rng, area=_fx(rng, 0x81F80)))
        assert got.fault is not None
        assert got.fault.vector == GP


@pytest.mark.parametrize("at", [AREA, CROSSING])
@pytest.mark.parametrize("eax", REQUESTS)
@pytest.mark.parametrize("name", ["xsave", "xsave64", "xsaveopt64", "xsavec64", "xsavec"])
def test_xsave(host: HostCpu, soft: SoftCpu[SoftVcpu], name: str, eax: int, at: int) -> None:
    rng = random.Random(f"{name} {eax} {at}")
    _agree(host, soft, f"{name} [rdi]", _state(rng, at, eax=eax), at)


@pytest.mark.parametrize("eax", [3, 4, 6, 7])
@pytest.mark.parametrize("name", ["xsave64", "xsaveopt64", "xsavec64"])
@pytest.mark.parametrize("before", ["vzeroupper", "vzeroupper; vpcmpeqd xmm3, xmm3, xmm3", "vzeroupper; vpcmpeqd ymm3, ymm3, ymm3"])
def test_upper_halves_in_use(host: HostCpu, soft: SoftCpu[SoftVcpu], name: str, eax: int, before: str) -> None:
    """The init optimization; what an area holds of it is restored, and told by XGETBV."""
    _needs_avx()
    rng = random.Random(f"{name} {eax}")
    state = _state(rng, area=rng.randbytes(xstate.XSTATE_BV) + bytes(64) + rng.randbytes(256), eax=eax)
    _agree(host, soft, f"{before}; {name} [rdi]; vpcmpeqd ymm5, ymm5, ymm5; xrstor64 [rdi]", state)
    state = state._replace(gpr=(0, 1, *state.gpr[2:]))
    expected, got = (runner.run(_code(f"{before}; xgetbv"), state) for runner in (host, soft))
    assert expected.gpr[RAX] & xstate.AVX.bit == got.gpr[RAX] & xstate.AVX.bit


def _needs_avx() -> None:
    if "avx" not in host_processor().features:
        pytest.skip("this host has no AVX")


@pytest.mark.parametrize("eax", [*REQUESTS, 1 << 30 | 7])
@pytest.mark.parametrize("name", ["xsave64", "xsaveopt64", "xsavec64"])
def test_what_xsave_leaves_alone(host: HostCpu, soft: SoftCpu[SoftVcpu], name: str, eax: int) -> None:
    """The area is full already: what was not asked for, or does not exist, stays; of the header but XSTATE_BV and XCOMP_BV all."""
    rng = random.Random(f"{name} {eax}")
    _agree(host, soft, f"{name} [rdi]", _state(rng, area=rng.randbytes(AREA_SIZE + 64), eax=eax))


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("present", REQUESTS)
@pytest.mark.parametrize("eax", REQUESTS)
def test_xrstor(host: HostCpu, soft: SoftCpu[SoftVcpu], eax: int, present: int, compact: bool) -> None:
    has = 3 if "avx" not in host_processor().features else 7
    for mxcsr in (0x1F80, 0x3F80, 0x1D00):
        rng = random.Random(f"{eax} {present} {compact}")
        area = bytearray(_fx(rng, mxcsr).ljust(576, b"\0") + rng.randbytes(256))
        area[XSTATE_BV : XSTATE_BV + 8] = (present & has).to_bytes(8, "little")
        if compact:
            area[XCOMP_BV : XCOMP_BV + 8] = (xstate.COMPACTED | has).to_bytes(8, "little")
        for text in ("xrstor [rdi]", "xrstor64 [rdi]"):
            got = _agree(host, soft, text, _state(rng, area=bytes(area), eax=eax))
            assert got.fault is None


@pytest.mark.parametrize(("offset", "value"), [(XSTATE_BV, 1 << 62), (XCOMP_BV, 1), (XCOMP_BV + 8, 1), (24, 0x10000)])
def test_bad_header(host: HostCpu, soft: SoftCpu[SoftVcpu], offset: int, value: int) -> None:
    rng = random.Random(offset)
    area = bytearray(_fx(rng).ljust(576, b"\0"))
    area[XSTATE_BV] = 3
    area[offset : offset + 8] = value.to_bytes(8, "little")
    got = _agree(host, soft, "xrstor64 [rdi]", _state(rng, area=bytes(area)))
    assert got.fault is not None
    assert got.fault.vector == GP


@pytest.mark.parametrize("tail", ["", "; fld1; fldpi; fstp qword ptr [rdi + 0x400]"])
@pytest.mark.parametrize(
    "text", ["fnsave [rdi]; frstor [rdi]", "fnstenv [rdi]; fldenv [rdi]", "fnsave [rdi]", "fninit", "fnclex", "fnstcw [rdi]"]
)
def test_environment(host: HostCpu, soft: SoftCpu[SoftVcpu], text: str, tail: str) -> None:
    code, state = _code(text + tail), _state(random.Random(text))
    expected, got = host.run(code, state), soft.run(code, state)
    assert _registers(got) == _registers(expected)
    pointers = range(AREA + 12, AREA + 28)  # zeros on the software CPU: a limit (README)
    assert [b for n, b in enumerate(got.memory) if n not in pointers] == [
        b for n, b in enumerate(expected.memory) if n not in pointers
    ]


@pytest.mark.parametrize(
    "wait",
    [
        "fwait",
        "fld1",
        "fst dword ptr [rdi + 64]",
        "paddb mm0, mm1",
        "emms",
        "maskmovq mm0, mm1",
        "fldcw [rdi]",
        "cvtpi2ps xmm0, mm1",
    ],
)
def test_pending_exception(host: HostCpu, soft: SoftCpu[SoftVcpu], wait: str) -> None:
    """FLDCW unmasks everything, 1 / 0 leaves ZE pending: the next waiting instruction takes #MF, FNSTSW and FNCLEX do not."""
    rng = random.Random(wait)
    divide = "fninit; fldz; fld1; fldcw [rdi]; fdiv st(0), st(1); "
    state = _state(rng, area=(0x340).to_bytes(2, "little"))
    got = _agree(host, soft, divide + "fnstsw ax; " + wait, state)
    assert got.fault is not None
    assert got.fault.vector == MF
    assert got.gpr[RAX] & 0x8084 == 0x8084
    got = _agree(host, soft, divide + "fnclex; fwait", state)
    assert got.fault is None


def test_masked_again(host: HostCpu, soft: SoftCpu[SoftVcpu]) -> None:
    """Unmasked and masked in turn, with a store that an unmasked exception suppresses."""
    rng = random.Random(7)
    area = (0x340).to_bytes(2, "little") + (0x37F).to_bytes(2, "little")
    text = (
        "fninit; fldcw [rdi]; fld1; fldpi; faddp; fistp dword ptr [rdi + 8]; fldcw [rdi + 2]; fld1; fldz; fdivp;"
        " fstp qword ptr [rdi + 16]; fnclex; fldcw [rdi]; fstp dword ptr [rdi + 32]; fnstsw [rdi + 40]"
    )
    _agree(host, soft, text, _state(rng, area=area))
