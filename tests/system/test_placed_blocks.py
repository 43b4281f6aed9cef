"""Every block that a guest has run holds the code that its bytes get when nothing is known of them."""

import ctypes
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from programs import build
from system.test_linux import guest
from trapgate.build import load_guest, make_machine
from trapgate.isa.modes import CODE
from trapgate.isa.native import placing as p
from trapgate.machine import Machine, MachineConfig
from trapgate.soft.cpu import SoftVcpu
from trapgate.soft.loops.installed import JUMP
from trapgate.soft.state.codebuffer import CodeBuffer
from unit.soft.plain import HEADER, Plain


class Record:
    """A known block as it lies in memory (`isa.native.placing`)."""

    def __init__(self, memory: memoryview, at: int) -> None:
        _, _, _, _, self.code_length, _, length, parameters, rips, exits = HEADER.unpack_from(memory, at)
        padded = length + 7 & ~7
        self.guest = bytes(memory[at + p.RECORD.size : at + p.RECORD.size + length])
        self.mask = bytes(memory[at + p.RECORD.size + padded : at + p.RECORD.size + padded + length])
        first = at + p.RECORD.size + 2 * padded + p.PAIR * (parameters + rips)
        self.branches = [struct.unpack_from("<I", memory, first + p.PAIR * n)[0] for n in range(exits)]

    def fits(self, data: bytes) -> bool:
        """Whether it may stand for these guest bytes."""
        return all((a ^ b) & mask == 0 for a, b, mask in zip(self.guest, data, self.mask, strict=True))

    def unchained(self, code: bytes) -> bytes:
        """Its code without where the branches out lead at the moment."""
        plain = bytearray(code)
        for at in self.branches:
            plain[at : at + 4] = bytes(4)
        return bytes(plain)


def placed(vcpu: SoftVcpu) -> Iterator[tuple[int, int, int, int, int]]:
    """(RIP, physical address, mode, offset of the code, record) of every block in the dispatcher's table."""
    table = vcpu.blocks._table.view.cast("Q")
    for at in range(0, len(table), 4):
        mode, code = table[at + 2] & 0xFFFFFFFF, table[at + 3] & 0xFFFFFFFF
        if code and mode != p.GONE:
            yield table[at], table[at + 1], mode, code, table[at + 3] >> 32


def check(machine: Machine, at_least: int) -> None:
    vcpu = machine.vcpu
    assert isinstance(vcpu, SoftVcpu)
    # A code buffer of its own: where the guest's blocks lie nothing is to be copied.
    plain = Plain(CodeBuffer(vcpu.code.library, 16 << 20), vcpu.translator.instructions)
    memory, wrong, seen = vcpu.translator.known_blocks._view, list[str](), 0
    for rip, physical, mode, code, at in placed(vcpu):
        record = Record(memory, at)
        data = vcpu.ram.read(physical, len(record.guest))
        place = f"RIP {rip:#x}, mode {mode:#x}, code size {mode & CODE}: {data.hex()}"
        if not record.fits(data):
            wrong.append(f"stale: {place}")
            continue
        found, made = ctypes.string_at(vcpu.code.written_at + code, record.code_length), plain.placed(data, mode, rip)
        if found[p.ENTRY] == 0xE9:  # the first block of a hot loop: its head is a jump there
            found = made[: p.ENTRY + JUMP] + found[p.ENTRY + JUMP :]
        if record.unchained(found) != record.unchained(made):
            wrong.append(f"other code: {place}")
        seen += 1
    assert not wrong, f"{len(wrong)} of {seen}:\n" + "\n".join(wrong[:10])
    assert seen >= at_least


@pytest.mark.skipif(bool(build.missing_tools()), reason=f"not installed: {build.missing_tools()}")
@pytest.mark.parametrize("name", ["long_user", "long_selfmod", "long_compat", "protected_segments", "real_mode"])
def test_a_program(name: str, tmp_path: Path) -> None:
    program = next(one for one in build.programs() if one.name == name)
    machine = make_machine(MachineConfig(memory=64 << 20, cpu=program.cpu), "soft")
    load_guest(machine, str(build.assemble(program, tmp_path)))
    try:
        machine.run()
        check(machine, 50)
    finally:
        machine.close()


@pytest.mark.linux
@pytest.mark.timeout(900)
def test_a_kernel_with_the_blocks_of_another_one() -> None:
    """Kernels share many blocks but for the addresses in them; each boot has addresses of its own."""
    known = b""
    for series in ("6.1", "backports", "6.1"):
        files, text = guest(series), bytearray()
        machine = make_machine(MachineConfig(memory=512 << 20, serial=text.extend), "soft")
        vcpu = machine.vcpu
        assert isinstance(vcpu, SoftVcpu)
        if known:
            vcpu.translator.learn(memoryview(known))
        load_guest(machine, str(files.kernel), "console=ttyS0 trapgate.run=true", str(files.initramfs))
        try:
            machine.run()
            assert b"trapgate: exit status 0" in text, text[-500:].decode(errors="replace")
            check(machine, 20_000)
            known = vcpu.translator.known_blocks.pack()
        finally:
            machine.close()
