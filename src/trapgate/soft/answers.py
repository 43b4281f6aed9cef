"""Answers amid a run, without returning to the run loop, to ordinary IN, OUT, loads and stores of devices, CPUID and its like.

A port access is the end of its block, so whatever its answer brings about (`request`) is seen before the next instruction. A load
or store lies amid its block. So that is seen right behind it, too, each place has a second way on: the same place in the
*step* of that instruction, which ends behind it. That place is learnt the first time, when the access runs as a step
(`soft.accesses`). Only instructions whose one memory access it is are treated so: no fault and no second device can follow.
"""

from iced_x86 import Decoder, Mnemonic

from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.memory import HOLE_END
from trapgate.soft.exact.portio import accumulate
from trapgate.soft.running import RunningCpu
from trapgate.soft.state.instructions import HANDLERS

ONE_ACCESS = frozenset((Mnemonic.MOV, Mnemonic.MOVZX, Mnemonic.MOVSX, Mnemonic.MOVSXD, Mnemonic.TEST, Mnemonic.CMP))

# What Python executes and what changes nothing but registers: no mode, no mapping, nothing that waits for the next boundary.
ONLY_REGISTERS = frozenset((Mnemonic.RDTSC, Mnemonic.RDTSCP, Mnemonic.CPUID, Mnemonic.XGETBV, Mnemonic.RDMSR))


def instruction(cpu: RunningCpu) -> int:
    """Execute what EXIT_INSTRUCTION asks for, if it only changes registers; else 0, and nothing is done. GuestFault."""
    st = cpu.state
    if cpu.single is not None:
        return 0
    i = cpu.translator.instructions[st.exit_detail]
    if i.mnemonic not in ONLY_REGISTERS or cpu.teller is not None:
        return 0
    HANDLERS[i.mnemonic](cpu, i)
    st.rip = st.next_rip
    return cpu.dispatch_code


def port(cpu: RunningCpu) -> int:
    """Answer EXIT_PORT: where native code goes on, or 0 when the machine must see the access."""
    devices = cpu.devices
    if devices is None or cpu.single is not None or cpu.watches:
        return 0
    st = cpu.state
    what = st.exit_detail
    size = what >> 16 & 0xFF
    if what & s.PORT_OUT:
        devices.port_write(what & 0xFFFF, size, st.rax & (1 << 8 * size) - 1)
    else:
        accumulate(cpu, size, devices.port_read(what & 0xFFFF, size))
    return cpu.dispatch_code


def access(cpu: RunningCpu) -> int:
    """Answer EXIT_ACCESS: where native code goes on, or 0 when `accesses.perform` must do it."""
    devices, st = cpu.devices, cpu.state
    as_step = cpu.device_sites.get(st.saved_RESUME)
    if as_step is None or devices is None or cpu.single is not None or cpu.watches:
        return 0
    address, size, physical = st.saved_EA, st.access_size, st.walk_physical
    if (address & 0xFFF) + size > 4096 or not cpu.ram.low_end <= physical < HOLE_END:  # two pages, or RAM
        return 0
    if st.access_kind == s.KIND_LOAD:
        st.saved_T0 = devices.memory_read(physical, size)
    else:
        devices.memory_write(physical, size, st.saved_T0 & (1 << 8 * size) - 1)
    if st.request & 1:  # not for a sample of the profile
        cpu.become_step(as_step)
    return cpu.resume_code


def learn(cpu: RunningCpu, kind: int, code: bytes) -> None:
    """A step has come to the device access at which its instruction, met in a block, was started again."""
    site, cpu.device_site = cpu.device_site, 0
    if site and kind in (s.KIND_LOAD, s.KIND_STORE):
        i = Decoder(modes.code_bits(cpu.state.mode), code).decode()
        if i.mnemonic in ONE_ACCESS:
            cpu.device_sites[site] = cpu.state.saved_RESUME
