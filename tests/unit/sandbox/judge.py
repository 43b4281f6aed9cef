"""What a seccomp filter decides, worked out in Python: the few instructions of classic BPF that `sandbox.bpf` makes."""

import struct

from trapgate.sandbox.bpf import X86_64

LOAD, AND, RETURN, EQUAL, NOT_LESS = 0x20, 0x54, 0x06, 0x15, 0x35


def judged(program: bytes, number: int, arguments: tuple[int, ...] = (), architecture: int = X86_64) -> int:
    """The value that a program returns for a call."""
    values = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack("<IIQ6Q", number, architecture, 0, *values)
    steps = list(struct.iter_unpack("<HBBI", program))
    at, held = 0, 0
    while True:
        code, true, false, operand = steps[at]
        at += 1
        if code == LOAD:
            held = int(struct.unpack_from("<I", data, operand)[0])
        elif code == AND:
            held &= operand
        elif code == RETURN:
            return int(operand)
        else:
            assert code in (EQUAL, NOT_LESS)
            at += true if (held == operand if code == EQUAL else held >= operand) else false
