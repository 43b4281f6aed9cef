"""A parametric guest for the debug architecture: long mode, a handler that logs every exception, one case in ring 0 or ring 3.

What is armed comes from a block of parameters that the guest loads itself (MOV to DR0-DR7, WRMSR, IRET). Every exception leaves
a record of eight quadwords: vector, error code, pushed RIP, CS, RFLAGS and RSP, DR6, DR7. INT 30h ends the case.
"""

from dataclasses import dataclass, field
from functools import cache

from iced_x86 import Decoder

from silicon.assemble import assemble
from trapgate.build import make_machine
from trapgate.isa.state import UNUSABLE
from trapgate.machine import ClockKind, MachineConfig
from trapgate.soft import cpu as soft
from trapgate.soft.exact.segments import put_segment, refresh_rights
from trapgate.stops import ExitKind, MachineExit, Stop

PML4, PDPT, PD, PT, GDT, IDT, PARAMETERS, LOG, TSS = (0x1000 * n for n in range(1, 10))
STACK0, KERNEL_STACK, USER_STACK, KERNEL, CASE = 0xC000, 0xE000, 0xEF00, 0x10000, 0x20000
DATA, UNCACHED, EDGE = 0x30000, 0x41000, 0x4FFC0  # EDGE: the last line before a page that is not present
SYSCALL_ENTRY = KERNEL + 0xE00
K64, KDATA, U32, UDATA, U64, TASK = 0x08, 0x10, 0x18, 0x20, 0x28, 0x30
SPARE = 0x38  # 16 bytes of the GDT for a case's own descriptor
TF, IF, RF = 1 << 8, 1 << 9, 1 << 16
SET_RF, CLEAR_TF, KEEP_DR6, NO_DR = 1, 2, 4, 8  # what the handler does behind a #DB; NO_DR: it reads no debug register
DR6 = 0xFFFF0FF0
DEBUGCTL, TEST_CTRL = 0x1D9, 0x33

_KERNEL = f"""
    mov rbx, {PARAMETERS}
    mov rax, [rbx]
    mov dr0, rax
    mov rax, [rbx+8]
    mov dr1, rax
    mov rax, [rbx+16]
    mov dr2, rax
    mov rax, [rbx+24]
    mov dr3, rax
    mov ecx, {DEBUGCTL}
    mov eax, [rbx+40]
    xor edx, edx
    wrmsr
    mov eax, {DR6}
    mov dr6, rax
    push qword ptr [rbx+80]
    push qword ptr [rbx+72]
    push qword ptr [rbx+64]
    push qword ptr [rbx+56]
    push qword ptr [rbx+48]
    mov ecx, [rbx+104]
    mov edi, {DATA}
    mov esi, {UNCACHED}
    mov edx, 0x80
    mov rax, [rbx+32]
    mov dr7, rax
    mov eax, 0
    mov ebx, 0
    iretq
    .org 0x400
common:
    push rax
    push rbx
    push rcx
    mov rbx, [{LOG}]
    mov rax, [rsp+24]
    mov [rbx], rax
    mov rax, [rsp+32]
    mov [rbx+8], rax
    mov rax, [rsp+40]
    mov [rbx+16], rax
    mov rax, [rsp+48]
    mov [rbx+24], rax
    mov rax, [rsp+56]
    mov [rbx+32], rax
    mov rax, [rsp+64]
    mov [rbx+40], rax
    test byte ptr [{PARAMETERS + 88}], {NO_DR}
    jnz 1f
    mov rax, dr6
    mov [rbx+48], rax
    mov rax, dr7
    mov [rbx+56], rax
1:  add qword ptr [{LOG}], 64
    cmp qword ptr [rsp+24], 0x30
    je 9f
    cmp qword ptr [{LOG}], {LOG + 0xF00}
    jae 9f
    cmp qword ptr [rsp+24], 3
    je 8f
    cmp qword ptr [rsp+24], 1
    je 2f
    mov rax, [{PARAMETERS + 96}]
    mov [rsp+40], rax
    jmp 8f
2:  test byte ptr [{PARAMETERS + 88}], {KEEP_DR6}
    jnz 3f
    mov eax, {DR6}
    mov dr6, rax
3:  test byte ptr [{PARAMETERS + 88}], {SET_RF}
    jz 4f
    or dword ptr [rsp+56], {RF}
4:  test byte ptr [{PARAMETERS + 88}], {CLEAR_TF}
    jz 8f
    and dword ptr [rsp+56], {0xFFFFFEFF}
8:  pop rcx
    pop rbx
    pop rax
    add rsp, 16
    iretq
9:  mov dx, 0xF4
    mov al, 0
    out dx, al
    hlt
    .org 0x600
    {{stubs}}
    .org 0xE00
    sysretq
"""
_WITH_ERROR = (8, 10, 11, 12, 13, 14, 17)


def handler(vector: int) -> int:
    """The first instruction of a vector's handler."""
    return KERNEL + 0x600 + 16 * vector


def _stub(vector: int) -> str:
    push = "nop\nnop" if vector in _WITH_ERROR else "push 0"
    return f".org {0x600 + 16 * vector}\n{push}\npush {vector}\njmp common"


@cache
def _kernel() -> bytes:
    return assemble(_KERNEL.replace("{stubs}", "\n".join(_stub(v) for v in (*range(32), 0x30))))


@cache
def machine_code(text: str) -> bytes:
    """A case's instructions, with the end behind them."""
    return assemble(text + "\nint 0x30")


def starts(code: bytes) -> list[int]:
    """Where each instruction of a case begins."""
    return [one.ip for one in Decoder(64, code, ip=CASE)]


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


@dataclass(frozen=True)
class Armed:
    """What the guest arms for itself."""

    dr: tuple[int, ...] = ()
    dr7: int = 0
    debugctl: int = 0
    tf: bool = False
    ring: int = 3
    flags: int = CLEAR_TF
    rcx: int = 3
    de: bool = True
    test_ctrl: int = 0
    fixed: dict[int, bytes] = field(default_factory=dict, hash=False)  # memory before the start
    rflags: int = 0
    msrs: dict[int, int] = field(default_factory=dict, hash=False)  # as something before it left them


class Guest:
    """The guest, loaded and ready. `resume_at`: the instruction that faults lead to (the last one unless told)."""

    def __init__(self, text: str, armed: Armed, cpu: str = "EPYC-Turin", resume_at: int = -1) -> None:
        config = MachineConfig(memory=2 << 20, cpu=cpu, clock=ClockKind.INSTRUCTIONS)
        self.machine = make_machine(config)
        vcpu = self.machine.vcpu
        assert isinstance(vcpu, soft.SoftVcpu)
        self.vcpu, self.code = vcpu, machine_code(text)
        self.starts = starts(self.code)
        self._tables()
        ram = self.machine.ram
        ram.write(KERNEL, _kernel())
        ram.write(CASE, self.code)
        user = armed.ring == 3
        values = (
            *(*armed.dr, 0, 0, 0, 0)[:4], armed.dr7 | 0x400, armed.debugctl, CASE, U64 | 3 if user else K64,
            2 | (3 << 12 if user else 0) | (TF if armed.tf else 0) | armed.rflags, USER_STACK if user else KERNEL_STACK - 0x400,
            UDATA | 3 if user else KDATA, armed.flags, self.starts[resume_at], armed.rcx,
        )  # fmt: skip
        ram.write(PARAMETERS, b"".join(value.to_bytes(8, "little") for value in values))
        ram.write_int(LOG, 8, LOG + 64)
        ram.write_int(DATA + 128, 2, UDATA | 3 if user else KDATA)
        for at, data in armed.fixed.items():
            ram.write(at, data)
        self._start(armed)

    def _tables(self) -> None:
        ram = self.machine.ram
        for table, entry in ((PML4, PDPT), (PDPT, PD), (PD, PT)):
            ram.write_int(table, 8, entry | 7)
        for page in range(512):
            bits = 0x17 if page << 12 == UNCACHED else 0 if page << 12 == EDGE + 0x40 else 7
            ram.write_int(PT + 8 * page, 8, page << 12 | bits)
        descriptors = (
            0, 0xAF9B000000FFFF, 0xCF93000000FFFF, 0xCFFB000000FFFF, 0xCFF3000000FFFF, 0xAFFB000000FFFF,
            TSS << 16 | 0x67 | 0x8B << 40, 0,
        )  # fmt: skip
        ram.write(GDT, b"".join(one.to_bytes(8, "little") for one in descriptors))
        for vector in (*range(32), 0x30):
            at = handler(vector)
            ram.write(IDT + 16 * vector, (at & 0xFFFF | K64 << 16 | 0xEE00 << 32 | at >> 16 << 48).to_bytes(16, "little"))
        ram.write_int(TSS + 4, 8, STACK0)
        ram.write_int(TSS + 0x66, 2, 0x68)

    def _start(self, armed: Armed) -> None:
        vcpu = self.vcpu
        for name, value in (("cr3", PML4), ("cr4", 0x620 | (8 if armed.de else 0)), ("efer", 0xD01), ("cr0", 0x80010011)):
            vcpu.set(name, value)
        for table, base, limit in (("gdt", GDT, 0x47), ("idt", IDT, 0x30F)):
            vcpu.set(f"{table}_base", base)
            vcpu.set(f"{table}_limit", limit)
        put_segment(vcpu, "cs", K64, 0, 0xFFFFFFFF, 0xA09B)
        for name in ("ss", "ds", "es"):
            put_segment(vcpu, name, KDATA, 0, 0xFFFFFFFF, 0xC093)
        for name in ("fs", "gs"):  # not of DPL 0: QEMU's IRET to CPL 3 would leave them, against SDM vol. 2, IRET
            put_segment(vcpu, name, 0, 0, 0, UNUSABLE)
        put_segment(vcpu, "tr", TASK, TSS, 0x67, 0x8B)
        refresh_rights(vcpu)
        for index, value in ((0xC0000081, (U32 | 3) << 48 | K64 << 32), (0xC0000082, SYSCALL_ENTRY), (0xC0000084, 0x700)):
            vcpu.write_msr(index, value)
        if armed.test_ctrl:
            vcpu.write_msr(TEST_CTRL, armed.test_ctrl)
        for index, value in armed.msrs.items():
            vcpu.write_msr(index, value)
        vcpu.set("rsp", KERNEL_STACK)
        vcpu.set("rflags", 2)
        vcpu.set("rip", KERNEL)

    # --- outcome

    def run(self, step: bool = False, limit: int = 4000) -> list[tuple[Stop, int]]:
        """Resume until the guest ends; every stop with RIP."""
        stops: list[tuple[Stop, int]] = []
        while True:
            stop = self.machine.resume(step=step)
            if isinstance(stop, MachineExit):
                assert stop.kind is ExitKind.EXIT_PORT, stop
                return stops
            stops.append((stop, self.vcpu.get("rip")))
            assert len(stops) < limit, "the guest makes no progress"

    @property
    def log(self) -> list[Log]:
        """The exceptions that the guest's handler saw, the last INT 30h included."""
        ram = self.machine.ram
        end = ram.read_int(LOG, 8)
        return [Log(*(ram.read_int(at + 8 * n, 8) for n in range(8))) for at in range(LOG + 64, end, 64)]

    @property
    def memory(self) -> bytes:
        """All of the RAM."""
        return self.machine.ram.read(0, 2 << 20)
