"""Addresses the stack and moves its pointer, which moves only after the access, so that a fault leaves it alone."""

from collections.abc import Iterator
from functools import partial

from trapgate.isa.forms import Form
from trapgate.isa.vocabulary import Trace, Value

STACK_WIDTHS = (16, 32, 64)
SIZES = (2, 4, 8)


def push_address(m: Trace, size: int, width: int) -> None:
    """EA = where a push of `size` bytes goes (an offset into SS outside 64-bit mode)."""
    m["EA"] = (m.get("rsp", width) - size).zext(64)
    m.jump("NEXT")


def pop_address(m: Trace, width: int) -> None:
    """EA = the top of the stack."""
    m["EA"] = m.get("rsp", width).zext(64)
    m.jump("NEXT")


def frame_address(m: Trace, width: int) -> None:
    """EA = RBP, where LEAVE pops from."""
    m["EA"] = m.get("rbp", width).zext(64)
    m.jump("NEXT")


def move_pointer(m: Trace, width: int) -> None:
    """RSP += a constant."""
    store_stack(m, width, m.get("rsp", 64) + m.hole("Sby"))
    m.jump("NEXT")


def leave_pointer(m: Trace, width: int) -> None:
    """LEAVE: RSP = RBP + a constant (RBP itself is popped behind this)."""
    store_stack(m, width, m.get("rbp", 64) + m.hole("Sby"))
    m.jump("NEXT")


def enter_address(m: Trace, size: int, width: int) -> None:
    """EA = where RSP will be after ENTER level 0."""
    m["EA"] = (m.get("rsp", 64) - size - m.hole("Sby")).trunc(width).zext(64)
    m.jump("NEXT")


def enter_frame(m: Trace, size: int, width: int) -> None:
    """ENTER level 0, when RBP has been stored: RBP = RSP behind that push (operand size), then RSP -= a constant."""
    before = m.get("rsp", 64)
    pointer = before - size if width == 64 else (before.trunc(width) - size).zext(64)
    if width == 16:
        pointer = pointer | (before & ~m.const(0xFFFF, 64))
    m.put("rbp", pointer if size == 8 else pointer.trunc(8 * size).zext(64) if size == 4 else pointer.trunc(16))
    store_stack(m, width, pointer - m.hole("Sby"))
    m.jump("NEXT")


def store_stack(m: Trace, width: int, value: Value) -> None:
    """RSP changes by the width of the stack pointer."""
    m.put("rsp", value if width == 64 else value.trunc(width).zext(64) if width == 32 else value.trunc(16))


def forms() -> Iterator[Form]:
    """Every stencil of this family."""
    for width in STACK_WIDTHS:
        for size in SIZES:
            yield Form(f"push_ea.{size}.{width}", partial(push_address, size=size, width=width))
            yield Form(f"enter_ea.{size}.{width}", partial(enter_address, size=size, width=width))
            yield Form(f"enter.{size}.{width}", partial(enter_frame, size=size, width=width))
        yield Form(f"push_ea.16.{width}", partial(push_address, size=16, width=width))  # two of the largest
        yield Form(f"pop_ea.{width}", partial(pop_address, width=width))
        yield Form(f"frame_ea.{width}", partial(frame_address, width=width))
        yield Form(f"rsp_add.{width}", partial(move_pointer, width=width))
        yield Form(f"rsp_leave.{width}", partial(leave_pointer, width=width))
