"""Programs of seccomp filters: the first row that holds decides, and nothing slips through between rules."""

from hypothesis import given
from hypothesis import strategies as st

from trapgate.sandbox.bpf import X32, Action, Check, Row, program
from unit.sandbox.judge import judged

I386 = 0x40000003
small = st.integers(0, 3)
checks = st.builds(Check, small, small, st.sampled_from((1, 2, 3, 0xFFFFFFFF)), st.booleans())
rows = st.builds(Row, st.sampled_from(Action), st.lists(checks, max_size=3).map(tuple))
rules = st.dictionaries(small, st.lists(rows, max_size=4), max_size=4)


def holds(check: Check, arguments: tuple[int, ...]) -> bool:
    return (arguments[check.argument] >> (32 if check.high else 0)) & 0xFFFFFFFF & check.mask == check.value


@given(rules, st.integers(0, 6), st.lists(st.sampled_from((0, 1, 2, 3, 1 << 32, 3 << 32 | 1)), min_size=6, max_size=6).map(tuple))
def test_the_first_row_that_holds_decides(rules: dict[int, list[Row]], number: int, arguments: tuple[int, ...]) -> None:
    made = program(list(rules.items()), 4, Action.REFUSED, Action.MISSING)
    found = [row.action for row in rules.get(number, []) if all(holds(check, arguments) for check in row.checks)]
    expected = found[0] if found else Action.REFUSED if number <= 4 or number in rules else Action.MISSING
    assert judged(made, number, arguments) == expected


def test_calls_of_other_architectures_end_the_process() -> None:
    made = program([(0, [Row(Action.ALLOW)])], 0, Action.REFUSED, Action.MISSING)
    assert judged(made, 0) == Action.ALLOW
    assert judged(made, 0, architecture=I386) == Action.ENDED
    assert judged(made, X32) == Action.ENDED
    assert judged(made, X32 - 1) == Action.MISSING
