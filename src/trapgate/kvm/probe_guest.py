"""Makes a guest of a few instructions in 64-bit mode, to try what a host's KVM can do."""

import threading

from trapgate.arch.models import DEFAULT_MODEL, CpuModel
from trapgate.kvm import abi, convert
from trapgate.kvm.arming import NO_ADDRESSES, Addresses
from trapgate.kvm.core import PLAIN, Core, Setup
from trapgate.memory import Ram
from trapgate.values import dataclass

PML4, PDPT, PD, GDT, IDT, HANDLER, OTHERS, CODE, DATA, STACK, USER_STACK = (0x1000 * n for n in range(1, 12))
KERNEL_CODE, KERNEL_DATA, USER_CODE, USER_DATA = 0x08, 0x10, 0x1B, 0x23
DESCRIPTORS = (0, 0xAF9B000000FFFF, 0xCF93000000FFFF, 0xAFFB000000FFFF, 0xCFF3000000FFFF)
IOPL = 3 << 12
SECONDS = 2.0  # for one probe
READS_DR6 = bytes.fromhex("0f21f0 e7e9 f4")  # MOV RAX, DR6; OUT E9h, EAX; HLT
HALT = b"\xf4"
NOP = b"\x90"
EXITS = {
    abi.EXIT_HLT: "HLT", abi.EXIT_SHUTDOWN: "a triple fault", abi.EXIT_INTERNAL_ERROR: "no emulation of an instruction",
    abi.EXIT_DEBUG: "#DB", abi.EXIT_BUS_LOCK: "a bus-lock exit",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ability:
    """One thing that a debugger needs, whether it holds here, and what was seen."""

    name: str
    holds: bool
    seen: str


class Probe:
    """A fresh guest with its code at `CODE`; #DB reads DR6 and sends it to port E9h, all other exceptions and interrupts halt.

    `control`, `addresses` and `dr7` are for KVM_SET_GUEST_DEBUG. A `user` guest runs at CPL 3, with IOPL 3. `others` is what the
    other handlers do instead of HLT, which waits in the kernel where interrupt controllers are.
    """

    def __init__(
        self, code: bytes, control: int = 0, addresses: Addresses = NO_ADDRESSES, dr7: int = 0, *,
        setup: Setup = PLAIN, user: bool = False, rflags: int = 2, cpu: str = DEFAULT_MODEL, others: bytes = HALT,
    ) -> None:  # fmt: skip
        ram = Ram(64 << 10)
        self.core = Core(ram, CpuModel.parse(cpu), None, setup)
        for table, entry in ((PML4, PDPT | 7), (PDPT, PD | 7), (PD, 0x87)):
            ram.write_int(table, 8, entry)
        ram.write(GDT, b"".join(one.to_bytes(8, "little") for one in DESCRIPTORS))
        for vector in range(64):
            at = HANDLER if vector == convert.DB else OTHERS
            ram.write(IDT + 16 * vector, (at | KERNEL_CODE << 16 | 0xEE00 << 32).to_bytes(16, "little"))
        for at, data in ((HANDLER, READS_DR6), (OTHERS, others), (CODE, code + HALT)):
            ram.write(at, data)
        registers = self.core.registers
        with registers.together():
            for name, value in (("cr3", PML4), ("cr4", 0x620), ("efer", 0xD00), ("cr0", 0x80000011)):
                registers.set(name, value)
            registers.put_segment("cs", USER_CODE if user else KERNEL_CODE, 0, 0xFFFFFFFF, 0xA0FB if user else 0xA09B)
            for name in ("ss", "ds", "es"):
                registers.put_segment(name, USER_DATA if user else KERNEL_DATA, 0, 0xFFFFFFFF, 0xC0F3 if user else 0xC093)
            for name, value in (
                ("gdt_base", GDT),
                ("gdt_limit", 8 * len(DESCRIPTORS) - 1),
                ("idt_base", IDT),
                ("idt_limit", 0x3FF),
            ):
                registers.set(name, value)
        general = registers.general
        general.rip, general.rsp, general.rflags, general.rdi = CODE, STACK, rflags | (IOPL if user else 0), DATA
        registers.store_general()
        if control:
            self.core.fd.set_guest_debug(abi.DEBUG_ENABLE | control, addresses, dr7)

    def run(self) -> str:
        """Enter the guest once; what came of it."""
        watchdog = threading.Timer(SECONDS, self.core.kick)
        watchdog.start()
        try:
            happened = self.core.enter()
        finally:
            watchdog.cancel()
            watchdog.join()
        self.core.leave_thread()
        self.core.take_kick()
        if not happened:
            return f"nothing in {SECONDS:.0f} s"
        reason = self.core.shared.exit_reason
        return EXITS.get(reason, f"exit {reason}")

    def complete(self) -> None:
        """Finish the instruction that the guest was left in, and no more."""
        self.core.enter(immediate=True)
        self.core.leave_thread()

    @property
    def rip(self) -> int:
        """RIP, counted from the guest's first instruction."""
        return self.core.registers.rip - CODE

    @property
    def debug(self) -> abi.ExitDebug | None:
        """The last exit, if it was KVM_EXIT_DEBUG."""
        return self.core.shared.exit.debug if self.core.shared.exit_reason == abi.EXIT_DEBUG else None

    @property
    def told(self) -> int | None:
        """What the guest's #DB handler read from DR6, or what else it sent to port E9h, if that was the last exit."""
        io = self.core.shared.exit.io
        if self.core.shared.exit_reason != abi.EXIT_IO or io.port != 0xE9:
            return None
        return int.from_bytes(self.core.fd.io_bytes(io.data_offset, 4), "little")
