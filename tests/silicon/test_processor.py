"""What /proc/cpuinfo tells of a processor, and what it tells nothing of."""

import pytest
from iced_x86 import Decoder

from .processor import host_processor, lacking, parse

ZEN = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC 9R14
stepping\t: 1
microcode\t: 0xa10113e
flags\t\t: fpu vme sha_ni bmi1 hypervisor

processor\t: 1
vendor_id\t: AuthenticAMD
cpu family\t: 99
"""


def test_the_first_processor_tells() -> None:
    zen = parse(ZEN)
    assert (zen.vendor, zen.family, zen.model, zen.stepping, zen.microcode) == ("amd", 25, 17, 1, "0xa10113e")
    assert zen.slug == "amd-25-17-1"
    assert zen.guest_model == "EPYC-Turin"
    assert str(zen) == "AMD EPYC 9R14 (amd family 25 model 17 stepping 1, virtual)"


def test_another_vendor_has_no_model_here() -> None:
    other = parse(ZEN.replace("AuthenticAMD", "CentaurHauls"))
    assert other.vendor == "CentaurHauls"
    assert other.guest_model is None


@pytest.mark.parametrize("text", ["", "processor\t: 0\nCPU implementer\t: 0x41\n", ZEN.replace("25", "many")])
def test_what_is_no_x86_processor_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no x86 processor"):
        parse(text)


def test_a_host_that_hides_its_stepping_and_microcode() -> None:
    hidden = parse(ZEN.replace("stepping\t: 1", "stepping\t: unknown").replace("microcode\t: 0xa10113e\n", ""))
    assert (hidden.stepping, hidden.microcode) == (0, "unknown")


@pytest.mark.parametrize(("code", "missing"), [("0f38c8c1", ()), ("c4e2f1f7c1", ("bmi2",)), ("f30fbdc1", ("abm",)), ("01c8", ())])
def test_the_extensions_that_an_instruction_needs(code: str, missing: tuple[str, ...]) -> None:
    assert lacking(parse(ZEN), Decoder(64, bytes.fromhex(code)).decode()) == missing


def test_this_host_has_a_processor() -> None:
    assert host_processor().features
