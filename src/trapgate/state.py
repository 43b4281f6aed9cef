"""State at rest: what a part of the machine or a CPU holds, as plain values that can be kept, compared and taken back.

A state is a frozen dataclass over `State`; the annotation of a field says all that it may hold, its range as well:

    @dataclass(frozen=True, slots=True)
    class CounterState(State):
        count: U16
        reload: Annotated[int, Range(1, 0x10000)]
        latched: Annotated[tuple[U8, ...], Length(0, 2)]
        started: Annotated[int, Bits(64)] | None

It is checked wherever one is made, so no state exists that could not be. Fields are int, bool, bytes, str, None, other states, and
tuples and unions of those. Whoever has a state offers two methods:

- `save() -> S` changes nothing, and drives nothing.
- `load(state: S)` makes it what the saved one was. It raises StateError, before it changes anything, where the state does not fit:
  what depends on more than one field, or on how this one is made. It drives no line and tells nobody, since all others are
  loaded too; only timers are armed, from fields, at a clock that was loaded before.

A field that is added, goes, or means something else makes a new VERSION.
"""

import types
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Annotated, Any, ClassVar, Protocol, TypeAlias, Union, get_args, get_origin, get_type_hints

from trapgate.errors import TrapgateError
from trapgate.values import dataclass


class StateError(TrapgateError):
    """A state that cannot be, that does not fit what it is loaded into, or bytes that are none."""


class Rule:
    """What a value must be, beyond its type."""

    def admits(self, value: Any) -> bool:
        """Whether a value of the right type is within the rule."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Range(Rule):
    """An int from `first` to `last`, both included."""

    first: int
    last: int

    def admits(self, value: Any) -> bool:
        """Whether the int lies between them."""
        return bool(self.first <= value <= self.last)

    def __str__(self) -> str:
        return f"from {self.first:#x} to {self.last:#x}"


@dataclass(frozen=True, slots=True)
class Mask(Rule):
    """An int with no bits but these."""

    bits: int

    def admits(self, value: Any) -> bool:
        """Whether all other bits are 0."""
        return not value & ~self.bits

    def __str__(self) -> str:
        return f"within the bits {self.bits:#x}"


@dataclass(frozen=True, slots=True)
class Bits(Rule):
    """An int of so many bits, not negative."""

    count: int

    def admits(self, value: Any) -> bool:
        """Whether no bit above them is set."""
        return not value >> self.count

    def __str__(self) -> str:
        return f"of {self.count} bits"


@dataclass(frozen=True, slots=True)
class OneOf(Rule):
    """One of these values."""

    values: tuple[object, ...]

    def admits(self, value: Any) -> bool:
        """Whether it is among them."""
        return value in self.values

    def __str__(self) -> str:
        return f"one of {', '.join(map(repr, self.values))}"


@dataclass(frozen=True, slots=True)
class Length(Rule):
    """Bytes, text or a tuple of `least` to `most` elements; of exactly `least`, without `most`."""

    least: int
    most: int | None = None

    def admits(self, value: Any) -> bool:
        """Whether there are so many."""
        return self.least <= len(value) <= (self.least if self.most is None else self.most)

    def __str__(self) -> str:
        return f"{self.least} long" if self.most is None else f"{self.least} to {self.most} long"


U8: TypeAlias = Annotated[int, Bits(8)]
U16: TypeAlias = Annotated[int, Bits(16)]
U32: TypeAlias = Annotated[int, Bits(32)]
U64: TypeAlias = Annotated[int, Bits(64)]


@dataclass(frozen=True, slots=True)
class State:
    """The base of all states: a subclass is a dataclass, frozen, with slots. StateError where one is made that cannot be."""

    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for name, kind in kinds(type(self)).items():
            kind.check(getattr(self, name), f"{type(self).__name__}.{name}")


# Kinds of fields, made of their annotations


class Kind:
    """What a field may hold."""

    def fits(self, value: object) -> bool:
        """Whether a value is of its type, whatever is in it."""
        raise NotImplementedError

    def check(self, value: Any, where: str) -> None:
        """Raise StateError for a value that the field may not hold."""
        if not self.fits(value):
            raise StateError(f"{where}: {_shown(value)} is not {self}")


@dataclass(frozen=True, slots=True)
class Plain(Kind):
    """An int, a bool, bytes, text, or None; nothing derived of them, so that True is no int."""

    type: type

    def fits(self, value: object) -> bool:
        """Whether it is exactly of the type."""
        return type(value) is self.type

    def __str__(self) -> str:
        return "None" if self.type is types.NoneType else f"of type {self.type.__name__}"


@dataclass(frozen=True, slots=True)
class Nested(Kind):
    """Another state, of a class or one derived of it; `State` itself means any."""

    type: type[State]

    def fits(self, value: object) -> bool:
        """Whether it is such a state; being one, it has been checked."""
        return isinstance(value, self.type)

    def __str__(self) -> str:
        return f"a {self.type.__name__}"


@dataclass(frozen=True, slots=True)
class Ruled(Kind):
    """A kind and rules upon it."""

    kind: Kind
    rules: tuple[Rule, ...]

    def fits(self, value: object) -> bool:
        """Whether the kind fits."""
        return self.kind.fits(value)

    def check(self, value: Any, where: str) -> None:
        """Ask the kind, then each rule."""
        self.kind.check(value, where)
        for rule in self.rules:
            if not rule.admits(value):
                raise StateError(f"{where}: {_shown(value)} is not {rule}")

    def __str__(self) -> str:
        return str(self.kind)


@dataclass(frozen=True, slots=True)
class Sequence(Kind):
    """A tuple: any number of elements of one kind, or (`each` is None) exactly those of `elements`."""

    elements: tuple[Kind, ...]
    each: Kind | None = None

    def fits(self, value: object) -> bool:
        """Whether it is a tuple, of the right length where that is fixed."""
        return type(value) is tuple and (self.each is not None or len(value) == len(self.elements))

    def kinds(self, count: int) -> tuple[Kind, ...]:
        """The kinds of `count` elements."""
        return self.elements if self.each is None else (self.each,) * count

    def check(self, value: Any, where: str) -> None:
        """Ask every element's kind."""
        Kind.check(self, value, where)
        for number, (kind, one) in enumerate(zip(self.kinds(len(value)), value, strict=True)):
            kind.check(one, f"{where}[{number}]")

    def __str__(self) -> str:
        return "a tuple" if self.each is not None else f"a tuple of {len(self.elements)}"


@dataclass(frozen=True, slots=True)
class Either(Kind):
    """One of several kinds, told apart by type."""

    kinds: tuple[Kind, ...]

    def fits(self, value: object) -> bool:
        """Whether one of them fits."""
        return any(kind.fits(value) for kind in self.kinds)

    def check(self, value: Any, where: str) -> None:
        """Ask the one that fits."""
        Kind.check(self, value, where)
        next(kind for kind in self.kinds if kind.fits(value)).check(value, where)

    def __str__(self) -> str:
        return " or ".join(map(str, self.kinds))


_KINDS: dict[type[State], dict[str, Kind]] = {}  # as they were asked for


def kinds(state: type[State]) -> dict[str, Kind]:
    """The kind of each field of a class of states, in their order. TypeError for an annotation that is no kind."""
    try:
        return _KINDS[state]
    except KeyError:
        hints = get_type_hints(state, include_extras=True)
        return _KINDS.setdefault(state, {field.name: _kind(hints[field.name]) for field in fields(state)})


def _kind(annotation: Any) -> Kind:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return Ruled(_kind(arguments[0]), tuple(rule for rule in arguments[1:] if isinstance(rule, Rule)))
    if origin in (Union, types.UnionType):
        return Either(tuple(map(_kind, arguments)))
    if origin is tuple:
        return Sequence((), _kind(arguments[0])) if arguments[-1] is ... else Sequence(tuple(map(_kind, arguments)))
    if annotation in (int, bool, bytes, str, types.NoneType):
        return Plain(annotation)
    if isinstance(annotation, type) and issubclass(annotation, State):
        return Nested(annotation)
    raise TypeError(f"no field of a state can be {annotation}")


def require(holds: object, story: str) -> None:
    """Raise StateError unless a condition holds: for `load`, what no single field says."""
    if not holds:
        raise StateError(story)


def within(state: State) -> Iterator[State]:
    """A state, and all that are in it."""
    yield state
    for name in kinds(type(state)):
        yield from _within(getattr(state, name))


def _within(value: object) -> Iterator[State]:
    if isinstance(value, State):
        yield from within(value)
    elif isinstance(value, tuple):
        for one in value:
            yield from _within(one)


class Keeper(Protocol):
    """Whatever has a state."""

    def save(self) -> Any:
        """Its state."""
        ...

    def load(self, state: Any) -> None:
        """Be as the one saved was. StateError, and nothing is changed: the state does not fit."""
        ...


def load_all(pairs: Iterable[tuple[Keeper, State]]) -> None:
    """Load several, in this order, or none of them: StateError, and all are as before, where one state does not fit."""
    pairs = list(pairs)
    before = [one.save() for one, _ in pairs]
    for (one, state), now in zip(pairs, before, strict=True):
        require(type(state) is type(now), f"a {type(state).__name__} is no state of a {type(one).__name__}")
    try:
        for one, state in pairs:
            one.load(state)
    except BaseException:
        for (one, _), now in zip(pairs, before, strict=True):
            one.load(now)
        raise


def _shown(value: object) -> str:
    text = hex(value) if type(value) is int else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
