"""Executes ENTER with its levels, which moves several words on the stack (SDM vol. 2, ENTER)."""

from iced_x86 import Instruction, Mnemonic

from trapgate.soft.exact.operands import write_part
from trapgate.soft.exact.stack import Stack
from trapgate.soft.state.guest_cpu import GuestCpu
from trapgate.soft.state.instructions import handles


@handles(Mnemonic.ENTER)
def enter(cpu: GuestCpu, i: Instruction) -> None:
    """ENTER with its nesting level (SDM vol. 2): the frame pointers of the outer procedures are copied."""
    st = cpu.state
    allocate, level = i.immediate16, i.immediate8_2nd & 31
    size = (-i.stack_pointer_increment - allocate) // (level + 1 if level else 1)
    stack = Stack.current(cpu)
    frames = Stack.current(cpu)
    frames.pointer = st.rbp
    stack.push(st.rbp, size)
    frame = stack.pointer
    if level:
        for _ in range(level - 1):
            frames.skip(-size)
            stack.push(frames.peek(size), size)
        stack.push(frame, size)
    stack.skip(-allocate)
    stack.probe(size)  # the new top must be writable: ENTER faults before RBP changes
    write_part(cpu, "rbp", 8 * size, frame)
    stack.commit()
