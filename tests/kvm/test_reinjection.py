"""A guest whose #DB handler prints DR6: what is injected reads as on bare metal, and gdb with breakpoints changes no line."""

import shutil
from collections.abc import Callable

import pytest

from kvm.guest import CHIPS, IDT, KVM, Guest
from kvm.test_gdb import attach
from trapgate.arch import dr6

pytestmark = KVM

PRINTS_DR6 = """
    mov rax, dr6
    mov ecx, 8
1:  rol eax, 4
    mov ebx, eax
    and ebx, 15
    cmp ebx, 10
    jb 2f
    add ebx, 7
2:  add ebx, 48
    push rax
    mov eax, ebx
    mov dx, 0x3F8
    out dx, al
    pop rax
    loop 1b
    mov al, 10
    out dx, al
    mov eax, 0xFFFF0FF0
    mov dr6, rax
    mov eax, 0x400
    mov dr7, rax
    mov rax, [rsp]
    mov rsp, [rsp+24]
    jmp rax
"""
INSTALL = f"lea rax, [rip+9f]\nmov [{IDT + 16}], ax\nmov word ptr [{IDT + 22}], 2\njmp 8f\n9:{PRINTS_DR6}8:"
OWN_STEP = "pushfq\nor dword ptr [rsp], 0x100\npopfq\nnop\nnop\nnop"
OWN_BREAKPOINT = "lea rax, [rip+7f]\nmov dr0, rax\nmov eax, 0x402\nmov dr7, rax\nnop\n7: nop\nnop"
STEP, BOTH = OWN_STEP, f"{OWN_STEP}\n{OWN_BREAKPOINT}"  # what the guest does by itself: one #DB, or two
READS = {0x800: "FFFF07F0", 0x4000: "FFFF4FF0", 0x4801: "FFFF47F1"}


@pytest.fixture(autouse=True, params=["kvm", CHIPS])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guest, "engine", request.param)


def printed(payload: int, own: str, run: Callable[[Guest], None]) -> list[str]:
    """The lines of a guest that gets a #DB with this payload (0: none) at its first instruction behind the handler."""
    sent: list[bytes] = []
    guest = Guest(f"{INSTALL}\nnop\n{own}", serial=sent.append)
    first = next(at for at in guest.starts if guest.machine.ram.read(at, 2) == b"\x90\x9c")  # NOP; PUSHF
    guest.machine.vcpu.arm([], [first])
    guest.machine.resume()
    assert guest.vcpu.get("rip") == first
    guest.machine.vcpu.arm([], [])
    if payload:
        causes, hits = dr6.from_payload(payload)
        guest.vcpu.deliver_debug(causes, hits, icebp=False)
    run(guest)
    return b"".join(sent).decode().splitlines()


def alone(guest: Guest) -> None:
    guest.run()


def under_gdb(guest: Guest) -> None:
    """With one breakpoint in the handler, and one behind the guest's own."""
    leaving = next(at for at in guest.starts if guest.machine.ram.read(at, 4) == b"\x48\x8b\x04\x24")  # MOV RAX, [RSP]
    text = attach(guest, f"hbreak *{leaving:#x}", f"hbreak *{guest.starts[-5]:#x}", *["continue"] * 6)
    assert text.count("Breakpoint 1, ") >= 1
    assert text.count("Breakpoint 2, ") == 1
    assert "exited" in text


@pytest.mark.parametrize("payload", list(READS))
def test_what_is_injected_reads_exactly(payload: int) -> None:
    assert printed(payload, BOTH, alone) == [READS[payload], "FFFF4FF0", "FFFF0FF1"]


@pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb")
@pytest.mark.parametrize("own", [STEP, BOTH], ids=["a step", "a step and a breakpoint"])
@pytest.mark.parametrize("payload", [0, *READS])
def test_under_gdb_it_prints_what_it_prints_alone(payload: int, own: str, lies_idle: str) -> None:
    if lies_idle and own == BOTH:
        pytest.skip(lies_idle)
    text = printed(payload, own, under_gdb)
    assert text == printed(payload, own, alone)
    assert "FFFF4FF0" in text
