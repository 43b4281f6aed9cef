"""No operand of a guest reaches the host's CPU as something that it might refuse: whatever vendor it is of, whatever it lacks."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from iced_x86 import Code, Decoder, EncodingKind, Instruction, MemorySizeExt, Mnemonic, OpKind, Register

from trapgate import hostcpu
from trapgate.arch.models import MODELS
from trapgate.isa import modes
from trapgate.isa.families import avx, hosted, sse, x87
from trapgate.soft import borrowed
from trapgate.soft.decode.lowering import Lowering
from trapgate.stops import STATUS, ExitKind
from unit.soft.bench import Bench, library
from unit.soft.hosted_operands import ANYWHERE, VEX_ALIGNED, encoded

TESTS = Path(__file__).parents[3]
CASES = TESTS / "cases"
BUILD = "gcc -m64 -nostdlib -static -no-pie -Wl,-Ttext=0x100000,--build-id=none -o"


def run(place: Path, *words: str) -> int:
    """The number of cases that a process of `hosted_operands` ran, all of them right."""
    place.write_bytes(bytes(200))
    command = [sys.executable, "-m", "unit.soft.hosted_operands", *words, str(place)]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, timeout=300, check=False)
    where = place.read_bytes().decode().strip("\0 ")
    assert done.returncode == 0, f"ended with {done.returncode} at {where}: {done.stderr[-2000:]}"
    *wrong, count = done.stdout.splitlines()
    assert not wrong, wrong[:20]
    return int(count.split()[0])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("mode", ["64", pytest.param("32", marks=pytest.mark.long)])
@pytest.mark.parametrize("masked", ["masked", pytest.param("unmasked", marks=pytest.mark.long)])
def test_operands_of_every_kind(model: str, mode: str, masked: str, tmp_path: Path) -> None:
    """Wherever an operand lies, the guest gets what it is due, and the process lives on. `unmasked`: every exception is."""
    assert run(tmp_path / "now", model, mode, masked) > 5000


def demanding(code: bytes) -> Iterator[Instruction]:
    """The instructions of a form's code which reach the guest's operand and must have it aligned, on some processor or other."""
    for i in Decoder(64, code):
        legacy = i.op_code().encoding == EncodingKind.LEGACY or i.mnemonic in VEX_ALIGNED
        wide = any(i.op_kind(n) == OpKind.MEMORY for n in range(i.op_count)) and MemorySizeExt.size(i.memory_size) >= 16
        state = Code.FXSAVE_M512BYTE <= i.code <= Code.FXRSTOR64_M512BYTE
        if i.memory_base == Register.RSI and wide and (legacy or state) and i.mnemonic not in ANYWHERE:
            if i.mnemonic not in (Mnemonic.FNSAVE, Mnemonic.FRSTOR, Mnemonic.FLDENV, Mnemonic.FNSTENV):  # x87's, of any alignment
                yield i


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_no_host_is_asked_for_what_the_guest_need_not_keep(model: object) -> None:
    """Host code demands an alignment only where the guest of either vendor has been held to it before: so it may run on either."""
    lowering, checked, free = Lowering(library(), model), 0, 0  # type: ignore[arg-type]
    for code in chain(sse.codes(), avx.codes(), x87.codes()):
        case, p = encoded(code, 64, model.amd), hosted.plan(code)  # type: ignore[attr-defined]
        if case is None:
            continue
        names = [name for name, _ in lowering.lowered(case.code, modes.CODE64).ops]
        if p.form(True) not in names or "aside" in names:
            continue  # it has a form of its own
        held = any(name.startswith("aligned.") for name in names[: names.index(p.form(True))])
        asked = list(demanding(library().stencils[p.form(True)].code))
        assert held or not asked, f"{p.name}: {asked}"
        assert held == (case.alignment > 1), p.name
        checked, free = checked + bool(asked), free + (not held)
    assert checked > 150
    assert free > 150


def test_what_the_host_lacks_the_guest_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without SHA and SSE4.1: a guest that executes one of their instructions takes #UD, its host no SIGILL."""
    model = MODELS["SapphireRapids"]
    monkeypatch.setattr(hostcpu, "features", lambda: frozenset("mmx sse sse2 pni ssse3 aes pclmulqdq".split()))
    assert borrowed.lacked(model) == ("sse4.1", "sse4.2", "sha-ni", "avx", "avx2", "fma", "f16c")
    left = borrowed.possible(model)
    assert not any(left.has(name) for name in ("sse4.1", "sse4.2", "sha-ni", "avx", "avx2", "fma", "f16c"))
    assert left.has("aes")
    lowering = Lowering(library(), left)
    for text in ("0f38c8c1", "660f3840c111", "f20f38f1c0", "c5fc58c1"):  # SHA1NEXTE, DPPS, CRC32, VADDPS
        assert [name for name, _ in lowering.lowered(bytes.fromhex(text), modes.CODE64).ops] == ["raise_ud"]
    monkeypatch.setattr(hostcpu, "features", lambda: None)
    assert borrowed.possible(model) == model


def test_a_cpu_has_what_its_host_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostcpu, "features", lambda: frozenset("mmx sse sse2 pni ssse3 sse4_1 sse4_2 pclmulqdq sha_ni".split()))
    assert not Bench().cpu.model.has("aes")


def test_every_hosted_feature_is_asked_for() -> None:
    """Each CPUID feature that a hosted encoding needs is one that `borrowed` looks for, or every x86-64 host has it."""
    known = {*borrowed.KERNEL_NAMES, "fpu", "fpu287", "fpu387", "cmov"}
    spelled = {
        name.lower().replace("_", ".").replace("pclmulqdq", "pclmulqdq") for name in (*sse.FEATURES, *avx.FEATURES, *x87.FEATURES)
    }
    assert {"sha-ni" if name == "sha" else name for name in spelled} <= known


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
@pytest.mark.parametrize(("model", "end"), [("SapphireRapids", ExitKind.SHUTDOWN), ("EPYC-Turin", ExitKind.DEAD)])
def test_sha_on_an_odd_address(model: str, end: ExitKind, tmp_path: Path) -> None:
    """Intel's #GP has no handler in this guest, a triple fault; AMD's go on to a HLT."""
    image = str(tmp_path / "image")
    subprocess.run([*BUILD.split(), image, str(CASES / "sha1rnds4.S")], check=True, timeout=60)
    trapgate = str(Path(sys.executable).with_name("trapgate"))
    done = subprocess.run([trapgate, "run", image, "-m", "16M", "--cpu", model], capture_output=True, timeout=60, check=False)
    assert done.returncode == STATUS[end], done.stderr
