"""A pretend vCPU for tests of the stub on a real `Machine`: seven x86-64 instructions, flat memory, the debugger's breakpoints."""

import threading
from collections.abc import Sequence

from engine import Unkept
from trapgate.arch.debugregs import DR6_BS
from trapgate.arch.msrs import MsrError
from trapgate.arch.registers import TABLE
from trapgate.engine import Surroundings
from trapgate.exits import BusLock, DebugException, Exit, Halted, Interrupted, PortWrite, Shutdown, SoftwareBreakpoint
from trapgate.vcpu import Alone, Breakpoint, CpuStart, GuestDebug, Kind, Uncounted, Unobserved

UNMAPPED = 0x10000


class PretendVcpu(Alone, Uncounted, Unkept, Unobserved):
    """Executes nop; inc rax; mov [rdi],al; mov cl,[rdi]; jmp; hlt; out imm8,al; int1; xlat as a bus lock. All else: shutdown."""

    def __init__(self, around: Surroundings) -> None:
        self.ram, self.model = around.ram, around.model
        self.regs = {register.name: 0 for register in TABLE if register.name != "xcr0"}
        self.regs.update(rip=0x1000, rdi=0x2000, rflags=0x202, cs=8, cs_attributes=0x209B, cr0=0x80000011, efer=0x500)
        self.kicked = threading.Event()
        self.breakpoints: list[Breakpoint] = []
        self.software: list[int] = []
        self.arms = 0
        self.stepping = self.over = False
        self.delivered: list[tuple[int, int, bool]] = []

    def run(self) -> Exit:
        for _ in range(1000):
            if self.kicked.is_set():
                self.kicked.clear()
                break
            event = self._one()
            if event is not None:
                return event
        return Interrupted()

    def _one(self) -> Exit | None:
        rip = self.regs["rip"]
        over, self.over = self.over, False
        if not over and rip in self.software:
            return SoftwareBreakpoint(rip)
        hits = 0 if over else self._hits({Kind.EXEC}, rip)
        if hits:
            return DebugException(0, hits, False, True)
        code = self.ram.read(rip, 3)
        touched: set[Kind] = set()
        event: Exit | None = None
        length = 1
        if code[0] == 0x90:
            pass
        elif code == b"\x48\xff\xc0":
            length, self.regs["rax"] = 3, self.regs["rax"] + 1
        elif code[:2] == b"\x88\x07":
            length, touched = 2, {Kind.WRITE, Kind.ACCESS}
            self.ram.write(self.regs["rdi"], bytes((self.regs["rax"] & 0xFF,)))
        elif code[:2] == b"\x8a\x0f":
            length, touched = 2, {Kind.READ, Kind.ACCESS}
            self.regs["rcx"] = self.ram.read(self.regs["rdi"], 1)[0]
        elif code[0] == 0xEB:
            length = 2 + int.from_bytes(code[1:2], "little", signed=True)
        elif code[0] == 0xE6:
            length, event = 2, PortWrite(code[1], 1, self.regs["rax"] & 0xFF)
        elif code[0] == 0xF4:
            event = Halted()
        elif code[0] == 0xF1:
            event = DebugException(0, 0, True, False)
        elif code[0] == 0xD7:
            event = BusLock(rip, 0x203E, 4, 3)
        else:
            return Shutdown("#UD in #UD in #UD")
        self.regs["rip"] = rip + length
        if event is not None:
            return event
        hits = self._hits(touched, self.regs["rdi"])
        if hits or self.stepping:
            return DebugException(DR6_BS if self.stepping else 0, hits, False, False)
        return None

    def _hits(self, kinds: set[Kind], address: int) -> int:
        return sum(
            1 << n for n, b in enumerate(self.breakpoints) if b.kind in kinds and b.address <= address < b.address + b.length
        )

    def kick(self) -> None:
        self.kicked.set()

    def close(self) -> None:
        pass

    def complete(self, value: int) -> None:
        raise AssertionError("nothing reads")

    def can_interrupt(self) -> bool:
        return True

    def interrupt(self, vector: int) -> None:
        raise AssertionError("nothing interrupts")

    def want_interrupt(self, waiting: bool) -> None:
        pass

    waits = False

    def wait(self) -> bool:
        return False

    def nmi(self) -> None:
        pass

    def catch(self, vectors: frozenset[int]) -> None:
        assert not vectors

    def start(self, first: CpuStart) -> None:
        self.regs.update(first.registers())

    def get(self, register: str) -> int:
        return self.regs[register]

    def set(self, register: str, value: int) -> None:
        if register == "cr0" and not value & 1:
            raise ValueError("PG without PE")
        if register not in self.regs:
            raise KeyError(register)
        self.regs[register] = value

    def read_msr(self, index: int) -> int:
        if index != 0x1D9:
            raise MsrError(f"no MSR {index:x}", missing=True)
        return 4

    def write_msr(self, index: int, value: int) -> None:
        self.read_msr(index)
        raise MsrError("reserved bits")

    def read_virtual(self, address: int, length: int) -> bytes:
        return self.ram.read(address, max(0, min(length, UNMAPPED - address))) if address < UNMAPPED else b""

    def write_virtual(self, address: int, data: bytes) -> bool:
        if address + len(data) > UNMAPPED:
            return False
        self.ram.write(address, data)
        return True

    def translate(self, address: int) -> int | None:
        return address if address < UNMAPPED else None

    def arm(self, breakpoints: Sequence[Breakpoint], software: Sequence[int]) -> None:
        self.arms += 1
        self.breakpoints, self.software = list(breakpoints), list(software)

    def armed(self) -> Sequence[Breakpoint]:
        return self.breakpoints

    def step(self, on: bool) -> None:
        self.stepping = on

    def resume_over(self) -> None:
        self.over = True

    def guest_debug(self) -> GuestDebug:
        return GuestDebug(tf=False, gd=False, task_trap=False, bus_lock=False)

    def deliver_debug(self, causes: int, hits: int, icebp: bool) -> None:
        self.delivered.append((causes, hits, icebp))
