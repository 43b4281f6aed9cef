"""Leads a body to its operands: registers (a hole for the offset), immediates (a hole), transients of another stencil."""

from trapgate.isa.vocabulary import Trace, Value

KINDS = ("R", "I", "T")


def fetch(m: Trace, kind: str, index: int, width: int) -> Value:
    """Operand `index` of this kind: `R` register R<index>, `I` immediate, `T` transient T0."""
    if kind == "R":
        return m.get(f"R{index}", width)
    if kind == "I":
        if width == 64:
            return m.hole("Simm")
        if width == 8:
            return m.hole("Bimm", 8)
        return m.hole("Uimm", 32).trunc(width)
    return m["T0"].trunc(width) if width < 64 else m["T0"]


def store(m: Trace, kind: str, index: int, value: Value) -> None:
    """Change operand `index`. A 32-bit register write clears the upper half (SDM vol. 1, 3.4.1.1)."""
    if kind == "R":
        m.put(f"R{index}", value.zext(64) if value.width == 32 else value)
    else:
        m["T0"] = value.zext(64)


def put_register(m: Trace, field: str, value: Value) -> None:
    """Change a register by name, by the same rule."""
    m.put(field, value.zext(64) if value.width == 32 else value)
