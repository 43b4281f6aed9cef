"""Walks from frame to frame: by call frame information, and where code has none, by frame pointers."""

from typing import Protocol

from trapgate.finder.program import Program
from trapgate.finder.stacks import expressions
from trapgate.finder.stacks.frames import CallFrames
from trapgate.finder.stacks.reading import Malformed
from trapgate.finder.stacks.rows import How, Rule, Rules
from trapgate.linux.mappings import Mapping
from trapgate.values import dataclass, replace

MOST_FRAMES = 128  # of a stack
LONGEST_CALL = 7  # bytes of a near call instruction, without prefixes that change nothing
_WIDE = ("rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", *(f"r{number}" for number in range(8, 16)), "rip")
_NARROW = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "rip")
NUMBERS = {8: _WIDE, 4: _NARROW}
"""Registers in the order of DWARF's numbers, by bytes of a word (the System V ABIs, "DWARF Register Number Mapping")."""


@dataclass(frozen=True, slots=True)
class Code:
    """What lies at an address: `program`, whose addresses are `moved` behind its file's; None where it is not known."""

    mapping: Mapping
    program: Program | None = None
    moved: int = 0
    frames: CallFrames | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A frame. `called`: `pc` lies behind a call, which is the instruction before it. `guessed`: it was had by a frame pointer.

    `signal`: no function called the one inside, but the kernel did, for a signal.
    """

    pc: int
    code: Code | None
    called: bool = False
    guessed: bool = False
    signal: bool = False

    @property
    def at(self) -> int:
        """An address in the instruction that the frame is at."""
        return self.pc - 1 if self.called else self.pc


class Space(Protocol):
    """A process's memory."""

    def read(self, address: int, length: int) -> bytes:
        """Up to so many bytes, fewer where not all are there."""
        ...

    def code(self, address: int) -> Code | None:
        """What lies there."""
        ...


class _Unknown(Exception):
    """A register or memory that is needed is not known."""


class _Frame:
    """The registers of one frame, by DWARF's numbers; those that are lost are missing."""

    def __init__(self, space: Space, word: int, registers: dict[int, int]) -> None:
        self._space, self._word, self._registers = space, word, registers
        names = NUMBERS[word]
        self._stack, self._base, self._pc = names.index("rsp"), names.index("rbp"), names.index("rip")

    @property
    def stack(self) -> int:
        """Where the stack ends."""
        return self._registers.get(self._stack, 0)

    @property
    def base(self) -> int | None:
        """What RBP is, if that is known."""
        return self._registers.get(self._base)

    @property
    def pc(self) -> int:
        """What is next, when this frame goes on."""
        return self._registers.get(self._pc, 0)

    def by_rules(self, rules: Rules) -> "_Frame | None":
        """The caller's; None where there is none, or it cannot be known."""
        try:
            if rules.code:
                address = expressions.value(rules.code, self._word, [], self._register, self._number)
            else:
                address = self._masked(self._register(rules.base) + rules.offset)
            found = dict(self._registers)
            found[self._stack] = address
            for register, rule in rules.rules.items():
                value = self._value(rule, register, address)
                if value is None:
                    found.pop(register, None)
                else:
                    found[register] = value
            if rules.return_register not in rules.rules:
                return None
            pc = found.get(rules.return_register)
        except (_Unknown, Malformed):
            return None
        if pc is None:
            return None
        found[self._pc] = pc
        return _Frame(self._space, self._word, found)

    def by_pointer(self) -> "_Frame | None":
        """The caller's where this frame keeps its pointer in RBP, and a call led here."""
        base = self._registers.get(self._base, 0)
        if base < self.stack or base % self._word:
            return None
        try:
            before, pc = self._number(base, self._word), self._number(base + self._word, self._word)
        except _Unknown:
            return None
        if not self._behind_a_call(pc):
            return None
        return _Frame(self._space, self._word, {self._base: before, self._stack: base + 2 * self._word, self._pc: pc})

    def _behind_a_call(self, pc: int) -> bool:
        code = self._space.code(pc - 1) if pc else None
        if code is None or not code.mapping.executable:
            return False
        data = self._space.read(pc - LONGEST_CALL, LONGEST_CALL)
        near = len(data) == LONGEST_CALL and data[-5] == 0xE8
        return near or any(data[at : at + 1] == b"\xff" and data[at + 1] >> 3 & 7 == 2 for at in range(len(data) - 1))

    def _value(self, rule: Rule, register: int, address: int) -> int | None:
        match rule.how:
            case How.UNDEFINED:
                return None
            case How.SAME:
                return self._registers.get(register)
            case How.AT:
                return self._number(self._masked(address + rule.value), self._word)
            case How.IS:
                return self._masked(address + rule.value)
            case How.REGISTER:
                return self._registers.get(rule.value)
        value = expressions.value(rule.code, self._word, [address], self._register, self._number)
        return value if rule.how is How.IS_EXPRESSION else self._number(value, self._word)

    def _masked(self, value: int) -> int:
        return value & ((1 << 8 * self._word) - 1)

    def _register(self, number: int) -> int:
        try:
            return self._registers[number]
        except KeyError:
            raise _Unknown from None

    def _number(self, address: int, size: int) -> int:
        data = self._space.read(address, size)
        if len(data) != size:
            raise _Unknown
        return int.from_bytes(data, "little")


def walk(registers: dict[str, int], pc: int, word: int, space: Space) -> tuple[Step, ...]:
    """The frames from the instruction at `pc` on, the innermost first; where one's caller cannot be known, it is the last.

    `registers`: as they are there, by the names of 64-bit ones. `word`: bytes of a pointer of the code, 8 or 4.
    """
    return tuple(one.step for one in framed(registers, pc, word, space))


@dataclass(frozen=True, slots=True)
class Framed:
    """A frame from its stack pointer to where it ends, which is its caller's; `base`: its RBP, None where that is lost."""

    step: Step
    stack: int
    base: int | None
    end: int


def framed(registers: dict[str, int], pc: int, word: int, space: Space) -> list[Framed]:
    """The frames as `walk` has them; the last ends where it begins."""
    frame = _Frame(space, word, {number: registers[name] for number, name in enumerate(NUMBERS[word]) if name in registers})
    steps, frames = [Step(pc, space.code(pc))], [frame]
    while len(steps) < MOST_FRAMES:
        code, at = steps[-1].code, steps[-1].at
        rules = code.frames.rules(at - code.moved) if code is not None and code.frames is not None else None
        caller = frame.by_pointer() if rules is None else frame.by_rules(rules)
        signal = rules is not None and rules.signal
        if caller is None or not caller.pc or (caller.stack <= frame.stack and not signal):
            break  # a stack grows down: what does not lead up, leads nowhere
        called = not signal
        if signal:
            steps[-1] = replace(steps[-1], signal=True)
        steps.append(Step(caller.pc, space.code(caller.pc - called), called, rules is None))
        frames.append(caller)
        frame = caller
    ends = [*frames[1:], frames[-1]]
    return [Framed(step, one.stack, one.base, end.stack) for step, one, end in zip(steps, frames, ends, strict=True)]
