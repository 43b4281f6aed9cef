"""States as bytes: JSON of plain values, with the class and version of each state, and checked on the way back.

Bytes are in base64, tuples are lists, a state is an object whose key "" has its class and version. What a field may hold decides
how its value is read: nothing in the bytes can name a class that the reader has not asked for.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from trapgate.state import Either, Kind, Nested, Plain, Ruled, Sequence, State, StateError, kinds

CLASS = ""  # the key that no field has
S = TypeVar("S", bound=State)
Known = Mapping[str, type[State]]


class UnknownState(StateError):
    """A state of a class that the reader has not asked for, where any might be."""


def encode(state: State) -> bytes:
    """A state as bytes; equal states give equal bytes."""
    return json.dumps(_written(state), separators=(",", ":")).encode()


def decode(data: bytes, kind: type[S], others: Iterable[type[State]] = ()) -> S:
    """The state that was encoded. `others` may stand where a field is any `State`. StateError for everything else."""
    known = {one.__name__: one for one in others}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StateError(f"no state: {error}") from error
    return kind(**_fields(value, kind, kind.__name__, known))


def _written(value: Any) -> Any:
    if isinstance(value, State):
        fields = {name: _written(getattr(value, name)) for name in kinds(type(value))}
        return {CLASS: [type(value).__name__, value.VERSION], **fields}
    if isinstance(value, tuple):
        return list(map(_written, value))
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _fields(value: Any, kind: type[State], where: str, known: Known) -> dict[str, Any]:
    expected = kinds(kind)
    if not isinstance(value, dict) or value.keys() != {CLASS, *expected}:
        raise StateError(f"{where}: no {kind.__name__}, or one with other fields")
    if value[CLASS] != [kind.__name__, kind.VERSION]:
        raise StateError(f"{where}: {value[CLASS]} is not {kind.__name__} of version {kind.VERSION}")
    return {name: _read(value[name], one, f"{where}.{name}", known) for name, one in expected.items()}


def _read(value: Any, kind: Kind, where: str, known: Known) -> Any:
    """The value that a field's JSON stands for. Only what the state itself cannot check when it is made is checked here."""
    match kind:
        case Ruled():
            return _read(value, kind.kind, where, known)
        case Either():
            return _read(value, next((one for one in kind.kinds if _resembles(value, one, known)), kind.kinds[0]), where, known)
        case Nested():
            one = _named(value, kind, known) or kind.type
            if one is State:
                raise UnknownState(f"{where}: {_class_of(value)} is of no device or engine that is here")
            return one(**_fields(value, one, where, known))
        case Sequence() if isinstance(value, list):
            each = kind.kinds(len(value))
            if len(each) != len(value):
                raise StateError(f"{where}: {len(value)} elements are not {kind}")
            return tuple(_read(part, one, f"{where}[{n}]", known) for n, (part, one) in enumerate(zip(value, each, strict=True)))
        case Plain() if kind.type is bytes and isinstance(value, str):
            try:
                return base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError) as error:
                raise StateError(f"{where}: no bytes in base64: {error}") from error
    return value


def _resembles(value: Any, kind: Kind, known: Known) -> bool:
    """Whether JSON may be a value of a kind, by its outermost type."""
    match kind:
        case Ruled():
            return _resembles(value, kind.kind, known)
        case Nested():
            return _named(value, kind, known) is not None
        case Sequence():
            return isinstance(value, list)
        case Plain():
            return type(value) is (str if kind.type is bytes else kind.type)
    return False


def _class_of(value: Any) -> str:
    match value:
        case {"": [str(name), int()]}:
            return name
    return "what is there"


def _named(value: Any, kind: Nested, known: Known) -> type[State] | None:
    """The class of states that an object names, where the kind allows it."""
    match value:
        case {"": [str(name), int()]}:
            one = {kind.type.__name__: kind.type, **known}.get(name)
            return one if one is not None and issubclass(one, kind.type) else None
    return None
