"""A boot plan carried out by another machine: an ELF file for QEMU that puts every piece in place and sets the first registers.

So the loaders can be judged by guests that really start, without a CPU of ours. Pieces below 1 MiB, where QEMU's firmware works,
are kept high and copied down by the stub, which first makes C0000h-FFFFFh writable RAM (PAM registers of the 440FX, 59h-5Fh).
"""

import subprocess
from pathlib import Path

from trapgate.boot import BootPlan

STUB = 0x1C00_0000  # plans must end below; QEMU gets 512 MiB
STAGE = STUB + 0x10_0000
QEMU_MEMORY = 512
_QEMU = "qemu-system-x86_64 -accel tcg -cpu max -machine pc -nodefaults -display none -no-reboot -serial stdio"

_START = """
    .section .note.pvh, "a", @note
    .long 4, 4, 18
    .asciz "Xen"
    .long stub
    .section .stub, "awx"
    .code32
stub:
    movl $0x80000058, %eax
    movw $0xCF8, %dx
    outl %eax, %dx
    movb $0x33, %al
    movw $0xCFD, %dx
    outb %al, %dx
    incw %dx
    outb %al, %dx
    incw %dx
    outb %al, %dx
    movl $0x8000005C, %eax
    movw $0xCF8, %dx
    outl %eax, %dx
    movl $0x33333333, %eax
    movw $0xCFC, %dx
    outl %eax, %dx
    cld
"""


def qemu(image: Path) -> list[str]:
    """The command that runs the ELF file."""
    return [*_QEMU.split(), "-m", str(QEMU_MEMORY), "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", str(image)]


def build(plan: BootPlan, folder: Path) -> Path:
    """The ELF file that carries out a plan for 32-bit or 64-bit mode."""
    source, placed, stage = _START, [f"-Wl,--section-start=.stub={STUB:#x}"], STAGE
    contents = ""
    for number, piece in enumerate(plan.pieces):
        if not len(piece.data):
            continue
        (folder / f"piece{number}").write_bytes(piece.data)
        address = piece.address
        if address < 0x10_0000:
            address, stage = stage, stage + (len(piece.data) + 0xFFF & ~0xFFF)
            source += f"movl ${address:#x}, %esi; movl ${piece.address:#x}, %edi; movl ${len(piece.data)}, %ecx; rep movsb\n"
        contents += f'.section .piece{number}, "aw"; .incbin "{folder}/piece{number}"\n'
        placed.append(f"-Wl,--section-start=.piece{number}={address:#x}")
    (folder / "trampoline.S").write_text(source + _registers(plan) + contents)
    image = folder / "trampoline.elf"
    options = "-m64 -nostdlib -static -no-pie -Wl,--build-id=none -Wl,-e,stub -Wl,--no-warn-rwx-segments -Wl,-z,noexecstack".split()
    subprocess.run(["gcc", *options, *placed, "-o", str(image), str(folder / "trampoline.S")], check=True, capture_output=True)
    return image


def _registers(plan: BootPlan) -> str:
    """Code that enters the mode of the plan and jumps to its first instruction."""
    start = plan.start
    code, data = start.segments["cs"].selector, start.segments["ds"].selector
    general = {name: start.general.get(name, 0) for name in ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp")}
    text = "lgdt gdt_pointer\n"
    if start.mode == "long64":
        text += f"""
    movl ${start.cr4:#x}, %eax
    movl %eax, %cr4
    movl ${start.cr3:#x}, %eax
    movl %eax, %cr3
    movl $0xC0000080, %ecx
    movl ${start.efer & 0x100:#x}, %eax
    xorl %edx, %edx
    wrmsr
"""
    text += f"""
    movl ${start.cr0:#x}, %eax
    movl %eax, %cr0
    ljmp ${code:#x}, $inside
gdt_pointer:
    .word {start.gdt_limit}
    .long {start.gdt_base:#x}
    .code{64 if start.mode == "long64" else 32}
inside:
    movl ${data:#x}, %eax
"""
    text += "".join(f"movl %eax, %{name}\n" for name in ("ds", "es", "fs", "gs", "ss"))
    if start.mode == "long64":
        text += "".join(f"movabsq ${value:#x}, %{name}\n" for name, value in general.items())
        return text + f"movabsq ${start.rip:#x}, %r15\njmp *%r15\n"
    text += "".join(f"movl ${value:#x}, %e{name[1:]}\n" for name, value in general.items())
    return text + f"ljmp ${code:#x}, ${start.rip:#x}\n"
