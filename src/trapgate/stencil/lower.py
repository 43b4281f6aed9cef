"""Lowers a recorded body to LLVM IR text: a stencil (tail-jumps, transients in registers) or a native function.

Everything that a stencil passes on lies in the arguments of the `preserve_none` calling convention, so that the host registers that
hold the CPU state and the transients are the same at every seam. A jump is a `musttail` call.
"""

from collections.abc import Sequence

from trapgate.isa.state import LAYOUT
from trapgate.isa.vocabulary import TRANSIENTS, Block, Trace, Value

CONVENTION = "preserve_nonecc"
FLOW_TYPES = "(ptr, " + ", ".join("i64" for _ in TRANSIENTS) + ")"
FLOW_PARAMETERS = "(ptr noalias %cpu, " + ", ".join(f"i64 %in{name}" for name in TRANSIENTS) + ")"
RANGES = {"S": "!1", "U": "!2", "R": "!3", "B": "!4"}  # by a hole's first letter; Q holes are moved whole
METADATA = """
attributes #0 = { optsize nounwind "no-builtins" "frame-pointer"="none" "no-trapping-math"="false" }
attributes #1 = { nounwind "no-builtins" "frame-pointer"="none" }
!0 = !{!"branch_weights", i32 2000, i32 1}
!1 = !{i64 -2147483648, i64 2147483648}
!2 = !{i64 0, i64 4294967296}
!3 = !{i64 0, i64 2147483648}
!4 = !{i64 0, i64 256}
!5 = !{!"branch_weights", i32 1, i32 2000}
!10 = !{!"trapgate"}
!11 = !{!"CPU state", !10, i64 0}
!12 = !{!11, !11, i64 0}
!13 = !{!14, !14, i64 0}
!14 = !{!"RAM", !10, i64 0}
"""
INTRINSICS = ("ctpop", "ctlz", "cttz", "bswap", "fshl", "fshr")


class Lowering:
    """Lowers the traces of one LLVM module and collects what they refer to."""

    def __init__(self) -> None:
        self.functions: list[str] = []
        self.holes: set[str] = set()
        self.targets: set[str] = set()
        self.intrinsics: set[str] = set()
        self.callees: dict[str, tuple[int, int]] = {}
        self.defined: set[str] = set()

    def stencil(self, name: str, trace: Trace) -> None:
        """Add a stencil or a native function that is entered by a jump."""
        self._function(name, trace, flow=True)

    def function(self, name: str, trace: Trace, width: int) -> None:
        """Add a native function that is called and returns a value (`width` 0: none)."""
        self._function(name, trace, flow=False, width=width)

    def module(self) -> str:
        """The whole module as LLVM IR text."""
        lines = []
        for hole in sorted(self.holes):
            note = "" if hole[0] == "Q" else f", !absolute_symbol {RANGES[hole[0]]}"
            lines.append(f"@{hole} = external dso_local global i8{note}")
        for target in sorted(self.targets - self.defined):
            lines.append(f"declare dso_local {CONVENTION} void @{target}{FLOW_TYPES}")
        for callee, (width, count) in sorted(self.callees.items()):
            if callee not in self.defined:
                arguments = ", ".join(["ptr", *["i64"] * count])
                lines.append(f"declare dso_local {_type(width) if width else 'void'} @{callee}({arguments})")
        for signature in sorted(self.intrinsics):
            lines.append(signature)
        return "\n".join(lines) + "\n" + "\n".join(self.functions) + METADATA

    def _function(self, name: str, trace: Trace, flow: bool, width: int = 0) -> None:
        self.defined.add(name)
        body = Body(self, flow)
        body.trace(trace)
        if flow:
            head = f'define dso_local {CONVENTION} void @{name}{FLOW_PARAMETERS} #0 section ".text.{name}" {{'
        else:
            parameters = ", ".join(["ptr noalias %cpu", *(f"i{a.width} %a{a.attr}" for a in trace.arguments)])
            head = f'define dso_local {_type(width) if width else "void"} @{name}({parameters}) #1 section ".text.{name}" {{'
        self.functions.append("\n".join([head, *body.lines, "}"]))


def _type(width: int) -> str:
    return f"i{width}"


class Body:
    """The text of one function."""

    def __init__(self, module: Lowering, flow: bool) -> None:
        self.module, self.flow, self.lines = module, flow, list[str]()
        self.names: dict[int, str] = {}
        self.count = 0
        self.exits: list[str] = []
        self.ended = False
        if flow:
            for name in TRANSIENTS:
                self.lines.append(f"  %var_{name} = alloca i64\n  store i64 %in{name}, ptr %var_{name}")

    def trace(self, trace: Trace) -> None:
        """The whole of it, from one trace."""
        for name, width in trace.variables.items():
            self.lines.append(f"  %var_{name} = alloca i{width}")
        for argument in trace.arguments:
            self.names[id(argument)] = f"%a{argument.attr}"
        self._operations(trace.operations)
        if not self.ended:
            self.lines.append("  ret void" if not self.flow else "  unreachable")

    def _new(self, prefix: str = "t") -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def _name(self, value: Value) -> str:
        if value.op == "const":
            number = value.attr
            return str(number - (1 << value.width) if value.width > 1 and number >> (value.width - 1) else number)
        return self.names[id(value)]

    def _set(self, value: Value, text: str) -> None:
        name = f"%{self._new()}"
        self.names[id(value)] = name
        self.lines.append(f"  {name} = {text}")

    def _temporary(self, text: str) -> str:
        name = f"%{self._new()}"
        self.lines.append(f"  {name} = {text}")
        return name

    def _operations(self, operations: Sequence[Value]) -> None:
        for value in operations:
            assert not self.ended, f"{value.op} behind the end of a path"
            method = getattr(self, f"_op_{value.op}", None)
            if method is not None:
                method(value)
            elif value.op in INTRINSICS:
                self._intrinsic(value)
            else:
                left, right = value.args
                self._set(value, f"{value.op} i{value.width} {self._name(left)}, {self._name(right)}")

    def _intrinsic(self, value: Value) -> None:
        kind = f"i{value.width}"
        extra = [("i1", "false")] if value.op in ("ctlz", "cttz") else []
        types = [kind] * len(value.args) + [t for t, _ in extra]
        self.module.intrinsics.add(f"declare {kind} @llvm.{value.op}.{kind}({', '.join(types)})")
        arguments = [f"{kind} {self._name(a)}" for a in value.args] + [f"{t} {v}" for t, v in extra]
        self._set(value, f"call {kind} @llvm.{value.op}.{kind}({', '.join(arguments)})")

    def _op_icmp(self, value: Value) -> None:
        left, right = value.args
        self._set(value, f"icmp {value.attr} i{left.width} {self._name(left)}, {self._name(right)}")

    def _op_zext(self, value: Value) -> None:
        (source,) = value.args
        self._set(value, f"{value.op} i{source.width} {self._name(source)} to i{value.width}")

    _op_sext = _op_trunc = _op_zext

    def _op_select(self, value: Value) -> None:
        condition, yes, no = value.args
        kind = f"i{value.width}"
        self._set(value, f"select i1 {self._name(condition)}, {kind} {self._name(yes)}, {kind} {self._name(no)}")

    def _op_hole(self, value: Value) -> None:
        hole = value.attr
        self.module.holes.add(hole)
        if hole[0] == "Q":
            self._set(value, f'call i64 asm "movabs $$\'{hole}\', $0", "=r"()'.replace("'", ""))
            return
        number = f"ptrtoint (ptr @{hole} to i64)"
        if value.width == 64:
            self._set(value, f"add i64 {number}, 0")
        else:
            self._set(value, f"trunc i64 {number} to i{value.width}")

    def _field(self, field: str) -> str:
        """A pointer to a field of the CPU state."""
        if field in LAYOUT:
            return self._temporary(f"getelementptr i8, ptr %cpu, i64 {LAYOUT[field].offset}")
        self.module.holes.add(field)
        return self._temporary(f"getelementptr i8, ptr %cpu, i64 ptrtoint (ptr @{field} to i64)")

    def _field_at(self, field: str, index: Value) -> str:
        inner = self._temporary(f"getelementptr i8, ptr %cpu, i64 {self._name(index)}")
        if field in LAYOUT:
            return self._temporary(f"getelementptr i8, ptr {inner}, i64 {LAYOUT[field].offset}")
        self.module.holes.add(field)
        return self._temporary(f"getelementptr i8, ptr {inner}, i64 ptrtoint (ptr @{field} to i64)")

    def _op_get(self, value: Value) -> None:
        self._set(value, f"load i{value.width}, ptr {self._field(value.attr)}, align 1")

    def _op_put(self, value: Value) -> None:
        (stored,) = value.args
        name = self._name(stored)
        self.lines.append(f"  store i{stored.width} {name}, ptr {self._field(value.attr)}, align 1")

    def _op_get_at(self, value: Value) -> None:
        self._set(value, f"load i{value.width}, ptr {self._field_at(value.attr, value.args[0])}, align 1")

    def _op_put_at(self, value: Value) -> None:
        index, stored = value.args
        self.lines.append(f"  store i{stored.width} {self._name(stored)}, ptr {self._field_at(value.attr, index)}, align 1")

    def _op_address_of(self, value: Value) -> None:
        self._set(value, f"ptrtoint ptr {self._field(value.attr)} to i64")

    def _op_load(self, value: Value) -> None:
        pointer = self._temporary(f"inttoptr i64 {self._name(value.args[0])} to ptr")
        self._set(value, f"load i{value.width}, ptr {pointer}, align 1")

    def _op_store(self, value: Value) -> None:
        host, stored = value.args
        pointer = self._temporary(f"inttoptr i64 {self._name(host)} to ptr")
        self.lines.append(f"  store i{stored.width} {self._name(stored)}, ptr {pointer}, align 1")

    def _op_var_get(self, value: Value) -> None:
        self._set(value, f"load i{value.width}, ptr %var_{value.attr}")

    def _op_var_set(self, value: Value) -> None:
        (stored,) = value.args
        self.lines.append(f"  store i{stored.width} {self._name(stored)}, ptr %var_{value.attr}")

    def _op_asm(self, value: Value) -> None:
        template, constraints = value.attr
        arguments = ", ".join(f"i{a.width} {self._name(a)}" for a in value.args)
        outputs = constraints.count("=")
        kind = f"i{value.width}" if value.width else "void"
        if outputs > 1:  # registers that are used up are outputs, too; only the first is a result
            kind = "{" + ", ".join([f"i{value.width or 64}"] * outputs) + "}"
        text = f'call {kind} asm sideeffect "{template}", "{constraints}"({arguments})'
        if outputs > 1:
            self._set(value, f"extractvalue {kind} {self._temporary(text)}, 0")
        elif value.width:
            self._set(value, text)
        else:
            self.lines.append("  " + text)

    def _op_call(self, value: Value) -> None:
        self.module.callees[value.attr] = (value.width, len(value.args))
        arguments = ", ".join(["ptr %cpu", *(f"i64 {self._name(a)}" for a in value.args)])
        kind = f"i{value.width}" if value.width else "void"
        text = f"call {kind} @{value.attr}({arguments})"
        if value.width:
            self._set(value, text)
        else:
            self.lines.append("  " + text)

    def _op_call_host(self, value: Value) -> None:
        address, *args = value.args
        pointer = self._temporary(f"inttoptr i64 {self._name(address)} to ptr")
        self._set(value, f"call i{value.width} {pointer}({', '.join(f'i64 {self._name(a)}' for a in args)})")

    def _op_when(self, value: Value) -> None:
        block: Block = value.attr
        yes, no, join = self._new("yes"), self._new("no"), self._new("join")
        weights = "" if block.likely is None else ", !prof !0" if block.likely else ", !prof !5"
        self.lines.append(f"  br i1 {self._name(value.args[0])}, label %{yes}, label %{no}{weights}")
        ends = []
        for label, operations in ((yes, block.operations), (no, block.otherwise.operations if block.otherwise else [])):
            self.lines.append(f"{label}:")
            self.ended = False
            self._operations(operations)
            ends.append(self.ended)
            if not self.ended:
                self.lines.append(f"  br label %{join}")
        self.ended = all(ends)
        if not self.ended:
            self.lines.append(f"{join}:")

    def _op_loop(self, value: Value) -> None:
        head, after = self._new("loop"), self._new("after")
        self.lines.append(f"  br label %{head}\n{head}:")
        self.exits.append(after)
        self._operations(value.attr.operations)
        if not self.ended:
            self.lines.append(f"  br label %{head}")
        self.exits.pop()
        self.ended = False
        self.lines.append(f"{after}:")

    def _op_leave(self, value: Value) -> None:
        self.lines.append(f"  br label %{self.exits[-1]}")
        self.ended = True

    def _tail(self, target: str) -> None:
        assert self.flow, "a called function cannot jump"
        arguments = ["ptr %cpu"] + [f"i64 {self._temporary(f'load i64, ptr %var_{name}')}" for name in TRANSIENTS]
        self.lines.append(f"  musttail call {CONVENTION} void {target}({', '.join(arguments)})\n  ret void")
        self.ended = True

    def _op_jump(self, value: Value) -> None:
        self.module.targets.add(value.attr)
        self._tail(f"@{value.attr}")

    def _op_jump_to(self, value: Value) -> None:
        self._tail(self._temporary(f"inttoptr i64 {self._name(value.args[0])} to ptr"))

    def _op_return(self, value: Value) -> None:
        if value.args:
            self.lines.append(f"  ret i{value.args[0].width} {self._name(value.args[0])}")
        else:
            self.lines.append("  ret void")
        self.ended = True
