"""A choice of cases for one instruction: seeded, so that a test id repeats it exactly."""

import random
from collections.abc import Callable, Sequence
from itertools import islice

from .compare import Case, compare, explain
from .forms import Form
from .inputs import make_state
from .processor import host_processor
from .state import Runner, State

TOLD = 5  # differing cases told in a failure message


def choose(forms: Sequence[Form], count: int, seed: str, make: Callable[[Form, random.Random], State] = make_state) -> list[Case]:
    """`count` cases spread evenly over the forms; when there are more forms than cases, a random choice of forms."""
    rng = random.Random(seed)
    order = rng.sample(list(forms), len(forms))
    return [Case(form, make(form, rng)) for form in (order[n % len(order)] for n in range(count))]


def judge(cases: Sequence[Case], judge_runner: Runner, other: Runner) -> list[str]:
    """Run the cases on both; one text for each case whose outcomes differ. Cases of one form come together, so that a translator
    meets the same bytes many times in a row."""
    ordered = sorted(cases, key=lambda case: case.form.code)
    work = [(case.form.code, case.state) for case in ordered]
    texts = []
    for case, expected, got in zip(ordered, judge_runner.run_many(work), other.run_many(work), strict=True):
        judged = host_processor().judges(case.form.instruction, expected.fault is not None)
        if judged and (differences := compare(case, expected, got)):
            texts.append(explain(case, differences))
    return texts


def report(texts: Sequence[str], total: int) -> str:
    """The failure message of a test: how many differ, and the first few."""
    return "\n".join([f"{len(texts)} of {total} cases differ from the host CPU", *islice(texts, TOLD)])
