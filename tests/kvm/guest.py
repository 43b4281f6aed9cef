"""A guest for both engines: 64-bit code at CPL 0 whose exceptions are logged, without IRET, which nested hosts may not emulate.

Every exception leaves a record of eight quadwords: vector, error code, pushed RIP, CS, RFLAGS and RSP, DR6, DR7. Then the guest
goes on where it was, without breakpoints. The case ends with OUT to port F4h.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import pytest
from iced_x86 import Decoder

from silicon.assemble import assemble
from trapgate.arch.models import DEFAULT_MODEL
from trapgate.build import Hearing, make_machine
from trapgate.build.kvm import KvmEngine
from trapgate.kvm import cpu as kvm
from trapgate.machine import Machine, MachineConfig
from trapgate.stops import MachineExit, Stop
from trapgate.vcpu import CpuStart, SegmentStart

PML4, PDPT, PD, GDT, IDT, LOG, DATA, STACK, HANDLERS, CASE = (0x1000 * n for n in (1, 2, 3, 4, 5, 6, 8, 0xC, 0x10, 0x20))
DR6 = 0xFFFF0FF0
VECTORS = (*range(32), 0x30, *range(0x40, 0x51))
SLOWER = 5 if Path("/nested").is_dir() else 1  # an emulated host, that of `make test-kvm`, is by this at least
KVM = [pytest.mark.kvm, pytest.mark.timeout(120 * SLOWER, method="signal")]  # a signal ends KVM_RUN, and so a guest gone astray
CHIPS = "kvm, its own interrupt controllers"
ENGINES = ("kvm", CHIPS, "soft")
KICKS = 0.0001  # s between them
END = "mov dx, 0xF4\nmov al, 0\nout dx, al\nhlt"
_WITH_ERROR = (8, 10, 11, 12, 13, 14, 17)

_HANDLERS = f"""
common:
    push rax
    push rbx
    mov rbx, [{LOG}]
    mov rax, [rsp+16]
    mov [rbx], rax
    mov rax, [rsp+24]
    mov [rbx+8], rax
    mov rax, [rsp+32]
    mov [rbx+16], rax
    mov rax, [rsp+40]
    mov [rbx+24], rax
    mov rax, [rsp+48]
    mov [rbx+32], rax
    mov rax, [rsp+56]
    mov [rbx+40], rax
    mov rax, dr6
    mov [rbx+48], rax
    mov rax, dr7
    mov [rbx+56], rax
    mov eax, 0x400
    mov dr7, rax
    add qword ptr [{LOG}], 64
    mov eax, 0xFFFF0FF0
    mov dr6, rax
    mov rax, [rsp+32]
    mov [{LOG + 8}], rax
    pop rbx
    pop rax
    mov rsp, [rsp+40]
    jmp qword ptr [{LOG + 8}]
    .org 0x200
"""


def _stub(vector: int) -> str:
    push = "nop\nnop" if vector in _WITH_ERROR else "push 0"
    return f".org {0x200 + 16 * vector}\n{push}\npush {vector}\njmp common"


@cache
def handlers() -> bytes:
    return assemble(_HANDLERS + "\n".join(_stub(vector) for vector in VECTORS))


@cache
def machine_code(text: str) -> bytes:
    return assemble(f"{text}\n{END}")


@dataclass(frozen=True)
class Log:
    """One exception as the guest's handler found it."""

    vector: int
    error: int
    rip: int
    cs: int
    rflags: int
    rsp: int
    dr6: int
    dr7: int


FLAT = SegmentStart(16, 0, 0xFFFFFFFF, 0xC093)
START = CpuStart(
    "long64", CASE, 0x80000011,
    {"cs": SegmentStart(8, 0, 0xFFFFFFFF, 0xA09B), **dict.fromkeys(("ss", "ds", "es", "fs", "gs"), FLAT)},
    {"rsp": STACK, "rdi": DATA}, PML4, 0x628, 0xD00, 2, GDT, 0x17, IDT, 0x50F,
)  # fmt: skip


def empty(engine: str, config: MachineConfig) -> Machine:
    """A machine that nothing is loaded into; the interrupt controllers of "kvm" are ours."""
    if engine == "soft":
        return opened(make_machine(config))
    return opened(Machine(config, KvmEngine(Hearing(), chips=engine == CHIPS)))


_opened: list[Machine] = []


def opened(machine: Machine) -> Machine:
    """The machine, which is closed when the test ends: a VM holds three of the host's descriptors."""
    _opened.append(machine)
    return machine


def close_all() -> None:
    """Close the machines of the test that ends."""
    while _opened:
        _opened.pop().close()


class Loaded:
    """The guest, loaded and ready in a machine, on either engine; the interrupt controllers of "kvm" are ours."""

    def __init__(
        self, text: str, engine: str, serial: Callable[[bytes], None] = lambda data: None, cpu: str = DEFAULT_MODEL
    ) -> None:
        self.machine = empty(engine, MachineConfig(memory=2 << 20, cpu=cpu, serial=serial))
        if engine == CHIPS:
            chips = self.machine.vcpu.chips  # type: ignore[attr-defined]
            if chips is None:
                pytest.skip("this host's KVM has no interrupt controllers of its own, or cannot keep them out of a step")
        code = machine_code(text)
        self.starts = [one.ip for one in Decoder(64, code, ip=CASE)]
        ram = self.machine.ram
        ram.write_int(PML4, 8, PDPT | 7)
        ram.write_int(PDPT, 8, PD | 7)
        ram.write_int(PD, 8, 0x87)
        for n, descriptor in enumerate((0, 0xAF9B000000FFFF, 0xCF93000000FFFF)):
            ram.write_int(GDT + 8 * n, 8, descriptor)
        for vector in VECTORS:
            at = HANDLERS + 0x200 + 16 * vector
            ram.write(IDT + 16 * vector, (at & 0xFFFF | 8 << 16 | 0x8E00 << 32 | at >> 16 << 48).to_bytes(16, "little"))
        ram.write(HANDLERS, handlers())
        ram.write(CASE, code)
        ram.write_int(LOG, 8, LOG + 64)
        self.machine.vcpu.start(START)

    def run(self, step: bool = False, limit: int = 200) -> list[tuple[Stop, int]]:
        """Resume until the guest ends; every stop before that, with RIP."""
        stops: list[tuple[Stop, int]] = []
        while not isinstance(stop := self.machine.resume(step=step), MachineExit):
            stops.append((stop, self.machine.vcpu.get("rip")))
            assert len(stops) < limit, "the guest makes no progress"
        return stops

    @contextmanager
    def kicked(self) -> Iterator[None]:
        """Meanwhile another thread interrupts the vCPU again and again: nobody may tell from what the guest does."""
        done = threading.Event()

        def kick() -> None:
            while not done.wait(KICKS):
                self.machine.vcpu.kick()

        (thread := threading.Thread(target=kick)).start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    @property
    def log(self) -> list[Log]:
        """The exceptions that the guest's handlers saw."""
        ram = self.machine.ram
        records = range(LOG + 64, ram.read_int(LOG, 8), 64)
        return [Log(*(ram.read_int(at + 8 * n, 8) for n in range(8))) for at in records]


class Guest(Loaded):
    """The guest on KVM; whose interrupt controllers it has, tests choose for all theirs with `engine`."""

    engine: ClassVar[str] = "kvm"

    def __init__(self, text: str, serial: Callable[[bytes], None] = lambda data: None) -> None:
        super().__init__(text, self.engine, serial)
        assert isinstance(self.machine.vcpu, kvm.KvmVcpu)
        self.vcpu = self.machine.vcpu

    def bare(self) -> kvm.KvmVcpu:
        """The vCPU without devices: each access of the guest's ends its run."""
        self.vcpu.devices = None
        return self.vcpu
