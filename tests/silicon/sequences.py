"""Runs of up to 50 instructions with branches, calls and loops: what single instructions cannot show.

A translator leaves out flags that nobody reads, joins a compare with the branch behind it and chains blocks; so the host judges
runs in which instructions depend on each other's results, fault in the middle, and come round again. No instruction of a run reads
a flag that is undefined there, on whatever way it was reached; all else may depend on all else.
"""

import random
from typing import NamedTuple

from . import catalog
from .compare import Case
from .draft import Draft
from .forms import Form
from .inputs_float import image, x87_stack, xmm
from .pieces import COUNTER, POINTERS, R13, R13_BIAS, RDI, SEQUENCES, Sequence, Step, flags, steps
from .state import CF, CODE_SIZE, OF, PF, SCRATCH, SF, ZF, State

MOST = 50  # instructions
LIMIT = CODE_SIZE - 32  # bytes in front of the loop's end
LONGEST = 40  # bytes of a piece, at most
WEIGHTS = (0.55, 0.27, 0.18)  # of the families of `pieces.steps`
_CONDITION_READS = (OF, OF, CF, CF, ZF, ZF, CF | ZF, CF | ZF, SF, SF, PF, PF, SF | OF, SF | OF, SF | OF | ZF, SF | OF | ZF)
_RCX = 1 << 1


class Run(NamedTuple):
    """A run as a case, and its number of instructions."""

    case: Case
    length: int


class _Join(NamedTuple):
    """A branch forward that waits for its target: where its displacement lies and how long it is, pieces left to jump over, flags
    that are undefined where it branches."""

    at: int
    size: int
    left: int
    undefined: int


class _Maker:
    """A run under construction."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.code, self.texts = bytearray(), list[str]()
        self.undefined = self.count = 0
        self.joins: list[_Join] = []
        self.wild = rng.random() < 0.1  # pointers may be overwritten: most such runs fault
        self.pointers = POINTERS if rng.random() < 0.4 else POINTERS & ~(1 << RDI)  # without RDI there are strings

    def step(self, written: int = 0) -> Step | None:
        """A form that may stand here; None when the one that came up may not. `written`: registers that it must leave alone."""
        family = self.rng.choices(steps(), WEIGHTS)[0]
        step = self.rng.choice(self.rng.choice(family))
        if step.reads & self.undefined or step.pointers & ~self.pointers or step.writes & written:
            return None
        return None if step.writes & self.pointers and not self.wild else step

    def put(self, step: Step) -> None:
        """Append a form."""
        self.code += step.form.code
        self.texts.append(step.form.text)
        self.undefined = self.undefined & ~step.settles | step.undefined
        self.count += 1

    def put_sequence(self, sequence: Sequence) -> None:
        """Append a sequence, unless it would overwrite a pointer."""
        if sequence.writes & self.pointers:
            return
        self.code += sequence.code
        self.texts.append(sequence.text)
        self.undefined = self.undefined & ~sequence.settles | sequence.undefined
        self.count += sequence.length

    def body(self, written: int = 0) -> None:
        """One to three forms that leave the stack alone and are together shorter than a piece may be."""
        end = len(self.code) + LONGEST - 15
        for _ in range(self.rng.randrange(1, 4)):
            step = self.step(written)
            if step is not None and not step.form.instruction.is_stack_instruction and len(self.code) + len(step.form.code) < end:
                self.put(step)

    def call(self) -> None:
        """CALL, a jump over the function, the function, RET."""
        start = len(self.code)
        self.code += b"\xe8\x02\0\0\0\xeb\0"  # call +2; jmp short
        self.texts.append("call")
        self.body()
        self.code += b"\xc3"
        self.texts.append("ret")
        self.code[start + 6] = len(self.code) - start - 7
        self.count += 3

    def loop(self) -> None:
        """LOOP, LOOPE or LOOPNE around forms that leave RCX alone."""
        if self.undefined:  # the body is entered from its end, too
            return
        before = len(self.code), len(self.texts), self.count
        self.code += b"\xb9" + self.rng.randrange(1, 5).to_bytes(4, "little")
        start = len(self.code)
        self.body(_RCX)
        if self.undefined:
            del self.code[before[0] :], self.texts[before[1] :]
            self.undefined, self.count = 0, before[2]
            return
        self.code += bytes((self.rng.choice((0xE0, 0xE1, 0xE2, 0xE2)), start - len(self.code) - 2 & 0xFF))
        self.texts.append("loop")
        self.count += 2

    def branch(self) -> None:
        """A branch forward over one to three pieces, on a condition none of whose flags is undefined, or on RCX."""
        rng = self.rng
        choices = [code for code, reads in enumerate(_CONDITION_READS) if not reads & self.undefined]
        if not choices or rng.random() < 0.1:
            self.code += rng.choice((b"\xe3\0", b"\x67\xe3\0"))
            self.texts.append("jrcxz")
            size = 1
        else:
            condition, size = rng.choice(choices), rng.choice((1, 1, 4))
            self.code += bytes((0x70 | condition, 0)) if size == 1 else bytes((0x0F, 0x80 | condition, 0, 0, 0, 0))
            self.texts.append(f"j{catalog.CONDITIONS[condition]}")
        self.joins.append(_Join(len(self.code) - size, size, rng.randrange(1, 3 if size == 1 else 4), self.undefined))
        self.count += 1

    def land(self, everything: bool = False) -> None:
        """A piece is complete: branches that were to jump over it and no further lead here."""
        self.joins = [join._replace(left=join.left - 1) for join in self.joins]
        for join in self.joins:
            if everything or not join.left:
                distance = len(self.code) - join.at - join.size
                self.code[join.at : join.at + join.size] = distance.to_bytes(join.size, "little", signed=True)
                self.undefined |= join.undefined
        self.joins = [join for join in self.joins if join.left and not everything]

    def piece(self) -> None:
        """One more piece, or none when what came up does not fit here."""
        choice = self.rng.random()
        if choice < 0.86:
            if (step := self.step()) is None:
                return
            self.put(step)
        elif choice < 0.95:
            make = self.rng.choice(SEQUENCES)
            if make is flags and self.undefined:
                return
            self.put_sequence(make(self.rng))
        elif choice < 0.98:
            self.call()
        else:
            self.loop()
        self.land()


def make_run(seed: str, most: int = MOST) -> Run:
    """A run of up to `most` instructions, half of them some times around."""
    rng = random.Random(seed)
    maker = _Maker(rng)
    wanted, branches = rng.randrange(most // 3, most - 5), rng.choice((0, 0.1, 0.3))
    rounds = rng.randrange(2, 6) if rng.random() < 0.5 else 0
    if rounds:
        maker.code += b"\x41\xbf" + rounds.to_bytes(4, "little")
        maker.count += 3
    start = len(maker.code)
    while maker.count < wanted and len(maker.code) < LIMIT - LONGEST:
        maker.piece()
        if rng.random() < branches:
            maker.branch()
    maker.land(everything=True)
    if rounds:  # sub r15d, 1; jnz start
        maker.code += b"\x41\x83\xef\x01\x0f\x85"
        maker.code += (start - len(maker.code) - 4).to_bytes(4, "little", signed=True)
    shown = catalog.forms("nop")[0]
    text = "; ".join(maker.texts) + (" (loop)" if rounds else "")
    return Run(Case(Form(bytes(maker.code), shown.instruction, "nop", text), _state(rng)), maker.count)


def _state(rng: random.Random) -> State:
    draft = Draft(catalog.forms("add")[rng.randrange(8)], rng)
    for number in range(RDI, 16):
        if POINTERS >> number & 1:
            draft.gpr[number] = SCRATCH + 0x100 + 16 * rng.randrange(0x1C0)
    draft.gpr[R13] -= R13_BIAS
    draft.gpr[COUNTER] = rng.randrange(8)
    masks = 0x3F if rng.random() < 0.95 else rng.getrandbits(6)
    tags = rng.choice((0xFF, 0, 0, rng.getrandbits(8)))
    mxcsr = masks << 7 | rng.getrandbits(2) << 13 | rng.choice((0, 0, 0x40, 0x8000, 0x8040))
    control = 0x37F if rng.random() < 0.5 else 0x40 | masks | rng.getrandbits(4) << 8
    draft.fx = image(control, rng.randrange(8) << 11, tags, mxcsr, x87_stack(rng), xmm(rng))
    return draft.finish()
