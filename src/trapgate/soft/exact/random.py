"""Executes RDRAND and RDSEED: the host's random numbers, or those of a deterministic run (SDM vol. 2 under each name)."""

import os
from collections.abc import Callable
from weakref import WeakKeyDictionary

from iced_x86 import Instruction, Mnemonic

from trapgate.arch.flags import CF, STATUS
from trapgate.soft.exact.operands import operand_size, ud, write_register
from trapgate.soft.state.core import SoftCore
from trapgate.soft.state.guest_cpu import GuestCpu
from trapgate.soft.state.instructions import handles

_RANDOM: "WeakKeyDictionary[SoftCore, int]" = WeakKeyDictionary()  # of deterministic vCPUs: where their sequence stands


def _repeatable(cpu: SoftCore, bits: int) -> int:
    """The next number of a deterministic run, the same every time: upper halves of a 64-bit congruential generator."""
    at, value = _RANDOM.get(cpu, 0x9E3779B97F4A7C15), 0
    for _ in range(2):
        at = (at * 6364136223846793005 + 1442695040888963407) & (1 << 64) - 1
        value = value << 32 | at >> 32
    _RANDOM[cpu] = at
    return value & (1 << bits) - 1


def _random(feature: str) -> Callable[[GuestCpu, Instruction], None]:
    def handler(cpu: GuestCpu, i: Instruction) -> None:
        if not cpu.model.has(feature):
            raise ud()
        bits = 8 * operand_size(i, 0)
        value = _repeatable(cpu, bits) if cpu.deterministic else int.from_bytes(os.urandom(bits // 8))
        write_register(cpu, i.op0_register, value)
        cpu.state.set_rflags(cpu.state.get_rflags() & ~STATUS | CF)

    return handler


handles(Mnemonic.RDRAND)(_random("rdrand"))
handles(Mnemonic.RDSEED)(_random("rdseed"))
