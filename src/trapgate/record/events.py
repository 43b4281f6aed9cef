"""What reaches a guest from outside, each with the moment at which it does; and marks, by which a replay is checked."""

import zlib
from typing import Annotated

from trapgate.clock import Moment
from trapgate.machine import Machine
from trapgate.state import U8, U32, U64, Bits, State
from trapgate.values import dataclass

_COMPARED = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "rip", "rflags", "cr3", *(f"r{n}" for n in range(8, 16)))


@dataclass(frozen=True, slots=True)
class Event(State):
    """Something that happened to the guest when `executed` instructions were, at `now` of guest time."""

    executed: U64
    now: Moment

    @property
    def moment(self) -> tuple[int, int]:
        """When it happened."""
        return self.executed, self.now


@dataclass(frozen=True, slots=True)
class Input(Event):
    """Bytes arrived at the serial port."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Register(Event):
    """A debugger wrote a register of a vCPU, by its name in `arch.registers`."""

    vcpu: U8
    name: str
    value: Annotated[int, Bits(512)]


@dataclass(frozen=True, slots=True)
class ModelRegister(Event):
    """A debugger wrote an MSR of a vCPU."""

    vcpu: U8
    index: U32
    value: U64


@dataclass(frozen=True, slots=True)
class Memory(Event):
    """A debugger wrote guest RAM, at a guest-physical address."""

    address: U64
    data: bytes


@dataclass(frozen=True, slots=True)
class Held(Event):
    """A debugger's step held interrupts back, or vCPUs stood still, from here until so many instructions were executed.

    `only` are the numbers of those that ran, none for all.
    """

    until: U64
    step: bool
    only: tuple[U8, ...]


@dataclass(frozen=True, slots=True)
class Mark(Event):
    """The guest's CPUs have forgotten their pages, for a moment that was kept. `digest`: what they are then."""

    digest: U32


@dataclass(frozen=True, slots=True)
class Branch(Event):
    """A debugger went back to here and changed something: whatever was recorded of later moments has not happened."""


KINDS: tuple[type[Event], ...] = (Input, Register, ModelRegister, Memory, Held, Mark, Branch)


def digest(machine: Machine) -> int:
    """What tells its CPUs from those that went another way."""
    return zlib.crc32(repr([one.vcpu.get(name) for one in machine.processors for name in _COMPARED]).encode())


def apply(event: Event, machine: Machine) -> None:
    """Do to a machine what was done to the one recorded: an input or a debugger's write."""
    match event:
        case Register():
            machine.processors[event.vcpu].vcpu.set(event.name, event.value)
        case ModelRegister():
            machine.processors[event.vcpu].vcpu.write_msr(event.index, event.value)
        case Memory():
            machine.ram.write(event.address, event.data)
