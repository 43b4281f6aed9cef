"""Agent expressions: bytecode of breakpoint conditions, evaluated on a pretend guest."""

from fuzz.target import Target, without_numbers
from trapgate.gdb import agent

_MAPPED = range(0x1000, 0x2000)


def _memory(address: int, length: int) -> bytes:
    assert 0 <= address < 1 << 64
    return bytes(length) if address in _MAPPED else b""


def _register(number: int) -> int:
    assert 0 <= number < 1 << 16
    return number * 0x1111_1111_1111_1111 & (1 << 64) - 1


def run(data: bytes) -> str:
    """Evaluate one."""
    try:
        value = agent.evaluate(data, _register, _memory)
    except agent.AgentError as error:
        return without_numbers(str(error))
    assert 0 <= value < 1 << 64
    return "a value"


def plant() -> None:
    """Division by zero is forgotten."""
    agent._BINARY[0x06] = lambda a, b: a // b


TARGET = Target(
    run,
    [bytes.fromhex(code) for code in ("26010f22011327", "2205220302220a1427", "22642203060b27")],
    plant,
    words=[bytes((opcode,)) for opcode in (*agent._BINARY, *agent._UNARY, *agent._REFERENCE)],
    short=7000,
)
