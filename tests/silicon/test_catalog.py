"""The catalogs cover what they claim: every instruction has forms, every encoding class occurs, operands reach what matters."""

import random

import pytest
from iced_x86 import Decoder, OpKind, Register

from . import catalog, catalog_sse, catalog_x87, operands
from .compare import Case
from .effective import address_of
from .families import FAMILIES, Family
from .forms import access_bytes
from .host import HostCpu
from .inputs import make_state
from .processor import host_processor, lacking
from .sample import choose
from .state import CODE, SCRATCH, SCRATCH_SIZE
from .undefined import NO_REGISTER, shift_count


@pytest.mark.parametrize("mnemonic", catalog.INTEGER)
def test_every_instruction_has_forms(mnemonic: str) -> None:
    forms = catalog.forms(mnemonic)
    assert forms
    for form in forms:
        assert form.mnemonic == mnemonic
        assert Decoder(64, form.code, ip=CODE).decode().len == len(form.code) <= 15


def test_encodings_of_every_class_occur() -> None:
    forms = catalog.forms("add")
    texts = " ".join(form.text for form in forms)
    for wanted in ("ah,", "dil,", "r9b,", "[rdi]", "[r13+r15*4+1234h]", "[r12]", "[edi+8]", "[10000FF8h]", "[rsp-10h]", "lock add"):
        assert wanted in texts, wanted
    assert {form.instruction.op0_kind for form in forms} == {OpKind.REGISTER, OpKind.MEMORY}
    assert any(form.instruction.memory_base == Register.RIP for form in forms)
    assert len({form.code for form in forms}) == len(forms)


def test_memory_operands_lie_where_the_state_says() -> None:
    rng, inside, faulting = random.Random(9), 0, 0
    for form in catalog.forms("add"):
        if form.instruction.memory_base != NO_REGISTER:
            address = address_of(form, make_state(form, rng))
            if address >= SCRATCH and address + access_bytes(form.instruction) <= SCRATCH + SCRATCH_SIZE:
                inside += 1
            else:
                faulting += 1
                assert SCRATCH - 16 <= address <= SCRATCH + SCRATCH_SIZE
    assert inside > 20 * faulting > 0


def test_shift_counts_reach_beyond_the_width() -> None:
    counts = {shift_count(*Case(case.form, case.state)) for case in choose(catalog.forms("rcl"), 2000, "counts")}
    assert {0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63} <= counts


def test_divisions_succeed_and_fail(host: HostCpu) -> None:
    cases = choose(catalog.forms("idiv"), 1000, "idiv")
    faults = sum(after.fault is not None for after in host.run_many((case.form.code, case.state) for case in cases))
    assert 50 < faults < 500


def test_edges_include_signs_and_extremes() -> None:
    for width in (8, 16, 32, 64):
        edges = operands.integer_edges(width)
        assert {0, 1, (1 << width) - 1, 1 << width - 1, (1 << width - 1) - 1} <= set(edges)
        assert all(0 <= value < 1 << width for value in edges)


def test_extended_reals_match_known_encodings() -> None:
    assert operands.extended(1.0) == 0x3FFF_8000_0000_0000_0000
    assert operands.extended(-2.5) == 0xC000_A000_0000_0000_0000


def test_a_seed_repeats_its_cases() -> None:
    first, second = (choose(catalog.forms("adc"), 50, "seed") for _ in range(2))
    assert [(case.form.code, case.state) for case in first] == [(case.form.code, case.state) for case in second]


def test_sse_and_x87_lists_hold_what_they_should() -> None:
    sse, x87 = set(catalog_sse.MNEMONICS), set(catalog_x87.MNEMONICS)
    assert {"addps", "movsd", "pshufb", "pcmpistri", "aesenc", "pclmulqdq", "sha256rnds2", "paddb", "ldmxcsr"} <= sse
    assert {"fadd", "fld", "fstp", "fbstp", "fxam", "fprem", "fcmovb", "fisttp", "fcomi", "fnstsw"} <= x87
    assert not x87 & sse
    assert all(form.mnemonic == "movsd" for form in catalog_sse.forms("movsd"))
    assert any(form.instruction.memory_base == Register.RIP for form in catalog_sse.forms("addps"))


CASES_EACH = 40


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_most_cases_get_through_on_the_host(host: HostCpu, family: Family) -> None:
    """Faults are worth testing, but a list that mostly faults tests nothing else; and nothing may hang or be undefined."""
    for name in family.mnemonics:
        cases = family.choose(name, CASES_EACH, name)
        outcomes = list(host.run_many((case.form.code, case.state) for case in cases))
        faults = [str(after.fault) for after in outcomes if after.fault is not None]
        assert "hung" not in faults, name
        assert "system call" not in faults, name
        lacked = lacking(host_processor(), cases[0].form.instruction)
        assert "#UD" not in faults or lacked, name
        assert len(faults) < CASES_EACH * 0.6, (name, faults[:5])
