"""The same of a machine whose parts are all at work, and of machines with several CPUs: a thousand moments, at random."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from cases import kit
from silicon.assemble import assemble
from system.test_at_rest import MANY, Make, check
from trapgate.arch import layout
from trapgate.boot.code import plan
from trapgate.build import load_guest, make_machine, put_guest
from trapgate.devices.parts import Maker, NoState
from trapgate.devices.virtio.blk import virtio_blk
from trapgate.devices.virtio.rng import virtio_rng
from trapgate.devices.virtio.transport import Register
from trapgate.disk import Disk
from trapgate.machine import ClockKind, Machine, MachineConfig, MachineState
from trapgate.state import State

RAM = 4 << 20
CODE = 0x1000
IN, OUT, OUT_16, OUT_32, LOAD, STORE = range(6)
ACTS, ROUNDS = 256, 1200
RNG, BLK = layout.VIRTIO_BASE, layout.VIRTIO_BASE + 0x1000
QUEUE = {RNG: 0x20000, BLK: 0x24000}  # table, available and used ring, a page each; then what requests name
NEXT, WRITE = 1, 2
PORTS = (
    *((0x20, 2), (0x40, 4), (0x61, 1), (0x70, 2), (0xA0, 2), (0x3F8, 8), (0x4D0, 2), (0x510, 2), (0x600, 4), (0x608, 4), (0xE0, 4)),
    *((0xE8, 1), (0xE9, 1), (0x2000, 24)),
)
KEYBOARD = (0x64, 0x20), (0x64, 0xAA), (0x64, 0x60), (0x60, 0x65), (0x64, 0xAD)  # what is written to its controller: no reset
SYSTEM = (0x92, 0), (0x92, 0), (0x92, 2)  # likewise
PCI_ADDRESS, PCI_DATA = 0xCF8, 0xCFC
LIKELY = (0, 1, 2, 0x11, 0x20, 0x30, 0x34, 0xB6, 0xFF, 0x80, 0xC2, 0xD0, 0xD2, 0x72)
TIMERS = (0x320, 0x350, 0x360, 0x370, 0x380, 0x3E0, 0x80, 0xF0, 0x310)  # registers of the local APIC that send nothing
SMP = ("ipi", "lock", "code")
STARTED = 17_000  # instructions: all CPUs of these run


def acts(chance: random.Random) -> Iterator[tuple[int, int, int]]:
    """What the guest may do next, each (what, where, value)."""
    for _ in range(ACTS):
        value, pin = chance.choice((*LIKELY, chance.randrange(256))), layout.IOAPIC_BASE + chance.choice((0, 0x10))
        first, length = chance.choice(PORTS)
        port = first + chance.randrange(length)
        match chance.randrange(9):
            case 0 | 1:
                yield IN, chance.choice((*[port] * 4, 0x60, 0x64, 0xB0, PCI_DATA)), 0
            case 2 | 3 | 4:
                yield OUT, port, value
            case 5:
                yield OUT, *chance.choice(KEYBOARD + SYSTEM)
            case 6:
                yield STORE, layout.LAPIC_BASE + chance.choice(TIMERS), chance.choice((value, value << 8, 0x20030, 0x1FF))
            case 7:
                pci, firmware = (OUT_32, PCI_ADDRESS, 0x8000_0000 | value << 8), (OUT_16, layout.FW_CFG_PORT, value & 31)
                yield chance.choice((pci, firmware, (STORE, pin, value & 0x3F), (STORE, layout.TEST_MEMORY_BASE, value)))
            case _:
                yield LOAD, chance.choice((pin, layout.LAPIC_BASE + 0x390, RNG + Register.STATUS)), 0


def driver(base: int, requests: list[tuple[int, int, int]]) -> str:
    """A virtio device is taken, with the descriptors (address, length, flags) of one request."""
    at = QUEUE[base]
    registers = (
        *((Register.STATUS, 0), (Register.STATUS, 3), (Register.DRIVER_FEATURES_SELECT, 1), (Register.DRIVER_FEATURES, 1)),
        *((Register.STATUS, 0xB), (Register.QUEUE_SELECT, 0), (Register.QUEUE_SIZE, 8)),
        *((Register.DESCRIPTORS_LOW, at), (Register.DRIVER_LOW, at + 0x1000), (Register.DEVICE_LOW, at + 0x2000)),
        *((Register.QUEUE_READY, 1), (Register.STATUS, 0xF)),
    )
    lines = [f"mov esi, {base:#x}", *(f"mov dword ptr [rsi + {int(where)}], {value}" for where, value in registers)]
    for number, (address, length, flags) in enumerate(requests):
        words = (address, 0, length, flags | number + 1 << 16)
        lines += [f"mov dword ptr [{at + 16 * number + 4 * n:#x}], {word:#x}" for n, word in enumerate(words)]
    return "\n".join(lines)


def text(seed: int) -> str:
    chance = random.Random(seed)
    rng, blk = QUEUE[RNG] + 0x3000, QUEUE[BLK] + 0x3000
    table = "\n".join(f".long {what}, {where:#x}, {value:#x}, 0" for what, where, value in acts(chance))
    return f"""
    {driver(RNG, [(rng, 64, WRITE)])}
    {driver(BLK, [(blk, 16, NEXT), (blk + 0x100, 512, NEXT | WRITE), (blk + 0x80, 1, WRITE)])}
    lea rbx, [rip + 9f]
    mov r8, {chance.getrandbits(63) | 1}
    mov r9d, {ROUNDS}
1:  mov rax, r8
    shl rax, 13
    xor r8, rax
    mov rax, r8
    shr rax, 7
    xor r8, rax
    mov rax, r8
    shl rax, 17
    xor r8, rax
    movzx ecx, r8b
    shl ecx, 4
    mov edi, [rbx + rcx]
    mov edx, [rbx + rcx + 4]
    mov eax, [rbx + rcx + 8]
    cmp edi, {LOAD}
    je 4f
    ja 5f
    cmp edi, {OUT}
    je 3f
    ja 2f
    in al, dx
    jmp 6f
2:  cmp edi, {OUT_32}
    je 2f
    out dx, ax
    jmp 7f
2:  out dx, eax
    jmp 7f
3:  out dx, al
    jmp 7f
4:  mov eax, [rdx]
    jmp 6f
5:  mov [rdx], eax
    jmp 7f
6:  add [0x30000], rax
    rol qword ptr [0x30000], 5
7:  test r9d, 15
    jnz 8f
    mov esi, {RNG:#x}
    inc word ptr [{QUEUE[RNG] + 0x1002:#x}]
    mov dword ptr [rsi + {int(Register.QUEUE_NOTIFY)}], 0
    mov dword ptr [rsi + {int(Register.INTERRUPT_ACKNOWLEDGE)}], 1
    mov esi, {BLK:#x}
    inc dword ptr [{blk + 8:#x}]
    and dword ptr [{blk + 8:#x}], 7
    inc word ptr [{QUEUE[BLK] + 0x1002:#x}]
    mov dword ptr [rsi + {int(Register.QUEUE_NOTIFY)}], 0
8:  dec r9d
    jnz 1b
    mov al, 0
    out {layout.EXIT_PORT:#x}, al
    hlt
9:  {table}
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    file = tmp_path / "disk"
    file.write_bytes(random.Random(1).randbytes(4096))
    opened = Disk(str(file), snapshot=True)
    yield opened
    opened.close()


def every_part(seed: int, disk: Disk) -> Make:
    """Each part of a machine at work, by what a guest asks of it at random."""
    code = assemble(text(seed))

    def make(written: list[bytes]) -> Machine:
        devices: tuple[Maker, ...] = (virtio_rng(b"seed"), virtio_blk(disk))
        config = MachineConfig(
            memory=RAM, clock=ClockKind.INSTRUCTIONS, debugcon=written.append, serial=written.append, devices=devices
        )
        machine = make_machine(config, "soft")
        put_guest(machine, plan(code, CODE, 64, machine.ram.low_end))
        return machine

    return make


def several(case: str, folder: Path) -> Make:
    """Three CPUs at work on each other."""
    image = kit.program("smp", folder, f'-DCASE="{case}"', "-DCPUS=3", "-DROUNDS=60")

    def make(written: list[bytes]) -> Machine:
        machine = make_machine(MachineConfig(memory=16 << 20, cpus=3, clock=ClockKind.INSTRUCTIONS, serial=written.append), "soft")
        load_guest(machine, image)
        return machine

    return make


def idle(make: Make, met: list[MachineState]) -> set[str]:
    """The parts that at each of these moments were as when the machine was switched on."""
    machine = make([])
    first = dict(states(machine.save()))
    machine.close()
    return {name for name, state in first.items() if all(dict(states(one))[name] == state for one in met)}


def states(one: MachineState) -> Iterator[tuple[str, State]]:
    interrupts = one.board.interrupts
    yield from ((name, getattr(interrupts, name)) for name in interrupts.__slots__ if isinstance(getattr(interrupts, name), State))
    yield from ((f"{part.kind} {n}", part.state) for n, part in enumerate(one.board.parts) if not isinstance(part.state, NoState))
    yield from ((f"CPU {number}", state) for number, state in enumerate(one.cpus))


def test_every_part(disk: Disk) -> None:
    make = every_part(0, disk)
    assert not idle(make, check(make, 6))


@pytest.mark.skipif(bool(kit.LACKING), reason=kit.LACKING)
def test_several_cpus(tmp_path: Path) -> None:
    make = several("ipi", tmp_path)
    assert not [name for name in idle(make, check(make, 3, first=STARTED)) if name.startswith("CPU")]


@pytest.mark.long
@pytest.mark.parametrize("seed", range(50))
def test_every_part_at_a_thousand_moments(seed: int, disk: Disk) -> None:
    check(every_part(seed, disk), 20, seed)


@pytest.mark.long
@pytest.mark.skipif(bool(kit.LACKING), reason=kit.LACKING)
@pytest.mark.parametrize("case", SMP)
@pytest.mark.parametrize("seed", range(17))
def test_several_cpus_at_a_thousand_moments(case: str, seed: int, tmp_path: Path) -> None:
    check(several(case, tmp_path), MANY, seed, first=STARTED)
