"""Two traces of one run, compared at every step; what is undefined is let off until an instruction defines it again.

The judge's trace says what was executed and with which operands, so undefined flags are followed along the way that the run took.
"""

from functools import lru_cache
from itertools import zip_longest

from iced_x86 import Decoder, Mnemonic

from .compare import FLAG_NAMES, Case, compare
from .forms import Form, names
from .pieces import Effect, effect, flags_behind
from .state import CODE, GPR_NAMES, SCRATCH, Outcome
from .trace import GPR, MXCSR, RECORD_SIZE, RIP, ST, X87, XMM, Trace

_FIELDS = (
    *((name, GPR + 8 * n, 8) for n, name in enumerate(GPR_NAMES)),
    ("rip", RIP, 8),
    ("FCW", X87, 2),
    ("FSW", X87 + 2, 2),
    ("FTW", X87 + 4, 1),
    ("MXCSR", MXCSR, 4),
    *((f"st{n}", ST + 16 * n, 16) for n in range(8)),
    *((f"xmm{n}", XMM + 16 * n, 16) for n in range(16)),
)


@lru_cache(1 << 15)
def _form(code: bytes) -> tuple[Form, Effect]:
    instruction = Decoder(64, code, ip=CODE).decode()
    mnemonic = names(Mnemonic)[instruction.mnemonic].lower()
    form = Form(code, instruction, mnemonic, str(instruction))
    return form, effect(form)


class _Undefined:
    """Status flags that nothing defines, followed through a run."""

    def __init__(self, case: Case) -> None:
        self._code, self._gpr, self._rip = case.form.code, case.state.gpr, CODE
        self._forms: dict[int, tuple[Form, Effect]] = {}
        self.flags = 0

    def _next(self) -> tuple[Form, Effect]:
        found = self._forms.get(self._rip)
        if found is None:
            raw = self._code[self._rip - CODE :][:15]
            found = self._forms[self._rip] = _form(raw[: Decoder(64, raw, ip=self._rip).decode().len])
        return found

    def step(self, numbers: tuple[int, ...]) -> Form:
        """The next instruction, which was executed; `numbers` are those of `Trace.numbers` behind it."""
        form, found = self._next()
        iterates = form.instruction.is_string_instruction and numbers[16] == self._rip  # its flags may come with the last iteration
        if not iterates:
            self.flags = flags_behind(form, found, self._gpr, self.flags)
        self._gpr, self._rip = numbers[:16], numbers[16]
        return form


def compare_traces(case: Case, ends: tuple[Outcome, Outcome], traces: tuple[Trace, Trace]) -> list[str]:
    """What differs between two runs of a case, the judge's first: sentences about the first step that does, or about the end."""
    (expected, got), (want, have) = ends, traces
    if want == have and expected == got:
        return []
    undefined, store = _Undefined(case), _first_store(want, have)
    for step in range(min(want.steps, have.steps)):
        form = undefined.step(want.numbers(step))
        found = _registers(want, have, step, undefined.flags)
        if store is not None and store[0] == step:
            found.append(store[1])
        if found:
            return [f"step {step}, {form}:", *found]
    if have.steps != want.steps:
        return [f"{have.steps} steps, expected {want.steps}; it ended with {got.fault}, expected {expected.fault}"]
    return compare_ends(case, expected, got, undefined.flags)


def compare_ends(case: Case, expected: Outcome, got: Outcome, undefined: int) -> list[str]:
    """What differs at the end of a run, but for undefined flags."""
    return compare(case, *(end._replace(rflags=end.rflags & ~undefined) for end in (expected, got)))


def undefined_at_end(case: Case, trace: Trace) -> int:
    """Status flags that nothing defines at the end of the run that a trace tells of."""
    undefined = _Undefined(case)
    for step in range(trace.steps):
        undefined.step(trace.numbers(step))
    return undefined.flags


def _registers(want: Trace, have: Trace, step: int, undefined: int) -> list[str]:
    """Differences of the records of a step."""
    at = step * RECORD_SIZE
    one, two = want.records[at : at + RECORD_SIZE], have.records[at : at + RECORD_SIZE]
    if one == two:
        return []
    found = []
    for name, offset, size in _FIELDS:
        if one[offset : offset + size] != two[offset : offset + size]:
            a, b = (int.from_bytes(record[offset : offset + size], "little") for record in (one, two))
            found.append(f"{name} is {b:#x}, expected {a:#x}")
    wrong = (want.numbers(step)[17] ^ have.numbers(step)[17]) & ~undefined
    found += [f"{name} is {int(not want.numbers(step)[17] & bit)}" for bit, name in FLAG_NAMES.items() if wrong & bit]
    return found


def _first_store(want: Trace, have: Trace) -> tuple[int, str] | None:
    """The first store that differs: its step, and a sentence."""
    if want.stores == have.stores:
        return None
    for one, two in zip_longest(want.lines(), have.lines()):
        if one != two:
            step = min(store[0] for store in (one, two) if store is not None)
            told = [f"{SCRATCH + store[1]:#x}: {store[2].hex()}" if store is not None else "none" for store in (two, one)]
            return step, f"the store is {told[0]}, expected {told[1]}"
    return None
