"""Defines what a family offers: a form, one body with its operand kinds and widths settled, compiled to one stencil."""

from collections.abc import Callable

from trapgate.isa.vocabulary import Trace
from trapgate.values import dataclass

Body = Callable[[Trace], None]


@dataclass(frozen=True, slots=True)
class Form:
    """A stencil to be: its name, the body that is traced, and whether its flags are dead."""

    name: str
    body: Body
    dead_flags: bool = False

    def trace(self) -> Trace:
        """Record the body."""
        trace = Trace()
        trace.memo["dead_flags"] = self.dead_flags
        self.body(trace)
        return trace


def with_and_without_flags(name: str, body: Body) -> list[Form]:
    """The form, and its variant for places where nobody reads the flags it sets (`name!`)."""
    return [Form(name, body), Form(f"{name}!", body, dead_flags=True)]
