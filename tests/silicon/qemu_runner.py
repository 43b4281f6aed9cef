"""QEMU's software CPU as a runner: a second opinion beside the host, and proof that the guest of `guest_kernel` works.

Its RAM is a shared file, so batches travel as they do to the host worker. A ROM of ours takes it from reset into the kernel.
"""

import mmap
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from . import guest_kernel as guest
from .assemble import assemble
from .state import SLOT_SIZE, Outcome, State, hung, pack_case, unpack_outcome

ROM_SIZE = 0x1_0000
ROM_BASE = (1 << 32) - ROM_SIZE
BOOT_PML4, BOOT_PDPT, TRAMPOLINE = 0x1_0000, 0x1_1000, 0x1_2000  # guest-physical, besides what `guest_kernel` takes
BOOT_GDTR, BOOT_GDT, LONG_GDTR, LONG_IDTR, LONG_MODE = 0x200, 0x210, 0x240, 0x250, 0x100  # offsets in the ROM

_REAL_MODE = f"""
    .code16
    cli
    mov al, 0xff                    ; no PIC interrupts
    out 0x21, al
    out 0xa1, al
    mov eax, {guest.CR4}
    mov cr4, eax
    mov eax, {BOOT_PML4}
    mov cr3, eax
    mov ecx, 0xc0000080
    mov eax, {guest.EFER & 0x900}
    xor edx, edx
    wrmsr
    .byte 0x2e, 0x66, 0x0f, 0x01, 0x16     ; lgdt cs:[BOOT_GDTR]
    .word {BOOT_GDTR}
    mov eax, {guest.CR0}
    mov cr0, eax
    .byte 0x66, 0xea                       ; jmp far KERNEL_CS:LONG_MODE
    .long {ROM_BASE + LONG_MODE}
    .word {guest.KERNEL_CS}
"""
_LONG_MODE = f"""
    mov ebx, {ROM_BASE}
    lgdt [rbx + {LONG_GDTR}]
    lidt [rbx + {LONG_IDTR}]
    mov eax, {guest.KERNEL_SS}
    mov ss, eax
    mov eax, {guest.TR}
    ltr ax
    mov eax, {guest.PML4}
    movabs rcx, {guest.UPPER + guest.KERNEL + guest.ENTRY}
    movabs rdx, {guest.UPPER + TRAMPOLINE}
    jmp rdx
"""


class QemuError(Exception):
    """QEMU is not there, or ended by itself."""


def available() -> bool:
    """Whether QEMU for x86-64 is installed."""
    return shutil.which("qemu-system-x86_64") is not None


def _rom() -> bytes:
    rom = bytearray(ROM_SIZE)

    def put(offset: int, data: bytes) -> None:
        rom[offset : offset + len(data)] = data

    real = assemble(_REAL_MODE)
    assert len(real) <= LONG_MODE - 0x10
    put(0, real)
    put(LONG_MODE, assemble(_LONG_MODE))
    put(BOOT_GDTR, struct.pack("<HI", 0x37, ROM_BASE + BOOT_GDT))
    put(BOOT_GDT, struct.pack("<3Q", 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF))
    put(LONG_GDTR, struct.pack("<HQ", guest.GDT_LIMIT, guest.UPPER + guest.GDT))
    put(LONG_IDTR, struct.pack("<HQ", 32 * 16 - 1, guest.UPPER + guest.IDT))
    put(ROM_SIZE - 16, b"\xe9" + struct.pack("<h", 16 - 3 - ROM_SIZE % 0x1_0000))  # reset vector: jmp to offset 0
    return bytes(rom)


class QemuCpu:
    """Runs cases on QEMU's TCG; same use as `HostCpu`. `cpu` is QEMU's model name."""

    def __init__(self, batch: int = 128, timeout: float = 5.0, cpu: str = "max") -> None:
        self.batch, self.timeout, self._model = batch, timeout, cpu
        self._directory = tempfile.TemporaryDirectory(prefix="silicon-")
        self._rom_path = Path(self._directory.name, "rom")
        self._rom_path.write_bytes(_rom())
        self._ram_path = Path(self._directory.name, "ram")
        self._size = guest.memory_size(batch)
        with open(self._ram_path, "w+b") as file:
            file.truncate(self._size)
            self._map = mmap.mmap(file.fileno(), self._size)
        self.view = memoryview(self._map)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "QemuCpu":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End QEMU and remove its files."""
        self.stop()
        self.view.release()
        self._map.close()
        self._directory.cleanup()

    def run(self, code: bytes, state: State) -> Outcome:
        """Execute 1 to CODE_SIZE bytes of code from a state."""
        return next(self.run_many([(code, state)]))

    def run_many(self, cases: Iterable[tuple[bytes, State]]) -> Iterator[Outcome]:
        """Execute cases in order, a batch at a time."""
        rest = iter(cases)
        while batch := list(islice(rest, self.batch)):
            for n, (code, state) in enumerate(batch):
                pack_case(self.view, guest.SLOTS + n * SLOT_SIZE, code, state)
            lost = self._execute(len(batch))
            for n, (_, state) in enumerate(batch):
                yield hung(state) if n in lost else unpack_outcome(self.view, guest.SLOTS + n * SLOT_SIZE)

    def _word(self, offset: int) -> int:
        return int(struct.unpack_from("<Q", self.view, guest.CONTROL + offset)[0])

    def _execute(self, count: int) -> set[int]:
        """Run the cases in the slots; the numbers of those that hung."""
        lost: set[int] = set()
        first = 0
        while first < count:
            if self.batch_from(first, count - first):
                break
            at = count - self._word(guest.CASES_LEFT)
            self.stop()
            lost.add(at)
            first = at + 1
        return lost

    def batch_from(self, first: int, count: int) -> bool:
        """Run `count` cases from slot `first` on; False when one hung: CASES_LEFT then says which."""
        if self._process is None:
            self._start()
        first_slot = guest.UPPER + guest.SLOTS + first * SLOT_SIZE
        struct.pack_into("<4Q", self.view, guest.CONTROL + 8, first_slot, count, 0, 1)
        struct.pack_into("<Q", self.view, guest.CONTROL, 1)
        return self._finished()

    def _finished(self) -> bool:
        """Wait for the batch; False when one case took longer than the timeout. QemuError when QEMU ended."""
        assert self._process is not None
        left, deadline, pause = -1, 0.0, 0.0002
        while not self._word(guest.DONE):
            if self._process.poll() is not None:
                raise QemuError(f"QEMU ended with status {self._process.returncode}: {self._story()}")
            if (now_left := self._word(guest.CASES_LEFT)) != left:
                left, deadline = now_left, time.monotonic() + self.timeout
            if time.monotonic() > deadline:
                return False
            time.sleep(pause)
        return True

    def _story(self) -> str:
        assert self._process is not None
        assert self._process.stderr is not None
        return self._process.stderr.read().decode(errors="replace").strip()[:300]

    def _start(self) -> None:
        program = shutil.which("qemu-system-x86_64")
        if program is None:
            raise QemuError("qemu-system-x86_64 is not installed")
        self.view[: guest.SLOTS] = bytes(guest.SLOTS)
        for address, data in guest.pieces(self.batch):
            self.view[address : address + len(data)] = data
        self.view[guest.GDT + guest.TR + 5] &= ~2 & 0xFF  # LTR wants an available TSS
        struct.pack_into("<Q", self.view, BOOT_PML4, BOOT_PDPT | 3)
        struct.pack_into("<Q", self.view, BOOT_PML4 + 256 * 8, guest.PDPT_UPPER | 3)
        struct.pack_into("<Q", self.view, BOOT_PDPT + 3 * 8, 3 << 30 | 0x83)  # 1 GiB page: 3-4 GiB, where the ROM is
        self.view[TRAMPOLINE : TRAMPOLINE + 5] = b"\x0f\x22\xd8\xff\xe1"  # mov cr3, rax; jmp rcx
        ram = f"memory-backend-file,id=ram,share=on,mem-path={self._ram_path},size={self._size}"
        arguments = ["-machine", "pc,accel=tcg,memory-backend=ram,graphics=off", "-object", ram, "-m", str(self._size >> 20) + "M"]
        arguments += ["-cpu", self._model, "-bios", str(self._rom_path), "-nodefaults", "-display", "none", "-no-reboot"]
        self._process = subprocess.Popen([program, *arguments], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def stop(self) -> None:
        """End QEMU; the next batch starts it again."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()
