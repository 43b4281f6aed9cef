"""The guest of the harness on a QEMU without KVM: its memory in a multiboot image that sets up its start state."""

import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

from programs.debug import harness
from programs.debug.cases import Case
from programs.debug.harness import CASE, GDT, IDT, K64, KDATA, KERNEL, KERNEL_STACK, PML4, SYSCALL_ENTRY, TASK, U32, Guest, Log
from silicon.assemble import assemble

START, COPY = 0x1F0000, 0x400000  # where the image loads: within what the guest maps, and above its 2 MiB
USED = 0x60000  # bytes of the guest's memory that hold anything
LIMIT = 30  # s
_LOADER = """
    .code32
    .long 0x1BADB002, 0, -0x1BADB002
    cld
    mov esi, {copy}
    xor edi, edi
    mov ecx, {used} / 4
    rep movsd
    mov byte ptr [{gdt} + {task} + 5], 0x89
    mov eax, {pml4}
    mov cr3, eax
    mov eax, {cr4}
    mov cr4, eax
    xor edx, edx
    mov ecx, 0xC0000080
    mov eax, 0x501
    wrmsr
    mov ecx, 0xC0000082
    mov eax, {entry}
    wrmsr
    mov ecx, 0xC0000084
    mov eax, 0x700
    wrmsr
    mov ecx, 0xC0000081
    mov edx, {star}
    xor eax, eax
    wrmsr
    lgdt [{start} + 0x100]
    lidt [{start} + 0x110]
    mov eax, 0x80010011
    mov cr0, eax
    push {code}
    push {start} + 0x120
    retf
    .org 0x100
    .short 0x47
    .long {gdt}, 0
    .org 0x110
    .short 0x30F
    .long {idt}, 0
    .org 0x120
    .code64
    mov eax, {data}
    mov ss, eax
    mov ds, eax
    mov es, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov eax, {task}
    ltr ax
    mov esp, {stack}
    push 2
    popfq
    mov eax, {kernel}
    jmp rax
"""


_NAMES = {
    "start": START, "copy": COPY, "used": USED, "gdt": GDT, "idt": IDT, "task": TASK, "pml4": PML4, "entry": SYSCALL_ENTRY,
    "star": (U32 | 3) << 16 | K64, "code": K64, "data": KDATA, "stack": KERNEL_STACK, "kernel": KERNEL,
}  # fmt: skip


def image(case: Case, memory: bytes) -> bytes:
    """A multiboot ELF that loads this memory, and goes on as the harness starts the software CPU."""
    loader = assemble(_LOADER.format(**_NAMES, cr4=0x620 | (8 if case.armed.de else 0)))
    parts = ((START, loader), (COPY, memory[:USED]))
    offset, headers, body = 0x1000, b"", b""
    for at, data in parts:
        headers += struct.pack("<8I", 1, offset + len(body), at, at, len(data), len(data), 7, 0x1000)
        body += data + bytes(-len(data) % 0x1000)
    head = struct.pack("<16sHHIIIIIHHHHHH", b"\x7fELF\1\1\1", 2, 3, 1, START + 12, 52, 0, 0, 52, 32, len(parts), 0, 0, 0)
    return (head + headers).ljust(offset, b"\0") + body


def logs(case: Case, qemu: Sequence[str], folder: Path) -> tuple[list[Log], list[Log]]:
    """What the case's handler logs on QEMU, and on the software CPU, up to the case's end."""
    guest = Guest(case.text, case.armed, case.cpu, case.resume_at)
    kernel, ram = folder / "kernel", folder / "ram"
    kernel.write_bytes(image(case, guest.memory))
    machine = ("-M", "pc,memory-backend=ram", "-object", f"memory-backend-file,id=ram,size=16M,mem-path={ram},share=on", "-m", "16")
    quiet = ("-nodefaults", "-display", "none", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=1")
    words = [*qemu, "-accel", "tcg", "-cpu", "max", *machine, *quiet, "-kernel", str(kernel)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 1, done.stderr  # what isa-debug-exit makes of 0
    memory = ram.read_bytes()
    guest.run()
    return _before_the_end(memory, guest), _before_the_end(guest.memory, guest)


def _before_the_end(memory: bytes, guest: Guest) -> list[Log]:
    """The log without INT 30h, which ends the case; after it QEMU runs on for a while."""
    end, found = guest.starts[-1], []
    for at in range(harness.LOG + 64, int.from_bytes(memory[harness.LOG : harness.LOG + 8], "little"), 64):
        one = Log(*(int.from_bytes(memory[at + 8 * n : at + 8 * n + 8], "little") for n in range(8)))
        if one.vector == 0x30:
            break
        if one.rip <= end or one.rip >= CASE + len(guest.code):
            found.append(one)
    return found
