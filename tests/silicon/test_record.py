"""Recordings as files: what is written comes back, what is no recording is refused, the recorder says what it made."""

import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from iced_x86 import Register

from . import catalog, record, recording, vendor_kinds
from .catalog_sse import forms as sse_forms
from .compare import Case
from .decoded import form_of, instructions_of, undefined_on_the_way
from .families import FAMILIES
from .host import HostCpu
from .inputs_float import make_sse_state
from .processor import host_processor, parse
from .recording import Answer, RecordingError, differences
from .sample import choose
from .state import AF, CF, RSP, UD, Fault, Outcome
from .test_processor import ZEN
from .test_recordings import FILES

DAY = "2026-11-29"


@pytest.fixture(scope="module")
def answers(host: HostCpu) -> list[Answer]:
    """Cases of many instructions that faulted and did not, with what the host answered."""
    near = record.backgrounds()
    cases = [case for name in ("add", "idiv", "cmpxchg16b", "movsb") for case in choose(catalog.forms(name), 40, "recorded")]
    cases += [record.settled(case, near[recording.nearest(case.state, near)]) for case in cases]
    return list(record.answers(host, cases, near))


def _written(path: Path, answers: list[Answer]) -> Path:
    recording.write(
        path, parse(ZEN), DAY, record.backgrounds(), {"integer/one": answers[:100], "integer/two": answers[100:]}, {"other": 7}
    )
    return path


def test_what_is_written_comes_back(tmp_path: Path, answers: list[Answer]) -> None:
    assert len({answer.outcome.fault for answer in answers}) > 2
    path = _written(tmp_path / f"zen{recording.SUFFIX}", answers)
    found = recording.read(path)
    assert (found.name, found.processor, found.recorded) == ("zen", parse(ZEN), DAY)
    assert found.agrees == {"other": 7}
    assert found.groups == recording.groups_of(path) == {"integer/one": 100, "integer/two": len(answers) - 100}
    back = [*found.answers("integer/one"), *found.answers("integer/two")]
    for one, two in zip(answers, back, strict=True):
        assert (one.case.form.code, one.case.form.mnemonic, one.case.state) == (
            two.case.form.code,
            two.case.form.mnemonic,
            two.case.state,
        )
        assert (one.background, one.outcome) == (two.background, two.outcome)


def test_the_same_answers_make_the_same_file(tmp_path: Path, answers: list[Answer]) -> None:
    one, two = (_written(tmp_path / name, answers).read_bytes() for name in ("one", "two"))
    assert one == two


def test_an_end_that_cannot_be_recorded_is_refused(tmp_path: Path, answers: list[Answer]) -> None:
    wrong = answers[0]._replace(outcome=answers[0].outcome._replace(fault=Fault(99, UD)))
    with pytest.raises(ValueError, match="cannot be recorded"):
        _written(tmp_path / "x", [wrong])


def _compressed(*lines: object) -> bytes:
    return lzma.compress("\n".join(json.dumps(line) for line in lines).encode())


HEADER = {"format": recording.FORMAT, "version": recording.VERSION, "groups": {"integer/add": 3}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no recording"),
        (b"something else", "is no recording"),
        (lzma.compress(b"\xff\xfe\n"), "is no recording"),
        (_compressed([1, 2]), "its first line is no header"),
        (_compressed({"format": "another"}), "its first line is no header"),
        (_compressed({**HEADER, "version": 99}), "version 99, known here is 1"),
        (_compressed(HEADER), "has 1 lines, its header tells of 12"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "some.xz"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=words):
        recording.read(path)


def test_differences_are_told_by_offset() -> None:
    assert recording.differing(b"\0" * 200, b"\0" * 200) == []
    changed = bytearray(200)
    changed[0], changed[3], changed[100:130] = 1, 2, b"\x07" * 30
    assert recording.differing(bytes(200), bytes(changed)) == [(0, "01000002"), (100, "07" * 30)]


def test_registers_that_a_case_does_not_use_come_from_the_background(host: HostCpu) -> None:
    background, rng = record.backgrounds()[3], random.Random(5)
    for form in sse_forms("addps"):
        case = Case(form, make_sse_state(form, rng))
        settled = record.settled(case, background)
        used = {form.instruction.op_register(n) for n in range(2)}
        for n in range(16):
            image = case.state.fx if Register.XMM0 + n in used else background.fx
            assert settled.state.fx[160 + 16 * n : 176 + 16 * n] == image[160 + 16 * n : 176 + 16 * n]
        assert settled.state.gpr[RSP] == case.state.gpr[RSP]
        assert settled.state.memory == case.state.memory
        before, after = (host.run(form.code, state) for state in (case.state, settled.state))
        assert (before.fault, before.memory) == (after.fault, after.memory)


def test_every_opcode_and_every_kind_is_chosen() -> None:
    groups = record.chosen()
    kinds = {*(f"vendors/{kind}" for kind in vendor_kinds.KINDS), "vendors/alignment"}
    assert {name for name in groups if name.startswith("vendors/")} == kinds
    for family in FAMILIES:
        for mnemonic in family.mnemonics:
            codes = {case.form.instruction.code for case in groups[f"{family.name}/{mnemonic}"]}
            assert codes == {form.instruction.code for form in family.forms(mnemonic)}
    assert all(instructions_of(case.form.code) for cases in groups.values() for case in cases)


def test_a_wrong_answer_is_told(answers: list[Answer]) -> None:
    spoil: dict[str, Callable[[Outcome], Outcome]] = {
        "CF is": lambda o: o._replace(rflags=o.rflags ^ CF),
        "rsp is": lambda o: o._replace(gpr=(*o.gpr[:RSP], o.gpr[RSP] ^ 1, *o.gpr[RSP + 1 :])),
        "rip is": lambda o: o._replace(rip=o.rip + 1),
        "ended with #UD": lambda o: o._replace(fault=Fault(4, UD)),
    }
    for answer in answers[:20]:
        assert differences("integer/add", answer, answer.outcome) == []
        for sentence, spoilt in spoil.items():
            assert sentence in " ".join(differences("integer/add", answer, spoilt(answer.outcome)))


def test_a_run_lets_off_what_any_of_its_instructions_leaves_undefined() -> None:
    code = bytes.fromhex("21c8d9e8")  # and eax, ecx; fld1
    assert undefined_on_the_way("vendors", code) == AF
    assert undefined_on_the_way("integer", code) == 0
    assert form_of("vendors", code).mnemonic == "fld1"
    assert form_of("integer", code).mnemonic == "and"


def test_what_another_recording_holds_is_counted_alone(tmp_path: Path, answers: list[Answer]) -> None:
    other = recording.read(_written(tmp_path / f"zen{recording.SUFFIX}", answers[:150]))
    otherwise = answers[0]._replace(outcome=answers[0].outcome._replace(rflags=answers[0].outcome.rflags ^ CF))
    made = {"integer/one": [otherwise, *answers[1:100]], "integer/two": answers[100:], "integer/three": answers[:2]}
    new, agrees = record.apart(made, [other])
    assert new == {"integer/one": [otherwise], "integer/two": answers[150:], "integer/three": answers[:2]}
    assert agrees == {"zen": 149}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_this_processor_answers_as_recorded_of_it(host: HostCpu, path: Path) -> None:
    found = recording.read(path)
    if found.processor.slug != host_processor().slug:
        pytest.skip(f"a recording of {found.processor}; this host has another processor")
    same = [recording.read(path.with_name(f"{name}{recording.SUFFIX}")) for name in found.agrees]
    chosen = [(group, answer) for one in (found, *same) for group in one.groups for answer in list(one.answers(group))[::20]]
    outcomes = host.run_many((answer.case.form.code, answer.case.state) for _, answer in chosen)
    for (group, answer), got in zip(chosen, outcomes, strict=True):
        assert differences(group, answer, got) == [], answer.case.form


def test_the_recorder_says_what_it_made(host: HostCpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = choose(catalog.forms("add"), 10, "recorder")
    system_call = Case(form_of("vendors", bytes.fromhex("0f05")), cases[0].state)
    monkeypatch.setattr(record, "chosen", lambda: {"integer/add": cases, "vendors/x": [system_call]})
    done = CliRunner().invoke(record.main, ["--output", str(tmp_path / "new" / "made.xz")])
    assert done.exit_code == 0, done.output
    assert "10 of 11 cases recorded in" in done.output
    assert str(host_processor()) in done.output
    assert recording.groups_of(tmp_path / "new" / "made.xz") == {"integer/add": 10}


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "chosen", dict)
    (tmp_path / "file").touch()
    done = CliRunner().invoke(record.main, ["--output", str(tmp_path / "file" / "made.xz")])
    assert done.exit_code == 1
    assert done.output.startswith("silicon-record: ")
    assert done.output.count("\n") == 1
