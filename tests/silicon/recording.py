"""A recording of silicon: what a processor answered to chosen cases, as a file that any other host can hold a CPU to.

The file is text in lines of JSON, compressed by xz (`xzcat FILE | less` shows it):

- a header: format and version, the processor (vendor, family, model, stepping, name, microcode, features), the day, and `groups`:
  the number of cases by "family/name", in the order in which they follow; `agrees`: by the name of another recording, how many more
  cases this processor answered just as that one has them, which are not told again;
- BACKGROUNDS lines with whole states to start from: 16 general registers (encoding order), FXSAVE image, scratch memory;
- a line for each case: `code`, the `background` and what the state before has other than it, and `after`: what the outcome has
  other than the state before, RIP relative to the code, a fault as [vector, error code, CR2]. Registers go by name, bytes as
  [offset, hex].
"""

import json
import lzma
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from .compare import Case, compare
from .decoded import form_of, undefined_on_the_way
from .processor import Processor
from .state import GPR_NAMES, VECTOR_SIGNALS, Fault, Outcome, State

FORMAT, VERSION = "recording of silicon", 1
FOLDER = Path(__file__).with_name("recordings")
SUFFIX = ".jsonl.xz"
BACKGROUNDS = 8
JOINED = 4  # equal bytes between two differences that are told with them: cheaper than an offset of its own
_STEP = 64

Difference = dict[str, Any]


class RecordingError(Exception):
    """A file is no recording, or of a version that is not known here."""


class Answer(NamedTuple):
    """A case, the number of the background that its state is near to, and the outcome on silicon."""

    case: Case
    background: int
    outcome: Outcome


@dataclass(frozen=True)
class Recording:
    """A file's header and its lines, by group; `answers` makes cases of them. Loading all states at once would take 200 MB."""

    name: str
    processor: Processor
    recorded: str
    groups: Mapping[str, int]
    agrees: Mapping[str, int]
    _backgrounds: tuple[State, ...]
    _lines: Mapping[str, Sequence[str]]

    def answers(self, group: str) -> Iterator[Answer]:
        """The cases of a group ("family/name"; KeyError when there is none) and what silicon answered."""
        for line in self._lines[group]:
            told = json.loads(line)
            state = _changed(self._backgrounds[told["background"]], told)
            form = form_of(group.partition("/")[0], bytes.fromhex(told["code"]))
            yield Answer(Case(form, state), told["background"], _outcome(state, told["after"]))

    def holds(self, group: str, answer: Answer) -> bool:
        """Whether the group has this very case with this very outcome, what is undefined included."""
        return _text(_line(answer, self._backgrounds)) in self._lines.get(group, ())


def differences(group: str, answer: Answer, got: Outcome) -> list[str]:
    """What a CPU does otherwise than silicon, where that is defined."""
    case, _, expected = answer
    kept = ~undefined_on_the_way(group.partition("/")[0], case.form.code)
    return compare(case, *(end._replace(rflags=end.rflags & kept) for end in (expected, got)))


def write(
    path: Path,
    processor: Processor,
    recorded: str,
    backgrounds: Sequence[State],
    groups: Mapping[str, Sequence[Answer]],
    agrees: Mapping[str, int],
) -> None:
    """Write a recording; the same arguments make the same bytes. ValueError when an outcome is not one that a file can hold."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        **asdict(processor),
        "recorded": recorded,
        "groups": {name: len(answers) for name, answers in groups.items()},
        "agrees": dict(agrees),
    }
    lines = [header, *({"gpr": b.gpr, "rflags": b.rflags, "fx": b.fx.hex(), "memory": b.memory.hex()} for b in backgrounds)]
    lines += [_line(answer, backgrounds) for answers in groups.values() for answer in answers]
    text = "".join(_text(line) + "\n" for line in lines)
    path.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


def groups_of(path: Path) -> dict[str, int]:
    """The groups of a recording with the number of their cases, by its first line alone. RecordingError when it is none."""
    try:
        with lzma.open(path, "rt", encoding="utf-8") as file:
            return dict(_header(path, file.readline())["groups"])
    except (lzma.LZMAError, EOFError, UnicodeDecodeError) as error:
        raise RecordingError(f"{path.name} is no recording: {error}") from None


def read(path: Path) -> Recording:
    """A recording by its file. RecordingError when it is none."""
    try:
        lines = lzma.decompress(path.read_bytes()).decode().splitlines()
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise RecordingError(f"{path.name} is no recording: {error}") from None
    header = _header(path, lines[0] if lines else "")
    groups: dict[str, int] = header["groups"]
    if len(lines) != 1 + BACKGROUNDS + sum(groups.values()):
        raise RecordingError(f"{path.name} has {len(lines)} lines, its header tells of {1 + BACKGROUNDS + sum(groups.values())}")
    told = [json.loads(line) for line in lines[1 : 1 + BACKGROUNDS]]
    backgrounds = tuple(State(tuple(b["gpr"]), b["rflags"], bytes.fromhex(b["fx"]), bytes.fromhex(b["memory"])) for b in told)
    at, by_group = 1 + BACKGROUNDS, {}
    for name, count in groups.items():
        by_group[name] = lines[at : at + count]
        at += count
    told_of = {field.name: header[field.name] for field in fields(Processor)}
    processor = Processor(**told_of | {"features": tuple(header["features"])})
    name = path.name.removesuffix(SUFFIX)
    return Recording(name, processor, header["recorded"], groups, header.get("agrees", {}), backgrounds, by_group)


def of_vendor(vendor: str) -> list[Recording]:
    """The recordings of a vendor's processors that are here, by name. RecordingError as of `read`."""
    found = (read(path) for path in sorted(FOLDER.glob(f"*{SUFFIX}")))
    return [recording for recording in found if recording.processor.vendor == vendor]


def _header(path: Path, line: str) -> Difference:
    """The first line's content."""
    try:
        header: Difference = json.loads(line)
        if header["format"] != FORMAT:
            raise KeyError("format")
    except (ValueError, KeyError, TypeError):
        raise RecordingError(f"{path.name} is no recording: its first line is no header") from None
    if header["version"] != VERSION:
        raise RecordingError(f"{path.name} is of version {header['version']}, known here is {VERSION}: record it again")
    return header


def _text(line: Difference) -> str:
    """A line as the file has it."""
    return json.dumps(line, separators=(",", ":"))


def _line(answer: Answer, backgrounds: Sequence[State]) -> Difference:
    """A case as it stands in the file."""
    (form, state), number, outcome = answer
    after = _difference(state, outcome) | {"rip": outcome.rip}
    if outcome.fault is not None:
        after["fault"] = [outcome.fault.vector, outcome.fault.error, outcome.fault.address]
    if _outcome(state, after) != outcome:
        raise ValueError(f"{form}: an end like {outcome.fault} cannot be recorded")
    return {"code": form.code.hex(), "background": number, **_difference(backgrounds[number], state), "after": after}


def _difference(one: State | Outcome, two: State | Outcome) -> Difference:
    """What `two` has other than `one`; parts that are equal are not there."""
    pairs = zip(GPR_NAMES, one.gpr, two.gpr, strict=True)
    parts: Difference = {
        "gpr": {name: f"{new:x}" for name, old, new in pairs if old != new},
        "rflags": f"{two.rflags:x}" if one.rflags != two.rflags else "",
        "fx": differing(one.fx, two.fx),
        "memory": differing(one.memory, two.memory),
        "upper": differing(one.upper, two.upper),
    }
    return {name: part for name, part in parts.items() if part}


def differing(one: bytes, two: bytes) -> list[tuple[int, str]]:
    """The runs of bytes that `two` has other than `one`, of the same length, as (offset, hex)."""
    runs: list[list[int]] = []
    for block in range(0, len(one), _STEP):
        if one[block : block + _STEP] == two[block : block + _STEP]:
            continue
        for at in range(block, min(block + _STEP, len(one))):
            if one[at] != two[at]:
                if runs and at - runs[-1][1] <= JOINED:
                    runs[-1][1] = at + 1
                else:
                    runs.append([at, at + 1])
    return [(low, two[low:high].hex()) for low, high in runs]


def _patched(data: bytes, runs: Sequence[tuple[int, str]]) -> bytes:
    """The bytes with some runs replaced."""
    if not runs:
        return data
    patched = bytearray(data)
    for at, text in runs:
        patched[at : at + len(text) // 2] = bytes.fromhex(text)
    return bytes(patched)


def _changed(state: State, told: Difference) -> State:
    """A state with the differences that a line tells."""
    gpr = told.get("gpr", {})
    return State(
        tuple(int(gpr[name], 16) if name in gpr else value for name, value in zip(GPR_NAMES, state.gpr, strict=True)),
        int(told["rflags"], 16) if "rflags" in told else state.rflags,
        _patched(state.fx, told.get("fx", ())),
        _patched(state.memory, told.get("memory", ())),
        _patched(state.upper, told.get("upper", ())),
    )


def _outcome(state: State, told: Difference) -> Outcome:
    """An outcome from what it has other than the state before."""
    fault = None
    if "fault" in told:
        vector, error, address = told["fault"]
        fault = Fault(VECTOR_SIGNALS.get(vector, 0), vector, error, address)
    after = _changed(state, told)
    return Outcome(*after[:4], told["rip"], fault, after.upper)


def nearest(state: State, backgrounds: Sequence[State]) -> int:
    """The number of the background whose memory has most in common with a state's."""
    sample = state.memory[::_STEP]

    def likeness(n: int) -> int:
        return sum(a == b for a, b in zip(sample, backgrounds[n].memory[::_STEP], strict=True))

    return max(range(len(backgrounds)), key=likeness)
