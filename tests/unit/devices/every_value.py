"""Every plain value that a board or a device of one holds, in lines that tests compare."""

from collections import deque
from typing import Any

from trapgate.clock import Timer


def every_value(thing: Any, seen: dict[int, str], name: str) -> list[str]:
    """Every plain value that can be reached from an object, by its path; what is met again, by its first one."""
    if isinstance(thing, int | str | bytes | bytearray | bool | float | frozenset | type(None)):
        return [f"{name} = {thing!r}"]
    if id(thing) in seen:
        return [f"{name} is {seen[id(thing)]}"]
    seen[id(thing)] = name
    if isinstance(thing, Timer):
        return [] if thing.cancelled else [f"{name} is due at {thing.deadline}"]
    if isinstance(thing, dict):
        parts = sorted(((str(key), value) for key, value in thing.items()), key=lambda one: one[0])
    elif isinstance(thing, list | tuple | deque):
        parts = [(str(number), value) for number, value in enumerate(thing)]
    elif type(thing).__module__.startswith("trapgate.devices"):
        slots = [one for kind in type(thing).__mro__ for one in getattr(kind, "__slots__", ())]
        parts = sorted({**getattr(thing, "__dict__", {}), **{one: getattr(thing, one) for one in slots}}.items())
    else:
        return []
    return [line for key, value in parts for line in every_value(value, seen, f"{name}.{key}")]
