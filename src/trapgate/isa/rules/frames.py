"""Moves all general registers to the stack and back: PUSHA and POPA (SDM vol. 2 under each name)."""

from trapgate.isa.rules.reading import Reading, running_stack

PUSHED = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")


def push_all(r: Reading, size: int) -> None:
    """PUSHA: eight registers, rSP as it was."""
    stack = running_stack(r, long=False)
    r.push(stack, [(None, r.m.get(name, 64)) for name in PUSHED], size)
    r.commit(stack)
    r.done()


def pop_all(r: Reading, size: int) -> None:
    """POPA: eight registers, the stored rSP is dropped."""
    m = r.m
    stack = running_stack(r, long=False)
    for name, value in zip(reversed(PUSHED), r.pop(stack, len(PUSHED), size), strict=True):
        if name != "rsp":
            m.put(name, value if size == 4 else (m.get(name, 64) & ~m.const(0xFFFF, 64)) | value)
    r.commit(stack)
    r.done()
