"""Makes dataclasses that cost a start next to nothing, with the same behaviour as those of `dataclasses`.

That module compiles half a dozen methods for each class, which takes 0.7 ms, and a start defines 150 classes. Here the methods of
all classes are the same few functions, but for `__init__`, which is compiled when the first value is made. What `dataclasses` says
of a class, to `fields` and `replace`, is worked out when it is asked.
"""

import dataclasses
import inspect
import operator
import reprlib
import sys
import threading
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar, get_origin

T = TypeVar("T")
FIELDS, OURS = "__dataclass_fields__", "__value_fields__"
_MISSING = dataclasses.MISSING
_asking = threading.RLock()


class _Field(NamedTuple):
    """What `dataclasses.field` says of one, or a plain annotation."""

    default: Any = _MISSING
    factory: Any = _MISSING
    init: bool = True
    shown: bool = True
    compared: bool = True

    @classmethod
    def of(cls, default: Any) -> "_Field":
        """From what stands behind the annotation."""
        if not isinstance(default, dataclasses.Field):
            return cls(default)
        assert default.hash is None and default.kw_only is _MISSING, "not used here, so not made"
        return cls(default.default, default.default_factory, default.init, default.repr, default.compare)


class _Asked:
    """Stands for `__dataclass_fields__` of a class until somebody looks."""

    def __init__(self, plain: type, options: dict[str, bool]) -> None:
        self.plain, self.options = plain, options

    def __get__(self, value: object, owner: type) -> dict[str, "dataclasses.Field[Any]"]:
        cls = next(one for one in owner.__mro__ if FIELDS in one.__dict__)
        with _asking:  # threads may ask at once, and `dataclasses` takes a class once
            if cls.__dict__[FIELDS] is self:
                made: Any = dataclasses.dataclass(**self.options, slots=True)(self.plain)
                for name in ("__dataclass_params__", FIELDS):
                    setattr(cls, name, getattr(made, name))
        fields: dict[str, dataclasses.Field[Any]] = getattr(cls, FIELDS)
        return fields


def _annotated(cls: type) -> list[str]:
    """The fields that a class itself declares."""
    if sys.version_info >= (3, 14):
        import annotationlib

        annotations = annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)
    else:
        annotations = inspect.get_annotations(cls)
    return [name for name, kind in annotations.items() if ClassVar not in (kind, get_origin(kind))]


def _with_slots(cls: type[T], own: dict[str, _Field]) -> type[T]:
    """The same class with a slot for each field that no base has one for."""
    inherited = {slot for base in cls.__mro__[1:] for slot in getattr(base, "__slots__", ())}
    left = {name: value for name, value in cls.__dict__.items() if name not in own and name not in ("__dict__", "__weakref__")}
    left["__slots__"] = tuple(name for name in own if name not in inherited)
    made = types.new_class(cls.__name__, cls.__bases__, {"metaclass": type(cls)}, lambda namespace: namespace.update(left))
    made.__qualname__ = cls.__qualname__
    return made


def _initializer(cls: Any) -> Callable[..., None]:
    """`__init__`: each field by the setter of its slot, frozen or not; then `__post_init__`, if there is one."""
    names: dict[str, Any] = {"absent": object()}
    parameters, body = ["self"], list[str]()
    for n, (name, field) in enumerate(getattr(cls, OURS).items()):
        names[f"set{n}"], names[f"make{n}"], names[f"default{n}"] = getattr(cls, name).__set__, field.factory, field.default
        value = name
        if field.factory is not _MISSING:
            value = f"make{n}() if {name} is absent else {name}" if field.init else f"make{n}()"
        elif not field.init:
            value = f"default{n}"
        if field.init:
            default = f"=default{n}" if field.default is not _MISSING else "=absent" if field.factory is not _MISSING else ""
            parameters.append(name + default)
        if field.init or field.factory is not _MISSING or field.default is not _MISSING:
            body.append(f"set{n}(self, {value})")
    if getattr(cls, "__post_init__", None) is not None:
        body.append("self.__post_init__()")
    exec(f"def __init__({', '.join(parameters)}):\n " + "\n ".join(body or ["pass"]), names)
    made: Callable[..., None] = names["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    return made


def _identity(cls: type, order: bool, frozen: bool) -> dict[str, Any]:
    """What makes two values equal, and one smaller: the tuples of their fields, of values of the same class."""
    names = [name for name, field in getattr(cls, OURS).items() if field.compared]
    several = operator.attrgetter(*names) if len(names) > 1 else None

    def of(value: Any) -> tuple[Any, ...]:
        return tuple(getattr(value, name) for name in names)

    get: Callable[[Any], Any] = several or of

    def compares(how: Callable[[Any, Any], bool]) -> Callable[[Any, object], bool]:
        return lambda self, other: how(get(self), get(other)) if other.__class__ is self.__class__ else NotImplemented

    made: dict[str, Any] = {"__eq__": compares(operator.eq), "__hash__": (lambda self: hash(get(self))) if frozen else None}
    if order:
        made |= {f"__{how.__name__}__": compares(how) for how in (operator.lt, operator.le, operator.gt, operator.ge)}
    return made


def _frozen(cls: type) -> dict[str, Any]:
    """Values that never change, but are copied."""

    def refuse(kind: str) -> Callable[..., None]:
        def change(self: Any, name: str, *value: object) -> None:
            if type(self) is cls or name in getattr(cls, OURS):
                raise dataclasses.FrozenInstanceError(f"cannot {kind} field {name!r}")
            getattr(super(cls, self), "__delattr__" if kind == "delete" else "__setattr__")(name, *value)

        return change

    def state(self: Any) -> list[Any]:
        return [getattr(self, name) for name in getattr(cls, OURS)]

    def set_state(self: Any, held: list[Any]) -> None:
        for name, value in zip(getattr(cls, OURS), held, strict=True):
            object.__setattr__(self, name, value)

    changes = {"__setattr__": refuse("assign to"), "__delattr__": refuse("delete")}
    return changes | {"__getstate__": state, "__setstate__": set_state}


@reprlib.recursive_repr()
def _shown(self: Any) -> str:
    fields = getattr(self, OURS).items()
    return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name, field in fields if field.shown)})"


def _made(plain: type[T], eq: bool = True, order: bool = False, frozen: bool = False) -> type[T]:
    own = {name: _Field.of(plain.__dict__.get(name, _MISSING)) for name in _annotated(plain)}
    cls: Any = _with_slots(plain, own)
    fields: dict[str, _Field] = {}
    for base in reversed(cls.__mro__[1:]):
        fields |= base.__dict__.get(OURS, {})
    setattr(cls, OURS, fields | own)

    def first(self: Any, *arguments: Any, **named: Any) -> None:
        cls.__init__ = _initializer(cls)
        cls.__init__(self, *arguments, **named)

    methods: dict[str, Any] = {"__init__": first, "__repr__": _shown}
    if eq:
        methods |= _identity(cls, order, frozen)
    if frozen:
        methods |= _frozen(cls)
    written = {name for name in methods if callable(plain.__dict__.get(name)) and name != "__init__"}
    for name in methods.keys() - written:
        setattr(cls, name, methods[name])
    cls.__match_args__ = tuple(name for name, field in getattr(cls, OURS).items() if field.init)  # type: ignore[misc]
    setattr(cls, FIELDS, _Asked(plain, {"eq": eq, "order": order, "frozen": frozen}))
    done: type[T] = cls
    return done


if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
    from dataclasses import replace as replace
else:

    def dataclass(*, slots: bool, **options: bool) -> Any:
        """As `dataclasses.dataclass` of a class with slots; `eq`, `order` and `frozen` are its options."""
        assert slots, "a class without slots is for `dataclasses`"
        return lambda cls: _made(cls, **options)

    def replace(value: Any, /, **changes: object) -> Any:
        """As `dataclasses.replace`."""
        same = {name: getattr(value, name) for name, field in getattr(value, OURS).items() if field.init}
        return type(value)(**(same | changes))
