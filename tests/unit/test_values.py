"""Dataclasses of ours are what `dataclasses` makes of the same classes."""

import copy
import dataclasses
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from trapgate import values

Decorator = Callable[..., Callable[[type], Any]]
FROZEN = {"frozen": True, "slots": True}


def classes(decorator: Decorator, **options: bool) -> tuple[Any, Any]:
    """(a class, one that extends it)."""

    @decorator(**options)
    class Base:
        """Words."""

        KIND: ClassVar[int] = 3
        first: int
        second: int = 4
        many: list[int] = field(default_factory=list, compare=False)

        def total(self) -> int:
            return self.first + self.second

    @decorator(**options)
    class Extended(Base):
        """More words."""

        third: int = 9
        hidden: int = field(default=1, init=False, repr=False)

    return Base, Extended


def behaviour(decorator: Decorator, **options: bool) -> list[object]:
    """Whatever can be seen of such classes and their values."""
    base, extended = classes(decorator, **options)
    seen: list[object] = [
        [(one.name, one.default, one.init) for one in dataclasses.fields(extended)],
        dataclasses.is_dataclass(base),
    ]
    for cls, arguments in ((base, (1,)), (base, (1, 5, [2])), (extended, (1, 2, [], 7)), (extended, (1, 2, [], 7, 8)), (base, ())):
        try:
            value = cls(*arguments)
        except TypeError as error:
            seen.append(str(error))
            continue
        seen += [repr(value), value.total(), value.KIND, value == cls(*arguments), value == object(), copy.copy(value) == value]
        seen += [repr(copy.deepcopy(value)), dataclasses.astuple(value), dataclasses.replace(value, second=6).total()]
        seen += [(values.replace if decorator is values.dataclass else dataclasses.replace)(value, second=7, first=2).total()]
        seen += [cls.__match_args__, cls.__doc__, cls.__qualname__, hasattr(value, "__dict__"), getattr(cls, "__slots__", None)]
        for act in (
            lambda value=value: hash(value),
            lambda value=value: value.__setattr__("first", 3),
            lambda value=value: value < value,
        ):
            try:
                seen.append(act())
            except (TypeError, AttributeError) as error:
                seen.append((type(error), str(error)))
    return seen


@pytest.mark.parametrize(
    "options",
    [FROZEN, {"slots": True}, FROZEN | {"order": True}, FROZEN | {"eq": False}, {"slots": True, "eq": False}],
    ids=str,
)
def test_it_is_what_dataclasses_make(options: dict[str, bool]) -> None:
    late, real = behaviour(values.dataclass, **options), behaviour(dataclasses.dataclass, **options)
    if options.get("eq", True):
        assert late == real
    else:  # a hash is the object's own
        assert [one for one in late if not isinstance(one, int)] == [one for one in real if not isinstance(one, int)]


def test_dataclasses_is_asked_only_when_somebody_asks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[type] = []
    real = dataclasses.dataclass

    def watched(**options: bool) -> Callable[[type], type]:
        return lambda cls: (made.append(cls), real(**options)(cls))[1]

    monkeypatch.setattr(dataclasses, "dataclass", watched)
    base, extended = classes(values.dataclass, **FROZEN)
    assert extended(1) == extended(1) != base(1)
    assert made == []
    for _ in range(2):
        assert len(dataclasses.fields(extended)) == 5
        assert len(made) == 2  # and its base


def add_total(cls: Any, found: list[int]) -> None:
    found.append(cls(1).total() + len(dataclasses.fields(cls)) - len(cls.__match_args__))


def test_two_threads_may_make_the_first_value() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(50):
            base, extended = classes(values.dataclass, **FROZEN)
            found: list[int] = []
            threads = [threading.Thread(target=add_total, args=(cls, found)) for cls in (base, extended) * 3]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(found) == [5] * 3 + [6] * 3  # the one with a hidden field
    finally:
        sys.setswitchinterval(before)


def test_the_package_makes_its_dataclasses_so() -> None:
    """But one, which keeps what it has computed and so has a `__dict__`."""
    package = Path(values.__file__).parent
    eager = re.compile(r"^from dataclasses import .*\bdataclass\b|dataclasses\.dataclass\b", re.MULTILINE)
    found = {str(path.relative_to(package)) for path in package.rglob("*.py") if eager.search(path.read_text())}
    assert found == {"values.py", "linux/kernel.py"}
