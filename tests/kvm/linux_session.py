"""A debugger on Debian's kernel with a shell: it breaks, steps through every way into the kernel and out of it, and lets go.

What it steps through is found by the CPU's own tables, LSTAR and the IDT, so that the kernel needs no symbols.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from tools.guests.console import Console
from trapgate.arch.flags import IF, TF
from trapgate.arch.vectors import PF
from trapgate.gdb.client import Client
from trapgate.gdb.target import BreakKind, Stopped

IRET = b"\x48\xcf"  # IRETQ: three of them behind the entry of system calls
TEXT_LENGTH = 0x3000
LOCAL_TIMER = 0xEC  # its vector in Linux
FRAME_FLAGS = 16  # of an interrupt frame: RIP, CS, RFLAGS
SYSCALL = b"\x0f\x05"
PATIENCE = 120.0  # s for a stop
TRIES = 40  # page faults, and visits to an instruction that may raise one
HANDLER_STEPS = 20  # in each handler


class LinuxError(Exception):
    """The guest is not where it must be."""


@dataclass
class Session:
    """The client, the guest's console and its entries. Each method ends with nothing armed and the guest stopped."""

    client: Client
    console: Console
    syscall: int = 0
    gates: dict[int, int] = field(default_factory=dict)
    irets: list[int] = field(default_factory=list)

    @classmethod
    def begin(cls, client: Client, console: Console) -> Self:
        """Find the entries of a kernel that runs."""
        session = cls(client, console)
        session.syscall = int(client.monitor("msr lstar").split("=")[1], 16)
        base = client.register("idt_base")
        for vector in range(256):
            gate = client.read_memory(base + 16 * vector, 12)
            session.gates[vector] = int.from_bytes(gate[:2] + gate[6:12], "little")
        text = client.read_memory(session.syscall, TEXT_LENGTH)
        session.irets = [session.syscall + at for at in range(len(text)) if text.startswith(IRET, at)]
        return session

    # --- the guest

    @property
    def rip(self) -> int:
        """Where it stands."""
        return self.client.registers()["rip"]

    def in_user_space(self) -> bool:
        """Whether a program runs."""
        return self.client.register("cs") & 3 == 3

    def step(self) -> int:
        """One instruction; where it led."""
        self.stopped(lambda: self.client.go("s", PATIENCE))
        return self.rip

    def run_to(self, address: int, kind: BreakKind = BreakKind.HARDWARE) -> None:
        """Let it go to an address."""
        self.client.insert(kind, address)
        self.stopped(lambda: self.client.go("c", PATIENCE))
        self.client.remove(kind, address)
        if self.rip != address:
            raise LinuxError(f"stopped at {self.rip:#x} instead of {address:#x}")

    def run_to_one_of(self, *addresses: int) -> int:
        """Let it go until it comes by one of them; which."""
        for address in addresses:
            self.client.insert(BreakKind.HARDWARE, address)
        self.stopped(lambda: self.client.go("c", PATIENCE))
        for address in addresses:
            self.client.remove(BreakKind.HARDWARE, address)
        return self.rip

    def stopped(self, go: Callable[[], object]) -> None:
        """A stop, or LinuxError."""
        stop = go()
        if not isinstance(stop, Stopped):
            raise LinuxError(f"the guest has ended: {stop}")

    def word(self, address: int) -> int:
        """A quadword of its memory."""
        return int.from_bytes(self.client.read_memory(address, 8), "little")

    def frame(self, error_code: bool = False) -> tuple[int, int, int]:
        """(RIP, CS, RFLAGS) that an interrupt or exception has pushed."""
        stack = self.client.registers()["rsp"] + 8 * error_code
        return self.word(stack), self.word(stack + 8), self.word(stack + FRAME_FLAGS)

    # --- what is shown

    def system_call(self) -> list[str]:
        """Break on SYSCALL itself, step over it into the kernel, and on there; what is wrong."""
        self.console.send("true\n")
        self.run_to(self.syscall)
        behind = self.client.registers()["rcx"]
        self.run_to(behind - len(SYSCALL))
        wrong = [] if self.client.read_memory(behind - 2, 2) == SYSCALL else ["no SYSCALL is where a program came from"]
        if (led := self.step()) != self.syscall:
            wrong.append(f"the step over SYSCALL leads to {led:#x} instead of {self.syscall:#x}")
        registers = self.client.registers()
        if registers["rcx"] != behind or registers["r11"] & TF:
            wrong.append(f"SYSCALL left RCX {registers['rcx']:#x}, R11 {registers['r11']:#x}")
        for _ in range(HANDLER_STEPS):
            self.step()
        return wrong + [f"{name} stands in a pushed RFLAGS" for name in self._traces()]

    def _traces(self) -> list[str]:
        """TF in the flags of what runs."""
        return ["TF"] if self.client.registers()["rflags"] & TF else []

    def interrupt(self) -> list[str]:
        """Break on the timer's handler, step in it, break on its IRET, step over that; what is wrong."""
        self.console.send("sleep 1\n")
        self.run_to(self.gates[LOCAL_TIMER])
        _, _, flags = self.frame()
        wrong = [] if flags & IF and not flags & TF else [f"an interrupt came with RFLAGS {flags:#x}"]
        for _ in range(HANDLER_STEPS):
            self.step()
        return wrong + self.return_by_iret()

    def page_fault(self) -> list[str]:
        """Break on the handler of a program's page fault, step in it and out of it by IRET; then step into one; what is wrong."""
        self.console.send("ls >/dev/null\n")
        for _ in range(TRIES):
            self.run_to(self.gates[PF])
            at, selector, flags = self.frame(error_code=True)
            if selector & 3:
                break
        else:
            return [f"no program is in the first {TRIES} page faults"]
        wrong = [f"a page fault came with RFLAGS {flags:#x}"] if flags & TF else []
        for _ in range(HANDLER_STEPS):
            self.step()
        return wrong + self.return_by_iret() + self.step_into_page_fault(at)

    def step_into_page_fault(self, at: int) -> list[str]:
        """The same program once more, up to the instruction that faults, and a step; what is wrong."""
        self.console.send("ls >/dev/null\n" * 2)
        for _ in range(TRIES):
            self.run_to(at)
            if self.step() == self.gates[PF]:
                back, _, flags = self.frame(error_code=True)
                return [] if back == at and not flags & TF else [f"the fault at {at:#x} pushed {back:#x} and {flags:#x}"]
        return [f"no step from {at:#x} was a page fault"]

    def return_by_iret(self) -> list[str]:
        """Step over the next IRET; what is wrong."""
        self.run_to_one_of(*self.irets)
        back, selector, flags = self.frame()
        if (led := self.step()) not in (back, *self.gates.values()):
            return [f"IRET leads to {led:#x} instead of {back:#x}"]
        wrong = [] if led != back or self.client.register("cs") == selector else ["IRET left another CS"]
        if led == back and (self.client.registers()["rflags"] ^ flags) & TF:
            wrong.append("TF stands behind IRET")
        return wrong
