"""The benchmark harness with pretended engines: statistics, tables, and every way in which a run can go wrong."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from iced_x86 import Decoder, FlowControl, Register

from bench import cli, growth, measuring, observe, ours, report
from bench.build import BenchError
from bench.engines import Engine, clear_cache, filled, run_image, run_linux
from bench.report import Row, Sample


def test_the_overhead_is_taken_off_the_median() -> None:
    sample = Sample((1.2, 1.0, 1.5), overhead=0.2)
    assert sample.median == pytest.approx(1.0)
    assert sample.spread == pytest.approx(0.25)
    assert Sample((0.1,), overhead=0.2).median == 0.001


def test_ratios_are_second_over_first_and_averaged_geometrically() -> None:
    rows = [Row("a", "", (Sample((1.0,)), Sample((2.0,)))), Row("b", "", (Sample((1.0,)), Sample((0.5,))))]
    assert [row.ratio() for row in rows] == [2.0, 0.5]
    assert report.geometric_mean([2.0, 0.5]) == pytest.approx(1.0)
    text = report.markdown(report.compare("Loops", ["qemu", "trapgate"], rows, rows))
    assert "| workload | one round | qemu, s | spread | trapgate, s | spread | trapgate / qemu |" in text
    assert "| a |  | 1.000 | ±0% | 2.000 | ±0% | 2.00 |" in text
    assert "**1.00**" in text
    assert Row("c", "", (Sample((1.0,)),)).ratio() is None


def test_a_section_is_put_between_its_marks(tmp_path: Path) -> None:
    path = tmp_path / "docs" / "performance.md"
    report.write_section(path, "loops", "first")
    report.write_section(path, "start", "other")
    path.write_text("# Speed\n\n" + path.read_text() + "\nThe end.\n")
    report.write_section(path, "loops", "second")
    assert path.read_text() == (
        "# Speed\n\n<!-- bench: loops -->\nsecond\n<!-- bench: end of loops -->\n\n"
        "<!-- bench: start -->\nother\n<!-- bench: end of start -->\n\nThe end.\n"
    )


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("sh -c 'echo bench: sum 0123 WRONG; exit 3'", "status 3: bench: sum 0123 WRONG"),
        ("sh -c 'echo bench: sum 0123 ok; exit 0'", "status 0"),
        ("sh -c 'echo oh no >&2; exit 1'", "oh no"),
        ("sh -c 'exit 1'", "nothing"),
        ("sleep 60", "did not end within 0.2 s"),
        ("sh {nonsense}", "bad command line"),
    ],
)
def test_a_run_that_goes_wrong_says_so(command: str, reason: str) -> None:
    with pytest.raises(BenchError, match=reason):
        run_image(Engine("mine", command, ""), Path("sum.elf"), 0.2 if command.startswith("sleep") else 20)


def test_linux_is_timed_to_its_marker() -> None:
    engine = Engine("mine", "", "sh -c 'sleep 0.1; echo; echo up: init reached; sleep 0.2; echo off' {kernel}")
    reached, off = run_linux(engine, Path("k"), Path("i"), "quiet", "init reached", 20)
    assert 0.1 <= reached < off
    with pytest.raises(BenchError, match=r"did not reach init .* its last line was: off"):
        run_linux(engine, Path("k"), Path("i"), "quiet", "another marker", 20)


def test_a_command_line_keeps_filled_in_words_whole() -> None:
    assert filled("run {image} --append {append}", image="a b", append="x=1 y") == ["run", "a b", "--append", "x=1 y"]


def test_a_failing_clear_command_is_told() -> None:
    clear_cache(Engine("mine", "", ""))
    with pytest.raises(BenchError, match="no cache here"):
        clear_cache(Engine("mine", "", "", "sh -c 'echo no cache here >&2; exit 2'"))


def test_both_engines_are_compared_and_must_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "build", lambda guest: Path(f"{guest.name}.elf"))
    said = 'case $0 in empty*) echo "bench: empty 0 ok";; *) echo "bench: sum 0123 ok";; esac; exit 1'
    agreeing = f"sh -c '{said}' {{image}}"
    common = [
        "--runs",
        "2",
        "--section",
        "loops",
        "--only",
        "sum",
        "--qemu",
        agreeing,
        "--qemu-linux",
        "sh",
        "--trapgate-linux",
        "sh",
    ]
    common += ["--trapgate-clear", "true"]
    out = tmp_path / "performance.md"
    good = CliRunner().invoke(cli.main, [*common, "--trapgate", agreeing, "--markdown", str(out)])
    assert good.exit_code == 0, good.output
    assert "| sum | 4096 loads and additions" in out.read_text()
    bad = CliRunner().invoke(cli.main, [*common, "--trapgate", agreeing.replace("0123", "0124")])
    assert bad.exit_code == 1
    assert "one of them computes wrongly" in bad.output


@pytest.mark.parametrize("names", ["", "qemu,qemu", "bochs", "qemu,trapgate,qemu"])
def test_bad_engine_lists_are_refused(names: str) -> None:
    with pytest.raises(BenchError, match="give one or two of"):
        cli.choose(names, {"qemu": Engine("qemu", "sh", "sh"), "trapgate": Engine("trapgate", "sh", "sh")})


def test_an_engine_that_is_not_installed_is_told_before_anything_runs() -> None:
    with pytest.raises(BenchError, match="no-such-program is not installed"):
        cli.choose("qemu", {"qemu": Engine("qemu", "no-such-program {image}", "sh")})


def test_sections_of_our_own_come_with_their_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One section anew; what another one has left stays."""
    monkeypatch.setattr(measuring, "build", lambda guest: Path(f"{guest.name}.elf"))
    said = "case $0 in empty*) :;; *) i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done;; esac; echo bench: x 0 ok; exit 1"
    out = tmp_path / "performance.md"
    report.write_section(out, "loops", "| what loops took |")
    arguments = ["--runs", "1", "--section", "devices", "--trapgate", f"sh -c '{said}' {{image}}", "--qemu", "sh"]
    arguments += ["--trapgate-linux", "sh", "--trapgate-clear", "true", "--qemu-linux", "sh", "--markdown", str(out)]
    done = CliRunner().invoke(cli.main, arguments)
    assert done.exit_code == 0, done.output
    rows = [line.split("|") for line in out.read_text().splitlines() if line.startswith("| 1000 ")]
    assert len(rows) == 4
    assert all(float(row[3]) > 0 and float(row[5]) == ours.ACCESS_LIMIT for row in rows)
    assert "| what loops took |" in out.read_text()


SMAPS = """\
7e0000000000-7e0080000000 ---p 00000000 00:00 0
Size:            2097152 kB
Rss:                   0 kB
Pss:                   0 kB
7f0000000000-7f0020000000 rw-p 00000000 00:00 0
Size:             524288 kB
Rss:                4096 kB
Pss:                4096 kB
7f0030000000-7f0030100000 r-xs 00000000 00:01 1 /memfd:trapgate-code (deleted)
Size:               1024 kB
Rss:                1024 kB
Pss:                 512 kB
VmFlags: rd ex
"""


def test_memory_besides_the_guests() -> None:
    found = observe.parse(SMAPS, 512 << 20)
    assert found == observe.Memory(resident=5120 << 10, guest=4096 << 10, shared_once=4608 << 10)
    assert found.besides == 1 << 20
    with pytest.raises(ValueError):
        observe.parse("", 0)


def test_a_process_is_looked_at_when_it_says_so() -> None:
    script = "echo one; sleep 0.2; echo two; exec sleep 60"
    first, second = observe.observe(["sh", "-c", script], ["one", "two"], 20)
    assert 0 < first.seconds < second.seconds
    assert first.memory.resident > 0
    assert 0 <= first.busy <= second.busy < 1
    with pytest.raises(BenchError, match="did not say 'three' within 20 s: its last line was: two"):
        observe.observe(["sh", "-c", "echo one; sleep 0.3; echo two"], ["one", "three"], 20)


def test_generated_code_is_what_it_is_said_to_be() -> None:
    """Every byte belongs to an instruction that exists, blocks end where they are said to, and no two are the same."""
    code, instructions, blocks = growth.generate(40_000)
    found = list(Decoder(64, code))
    assert 40_000 <= len(code) < 40_200
    assert (len(found), sum(i.flow_control != FlowControl.NEXT for i in found)) == (instructions, blocks)
    assert not any(i.is_invalid for i in found)
    assert len({i.mnemonic for i in found}) > 40
    assert not any(Register.RSP in (i.op0_register, i.memory_base) or i.op0_register in POINTERS for i in found)
    assert growth.generate(40_000)[0] == code


POINTERS = (Register.RSI, Register.ESI, Register.SIL, Register.RDI, Register.EDI, Register.DIL, Register.ESP)
