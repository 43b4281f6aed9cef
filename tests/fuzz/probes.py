"""Probes in the rooms under test: which branches ran, and what constants their code names.

Modules are compiled with a store into `HITS` at the head of each function, branch, case and alternative. That costs a run a sixth
of what `sys.settrace` costs, and works alike on every version of Python.
"""

import ast
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

MOST = 1 << 14  # probes
_NAME = "hits_of_probes"  # no leading underscores: in classes those would be changed
_STATEMENTS = ("body", "orelse", "finalbody")

HITS = bytearray(MOST)
"""One byte a probe: 1 when it ran. Whoever runs an input zeroes it before."""


class _Instrument(ast.NodeTransformer):
    """Puts a probe at the head of each list of statements but those of modules and classes, and of each alternative of a value."""

    def __init__(self, first: int) -> None:
        self.next = first

    def _store(self, at: ast.AST) -> ast.stmt:
        store: ast.stmt = self._new(f"{_NAME}[{self._number()}] = 1", at, "exec").body[0]
        return store

    def _value(self, value: ast.expr) -> ast.expr:
        probe: ast.BoolOp = self._new(f"{_NAME}.__setitem__({self._number()}, 1) or 0", value, "eval").body
        probe.values[1] = value
        return probe

    def _number(self) -> int:
        self.next += 1
        assert self.next <= MOST, "more branches than probes: raise MOST"
        return self.next - 1

    @staticmethod
    def _new(text: str, at: ast.AST, mode: str) -> Any:
        tree = ast.parse(text, mode=mode)
        for node in ast.walk(tree):
            ast.copy_location(node, at)
        return tree

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if not isinstance(node, ast.Module | ast.ClassDef):
            for name in _STATEMENTS:
                body = getattr(node, name, None)
                if isinstance(body, list) and body and isinstance(body[0], ast.stmt):
                    body.insert(int(_is_docstring(body[0])), self._store(body[0]))
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        if not node.orelse:
            node.orelse = [self._store(node)]
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        node.values[1:] = [self._value(value) for value in node.values[1:]]
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        node.body, node.orelse = self._value(node.body), self._value(node.orelse)
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        self.generic_visit(node)
        node.body = self._value(node.body)
        return node


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


class Probes(MetaPathFinder):
    """Compiles rooms with probes as they are imported. A room is a module by its name, or all of a package with a dot behind it."""

    def __init__(self, rooms: Sequence[str]) -> None:
        self._rooms = tuple(rooms)
        self.count = 0
        self.found = set[str]()
        """The rooms of which something was imported."""
        self.integers = set[int]()
        self.texts = set[bytes]()

    def _rooms_of(self, module: str) -> set[str]:
        return {room for room in self._rooms if room == module or (room.endswith(".") and module.startswith(room))}

    def install(self) -> None:
        """From now on, for modules that are not loaded yet: AssertionError when one of the rooms is."""
        early = [name for name in sys.modules if self._rooms_of(name)]
        assert not early, f"imported before the probes were there: {early}"
        sys.meta_path.insert(0, self)

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        rooms = self._rooms_of(fullname)
        spec = PathFinder.find_spec(fullname, path) if rooms else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            self.found |= rooms
            spec.loader = _Loader(spec.loader.name, spec.loader.path, self)
        return spec

    def compiled(self, source: bytes, path: str) -> CodeType:
        """A module's code with probes; its constants are remembered."""
        self._harvest(compile(source, path, "exec", dont_inherit=True))
        instrument = _Instrument(self.count)
        tree = instrument.visit(ast.parse(source))
        self.count = instrument.next
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)

    def _harvest(self, value: object) -> None:
        match value:
            case CodeType():
                self._harvest(value.co_consts)
            case tuple() | frozenset():
                for one in value:
                    self._harvest(one)
            case bool():
                pass
            case int() if 0 < value < 1 << 64:
                self.integers.add(value)
            case str() if value.isascii() and 0 < len(value) <= 24 and value.isprintable():
                self.texts.add(value.encode())
            case bytes() if 0 < len(value) <= 32:
                self.texts.add(value)


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, probes: Probes) -> None:
        super().__init__(name, path)
        self._probes = probes

    def get_code(self, fullname: str) -> CodeType:
        return self._probes.compiled(self.get_data(self.path), self.path)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__[_NAME] = HITS
        super().exec_module(module)
