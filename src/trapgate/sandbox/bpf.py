"""Assembles classic BPF as seccomp runs it: rules over the number and the arguments of a system call, as the bytes of a program.

Source: Linux, Documentation/userspace-api/seccomp_filter.rst; linux/seccomp.h, linux/filter.h.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum

from trapgate.values import dataclass

MOST = 4096  # instructions of a program (BPF_MAXINSNS)
X86_64 = 0xC000003E  # AUDIT_ARCH_X86_64
X32 = 0x40000000  # __X32_SYSCALL_BIT: numbers from here on are another ABI's
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; an argument has 8 bytes
_INSTRUCTION = struct.Struct("<HBBI")  # struct sock_filter: code, jump where true, jump where false, operand
_LOAD, _AND, _RETURN, _EQUAL, _NOT_LESS = 0x20, 0x54, 0x06, 0x15, 0x35  # BPF_LD|W|ABS, ALU|AND, RET, JMP|JEQ, JMP|JGE


class Action(IntEnum):
    """What becomes of a call. MISSING and REFUSED do nothing and fail with ENOSYS and EPERM; ENDED raises SIGSYS (`ending`)."""

    ALLOW = 0x7FFF0000
    REFUSED = 0x00050001
    MISSING = 0x00050026
    ENDED = 0x00030000


@dataclass(frozen=True, slots=True)
class Check:
    """Holds where `mask` bits of an argument (0-5) are `value`: of its lower 32 bits, or with `high` of its upper ones."""

    argument: int
    value: int
    mask: int = 0xFFFFFFFF
    high: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """What becomes of a call whose checks all hold."""

    action: Action
    checks: tuple[Check, ...] = ()


def program(rules: Sequence[tuple[int, Sequence[Row]]], newest: int, otherwise: Action, newer: Action) -> bytes:
    """The instructions that judge a call: the first row that holds of the rule with its number.

    Without such a row it is `otherwise`, and `newer` for calls with numbers above `newest`. Another architecture's are ENDED.
    """
    code = [(_LOAD, 0, 0, ARCHITECTURE), (_EQUAL, 1, 0, X86_64), (_RETURN, 0, 0, Action.ENDED)]
    code += [(_LOAD, 0, 0, NUMBER), (_NOT_LESS, 0, 1, X32), (_RETURN, 0, 0, Action.ENDED)]
    for number, rows in rules:
        block = [step for row in rows for step in _row(row)]
        if not rows or rows[-1].checks:
            block.append((_RETURN, 0, 0, otherwise))
        code += [(_EQUAL, 0, len(block), number), *block]
    code += [(_NOT_LESS, 0, 1, newest + 1), (_RETURN, 0, 0, newer), (_RETURN, 0, 0, otherwise)]
    assert len(code) <= MOST
    return b"".join(_INSTRUCTION.pack(*step) for step in code)


def _row(row: Row) -> list[tuple[int, int, int, int]]:
    each = 3  # instructions of a check
    steps = []
    for left, check in zip(range(len(row.checks), 0, -1), row.checks, strict=True):
        at = ARGUMENTS + 8 * check.argument + 4 * check.high
        skipped = each * (left - 1) + 1
        steps += [(_LOAD, 0, 0, at), (_AND, 0, 0, check.mask), (_EQUAL, 0, skipped, check.value)]
    return [*steps, (_RETURN, 0, 0, row.action)]
