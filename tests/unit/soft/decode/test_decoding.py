"""Decoding by vendor: lengths and operand sizes where AMD's CPUs and Intel's read the same bytes differently."""

import pytest

from trapgate.arch.models import CpuModel
from trapgate.soft.decode.decoding import decoder, is_locked_move

INTEL, AMD = CpuModel.parse("SapphireRapids"), CpuModel.parse("EPYC-Turin")


@pytest.mark.parametrize(
    ("code", "bits", "intel", "amd"),
    [
        ("0fff48110000", 64, 4, 2),  # UD0 with and without ModRM
        ("66e900000000", 64, 6, 4),
        ("660f8400000000", 64, 7, 5),
        ("66e80000", 32, 4, 4),
        ("48ff28", 64, 3, 3),
    ],
)
def test_length(code: str, bits: int, intel: int, amd: int) -> None:
    assert [decoder(model, bits, bytes.fromhex(code)).decode().len for model in (INTEL, AMD)] == [intel, amd]


def test_a_locked_mov_to_a_control_register_is_none() -> None:
    for raw in (b"\xf0\x0f\x20\xc0", b"\xf0\x0f\x22\xc0"):
        instruction = decoder(AMD, 64, raw).decode()
        assert instruction.is_invalid or is_locked_move(instruction, raw)
        assert decoder(INTEL, 64, raw).decode().is_invalid
    raw = b"\x44\x0f\x20\xc0"  # MOV RAX, CR8 by REX.R
    assert not is_locked_move(decoder(AMD, 64, raw).decode(), raw)
