"""One program on both engines: the same registers, memory, flags and exceptions in the end."""

import pytest

from kvm.guest import DATA, KVM, Loaded
from kvm.test_debugging import ARM, ARMED_NOP, OWN_TF
from trapgate.arch.flags import RF
from trapgate.kvm.handles import KvmError

pytestmark = KVM

GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)), "rip", "rflags")
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
    "system registers": "mov rax, cr0\nmov rbx, cr4\nmov rcx, cr3\nsmsw edx\nsgdt [rdi]\n"
    "sidt [rdi+16]\nstr esi\nlahf\nmov ecx, 0xC0000080\nrdmsr",
}  # fmt: skip


def outcome(text: str, engine: str, step: bool) -> dict[str, object]:
    guest = Loaded(text, engine)
    for name in ("rbx", "rcx", "rdx"):
        guest.machine.vcpu.set(name, 3)
    try:
        guest.run(step=step, limit=500)
    except KvmError as error:
        pytest.skip(f"this host: {error}")
    vcpu, ram = guest.machine.vcpu, guest.machine.ram
    found: dict[str, object] = {name: vcpu.get(name) for name in GENERAL}
    found["memory"] = ram.read(DATA, 256)
    found["dr"] = [vcpu.get(f"dr{n}") for n in (0, 6, 7)]
    # A nested host that emulates guest code may leave RF out of what it pushes.
    found["log"] = [(one.vector, one.error, one.rip, one.rflags & ~RF, one.dr6, one.dr7) for one in guest.log]
    return found


@pytest.mark.parametrize("name", list(PROGRAMS))
@pytest.mark.parametrize("step", [False, True], ids=["run", "stepped"])
def test_both_engines_agree(name: str, step: bool) -> None:
    assert outcome(PROGRAMS[name], "kvm", step) == outcome(PROGRAMS[name], "soft", step)
