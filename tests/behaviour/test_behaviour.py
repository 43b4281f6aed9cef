"""System behaviour, row by row, on the software CPU, on KVM, and on QEMU; and that the rows can fail."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from behaviour import image as images
from behaviour import runners
from behaviour.catalog import rows
from behaviour.row import GP0, RUNS, Row, fault, runs
from behaviour.runners import DIED, RIGHT, SKIPPED, WRONG, Outcome
from trapgate.build import default_cpu
from trapgate.kvm import probe

pytestmark = pytest.mark.skipif(bool(images.missing_tools()), reason=f"not installed: {images.missing_tools()}")

PAGE = Path(__file__).parents[2] / "docs" / "differences.md"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images.build(rows(), tmp_path_factory.mktemp("behaviour"))


def check(image: Path, cpu: str, table: Sequence[Row], **options: object) -> Outcome:
    """Every row that this CPU can run is right."""
    text, end = runners.on_trapgate(image, "soft", cpu, **options)  # type: ignore[arg-type]
    outcome = runners.read(text)
    assert [f"{table[n].name} ({table[n].manual}): {outcome.texts[n]}" for n in outcome.rows(WRONG)] == []
    assert outcome.finished, f"ended at {table[len(outcome.marks)].name}: {end}"
    assert len(outcome.marks) == len(table)
    return outcome


def test_software_cpu(image: Path) -> None:
    outcome = check(image, "EPYC-Turin", rows())
    assert [rows()[n].name for n in outcome.rows(SKIPPED) if not rows()[n].needs or rows()[n].needs == ("amd",)] == []


def test_software_cpu_of_the_other_vendor(tmp_path: Path) -> None:
    """The rows that ask for a vendor or a feature; the long tier has them all."""
    table = [row for row in rows() if row.needs]
    outcome = check(images.build(table, tmp_path), "SapphireRapids", table)
    assert [table[n].name for n in outcome.rows(SKIPPED) if table[n].needs in (("intel",), ("intel", "sep"))] == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("cpu", "options"),
    [("SapphireRapids", {}), ("EPYC-Turin", {"block_limit": 1}), ("EPYC-Turin", {"chaining": False})],
    ids=["Intel", "blocks of one instruction", "no chaining"],
)
def test_software_cpu_otherwise(image: Path, cpu: str, options: dict[str, object]) -> None:
    check(image, cpu, rows(), **options)


@pytest.mark.kvm
def test_kvm(image: Path) -> None:
    """Where the host executes the guest: a KVM within a virtual machine may emulate it, and not all of it."""
    text, end = runners.on_trapgate(image, "kvm", default_cpu("kvm"))
    outcome = runners.read(text)
    wrong = [f"{rows()[n].name}: {outcome.texts[n]}" for n in outcome.rows(WRONG)]
    lacking = [one.name for one in (probe.int1(), probe.int3(), probe.watchpoint(), probe.iret()) if not one.holds]
    if lacking:
        pytest.skip(f"no judge, this KVM lacks {', '.join(lacking)}; {len(outcome.marks)} rows ran, {len(wrong)} wrong")
    assert wrong == []
    assert outcome.finished, f"ended at {rows()[len(outcome.marks)].name}: {end}"


@pytest.mark.long
@pytest.mark.skipif(not runners.have_qemu(), reason="no QEMU for a second opinion")
def test_qemu(image: Path, tmp_path: Path) -> None:
    """What this version of QEMU does otherwise is what docs/differences.md says it does."""
    said = PAGE.read_text()
    if f"QEMU {runners.version('qemu')}," not in said:
        pytest.skip("docs/differences.md is about another version of QEMU; make differences writes it again")
    outcome = runners.judge(image, len(rows()), lambda part: runners.on_qemu(part, "max"), tmp_path)
    other = [rows()[n].name for n in (*outcome.rows(WRONG), *outcome.rows(DIED))]
    known = set(re.findall(r"^\| (.*?) \| ", said, re.MULTILINE))
    assert [name for name in other if name.replace("|", "\\|") not in known] == []


@pytest.mark.skipif(not (runners.have_qemu() and runners.have_bochs()), reason="no QEMU and Bochs: the page is not written here")
def test_the_page_of_differences_was_written_when_the_last_row_came() -> None:
    assert f"Each of the {len(rows())} rows" in PAGE.read_text(), "make differences"


def test_names_are_unique_and_sources_are_named() -> None:
    assert [name for name, count in Counter(row.name for row in rows()).items() if count > 1] == []
    assert [row.name for row in rows() if not re.match(r"(SDM|APM) [1-4]|Intel 8259A", row.manual)] == []


WRONG_ROWS = (
    Row("a fault that does not come", "-", "nop", GP0),
    Row("another error code", "-", "mov ds, eax", fault(13, 0), "mov eax, OUTSIDE"),
    Row("a fault that is not expected", "-", "ud2\nnop", RUNS),
    Row("another value", "-", "mov eax, 5", runs(rax=6)),
    Row("a bit of memory", "-", "nop", runs(**{"[scratch]&4": 4}), mode="prot3"),
)


def test_wrong_rows_are_told(tmp_path: Path) -> None:
    """Each expectation that is not met is reported, and the next row runs all the same."""
    good = Row("a row that is right", "-", "nop", RUNS)
    table = [one for wrong in WRONG_ROWS for one in (wrong, good)]
    outcome = runners.read(runners.on_trapgate(images.build(table, tmp_path), "soft", "EPYC-Turin")[0])
    assert outcome.marks == "F." * len(WRONG_ROWS)
    assert outcome.texts[2] == "another error code: error 100 not 0"
    assert outcome.texts[6] == "another value: rax 5 not 6"
    assert outcome.finished


def test_a_row_that_kills_the_run(tmp_path: Path) -> None:
    """`judge` goes on behind it."""
    fatal = Row("a triple fault", "-", "int3", RUNS, "mov word ptr [scratch], 0\nlidt [scratch]")
    good = Row("a row that is right", "-", "nop", RUNS)
    table = [good, fatal, good, fatal, good, good]
    built = images.build(table, tmp_path)
    outcome = runners.judge(built, len(table), lambda part: runners.on_trapgate(part, "soft", "EPYC-Turin")[0], tmp_path)
    assert outcome.marks == f"{RIGHT}{DIED}{RIGHT}{DIED}{RIGHT}{RIGHT}"
