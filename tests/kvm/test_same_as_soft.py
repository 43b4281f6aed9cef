"""One program on both engines: in the end every register, hidden parts included, and every byte of RAM is the same."""

from collections.abc import Callable
from functools import partial
from itertools import count

import pytest

from kvm.guest import GDT, IDT, KVM, LOG, PD, PDPT, STACK, Loaded
from kvm.states import floating, pages, registers
from kvm.test_debugging import ARM, ARMED_NOP, OWN_TF
from trapgate.arch.flags import RF
from trapgate.kvm.cpu import KvmVcpu
from trapgate.kvm.ioctl import KvmError
from trapgate.soft.cpu import SoftVcpu

pytestmark = KVM

FAULTS = "\n".join([  # each goes on behind itself, with the error code and the flags of its frame told
    *(f"lea rax, [rip+{n}f]\nmov [{IDT + 16 * vector}], ax\nmov word ptr [{IDT + 16 * vector + 6}], 2\n"
      f"{provoke}\n{n}: {'pop r8' if error else 'mov r8d, 99'}\nadd r9, r8\nadd r9, [rsp+16]\nrol r9, 7\nmov rsp, [rsp+24]"
      for n, (vector, error, provoke) in enumerate((
          (6, False, "ud2"), (0, False, "xor ecx, ecx\ndiv ecx"), (14, True, "mov eax, 0x40000000\nmov [rax], ecx"),
          (13, True, "mov ecx, 0x7777\nrdmsr"), (13, True, "mov ax, 0x18\nmov ds, ax"),
          (13, True, "mov rax, 1 << 63\nmov rbx, [rax+5]"),
      ), 21)),
    "mov rax, cr2", "cmp eax, 1",
])  # fmt: skip
PROGRAMS = {
    "arithmetic": "mov eax, 7\nmov ecx, -3\nadd eax, ecx\nadc rax, rax\n"
    "imul rbx, rax, 77\nsub ebx, 9\nneg rbx\nsbb r8, rbx\ncmp r8, rbx",
    "shifts and bits": "mov eax, 0x80000001\nrol eax, 3\nshrd rax, rbx, 5\nbt eax, 4\n"
    "setc cl\nbsr rdx, rax\nbsf rsi, rax\nsar eax, 2\ntest eax, eax",
    "multiply and divide": "mov rax, 0x123456789ABCDEF\nmov rbx, 0xFEDCBA987\nmul rbx\n"
    "mov rcx, 0xFFFFFFFFFFF\ndiv rcx\ncdq\ntest eax, eax",
    "stack and calls": "call 1f\njmp 2f\n1: push 77\npop rbx\nret\n2: push rbx\n"
    "pushfq\npop rcx\npop rdx\nenter 32, 0\nleave\ncmp edx, 1",
    "strings": "mov ecx, 40\nmov al, 0x5A\nrep stosb\nmov ecx, 5\nlea rsi, [rdi-40]\n"
    "rep movsq\nstd\nlodsb\ncld\nxor eax, eax\nmov [rdi], rsi",
    "locked": "lock inc dword ptr [rdi+61]\nmov eax, 1\nxchg [rdi+61], eax\n"
    "lock cmpxchg [rdi+8], rcx\nlock xadd [rdi], rax\ncmp eax, 0",
    "conditions": "mov ecx, 9\n1: lea rax, [rax+rcx*4+3]\nloop 1b\ncmp rax, 200\n"
    "cmovg rbx, rax\nja 2f\nxor eax, eax\n2: setle dl\ntest dl, 1",
    "its own single step": OWN_TF,
    "its own breakpoint": ARM.format(address=ARMED_NOP),
    "INT3 and INT1": "int3\nnop\n.byte 0xF1\nnop\n.byte 0xF1\nint3\npushfq\npop rbx",
    "a fault of each kind": FAULTS,
    "page tables": f"mov qword ptr [{PD + 8}], 0x600087\nmov rax, cr3\nmov cr3, rax\nmov eax, 0x200000\nmov rbx, [rax]\n"
    f"mov [rax+4096], rbx\nmov qword ptr [{PD + 8}], 0x800087\ninvlpg [rax]\nmov [rax], rsp\n"
    f"mov rcx, [{PD + 8}]\nmov rdx, [{PDPT}]",
    "segments": f"mov word ptr [rdi], 0x3F\nmov qword ptr [rdi+2], {GDT}\nlgdt [rdi]\n"
    f"mov ax, 0x18\nmov rbx, 0xCFF3000000FFFF\nmov [{GDT + 0x18}], rbx\nmov ds, ax\n"
    f"xor eax, eax\nmov es, ax\nlldt ax\nsldt ebp\nmov ax, 0x1B\nmov fs, ax\nmov rbx, [{GDT + 0x18}]",
    "model-specific registers": "mov ecx, 0xC0000100\nmov eax, 0x8000\nxor edx, edx\nwrmsr\nmov rbx, fs:[8]\n"
    "mov ecx, 0xC0000102\nmov eax, 77\nwrmsr\nswapgs\nmov ecx, 0xC0000101\nrdmsr\nmov esi, eax\n"
    "mov ecx, 0xC0000082\nmov edx, 5\nwrmsr\nrdmsr\nmov edi, edx",
    "moves of 16 bytes": "mov [rdi], rsp\nmov [rdi+8], rdi\nmovups xmm3, [rdi]\nmovups [rdi+33], xmm3\nmovaps [rdi+64], xmm3\n"
    "mov rbx, [rdi+41]",
    "carries and signs": "mov rax, -1\nadd rax, 1\nrcl rbx, 3\nrcr ecx, 7\nmovsx rdx, bl\nmovsxd rsi, ecx\ncbw\ncwde\ncdqe\n"
    "cqo\nbswap rbx\nxadd rbx, rsi\nsbb al, 7\ncmc\nlahf\ncmp rbx, rcx",
    "memory in place": "mov qword ptr [rdi], -5\nadd dword ptr [rdi+2], 77\nneg word ptr [rdi+1]\nshl qword ptr [rdi], 3\n"
    "btc [rdi], rbx\nlock cmpxchg8b [rdi+16]\nadc byte ptr [rdi+7], 0\nxchg rbx, [rdi]\n"
    "push qword ptr [rdi]\npop [rdi+24]\ncmp eax, [rdi+24]",
    "system registers": "mov rax, cr0\nmov rbx, cr4\nmov rcx, cr3\nsmsw edx\nsgdt [rdi]\n"
    "sidt [rdi+16]\nstr esi\nlahf\nmov ecx, 0xC0000080\nrdmsr",
}  # fmt: skip


def kick_every_second_entry(vcpu: KvmVcpu, first: int) -> None:
    """Whoever enters the guest is kicked out again before it has run, every second time."""
    enter, entries = vcpu.enter, count(first)

    def entered(immediate: bool = False) -> bool:
        if next(entries) & 1:
            vcpu.kick()
        return enter(immediate)

    vcpu.enter = entered  # type: ignore[method-assign]


def kick_in_front_of_handlers(vcpu: KvmVcpu) -> None:
    """Whoever is caught on the first instruction of a handler was kicked out there instead."""
    enter = vcpu.enter

    def entered(immediate: bool = False) -> bool:
        happened, rip = enter(immediate), vcpu.registers.linear(vcpu.registers.rip)
        return happened and not any(one.entry == rip for one in vcpu._nets)

    vcpu.enter = entered  # type: ignore[method-assign]


KICKS: dict[str, Callable[[KvmVcpu], None]] = {
    "none": lambda vcpu: None,
    "even": partial(kick_every_second_entry, first=0),
    "odd": partial(kick_every_second_entry, first=1),
    "late": kick_in_front_of_handlers,
}


def outcome(text: str, engine: str, step: bool, kicks: str = "none") -> dict[str, object]:
    guest = Loaded(text, engine)
    vcpu = guest.machine.vcpu
    assert isinstance(vcpu, (SoftVcpu, KvmVcpu))
    if isinstance(vcpu, KvmVcpu):
        KICKS[kicks](vcpu)
    for name in ("rbx", "rcx", "rdx"):
        vcpu.set(name, 3)
    try:
        guest.run(step=step, limit=500)
    except KvmError as error:
        pytest.skip(f"this host: {error}")
    # A nested host that emulates guest code may leave RF out of what it pushes.
    ram = guest.machine.ram
    for at in (STACK - 24, *range(LOG + 64 + 32, ram.read_int(LOG, 8), 64)):
        ram.write_int(at, 8, ram.read_int(at, 8) & ~RF)
    return registers(vcpu) | floating(vcpu) | {f"page {at:#x}": digest for at, digest in pages(ram).items()}


@pytest.mark.parametrize("name", list(PROGRAMS))
@pytest.mark.parametrize("step", [False, True], ids=["run", "stepped"])
def test_both_engines_agree(name: str, step: bool) -> None:
    assert outcome(PROGRAMS[name], "kvm", step) == outcome(PROGRAMS[name], "soft", step)


@pytest.mark.parametrize("name", list(PROGRAMS))
@pytest.mark.parametrize("kicks", ["even", "odd", "late"])
def test_a_kick_at_any_moment_of_a_step_changes_nothing(name: str, kicks: str) -> None:
    assert outcome(PROGRAMS[name], "kvm", True, kicks) == outcome(PROGRAMS[name], "soft", True)
