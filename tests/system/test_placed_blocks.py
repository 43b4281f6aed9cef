"""Every block that a guest has run holds the code that its bytes get when nothing is known of them."""

import ctypes
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from iced_x86 import Decoder

from programs import build
from system.test_linux import guest
from trapgate.arch.models import CpuModel
from trapgate.cli.guest import load_guest, make_machine
from trapgate.isa import state as s
from trapgate.isa.native import placing as p
from trapgate.machine import Machine, MachineConfig
from trapgate.soft import templates
from trapgate.soft.codebuffer import CodeBuffer
from trapgate.soft.cpu import SoftVcpu
from trapgate.soft.state import CpuState
from trapgate.soft.translate import Translator

HEADER = struct.Struct("<IHHQIIHHHH")


class Record:
    """A known block as it lies in memory (`isa.native.placing`)."""

    def __init__(self, memory: memoryview, at: int) -> None:
        _, _, _, _, self.code_length, _, length, parameters, rips, exits = HEADER.unpack_from(memory, at)
        padded = length + 7 & ~7
        self.guest = bytes(memory[at + p.BYTES : at + p.BYTES + length])
        self.mask = bytes(memory[at + p.BYTES + padded : at + p.BYTES + padded + length])
        first = at + p.BYTES + 2 * padded + p.PAIR * (parameters + rips)
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
    table = memoryview(vcpu.blocks._table).cast("Q")
    for at in range(0, len(table), 4):
        mode, code = table[at + 2] & 0xFFFFFFFF, table[at + 3] & 0xFFFFFFFF
        if code and mode != p.GONE:
            yield table[at], table[at + 1], mode, code, table[at + 3] >> 32


class Plain:
    """A translator that remembers nothing but whole instructions, over the RAM of a guest."""

    def __init__(self, vcpu: SoftVcpu, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(templates, "addresses", lambda *_: ())
        monkeypatch.setattr(templates, "variable", lambda *_: (0, 0))
        self.code, self.state, self.host = CodeBuffer(vcpu.code.library, 16 << 20), CpuState(), vcpu.ram.host_base
        self.state.ram_base, self.state.code_base, self.state.code_write = self.host, self.code.base, self.code.written_at
        self.translator = Translator(vcpu.ram, self.code, self.state, CpuModel.parse("EPYC-Turin"))
        self.translator.known_blocks.instructions.fill(list(vcpu.translator.instructions.raws))
        self._copy = self.code.function("copy_block", 64, 3)

    def block(self, rip: int, physical: int, mode: int, length: int) -> bytes:
        """The code of a block of `length` guest bytes."""
        data, parts = self.translator._memory[physical : physical + length].tobytes(), []
        for i in Decoder((16, 32, 64)[mode & s.MODE_CODE], data, ip=0):
            raw = data[i.ip :] if i.is_invalid else data[i.ip : i.next_ip]  # nothing follows what is no instruction
            parts.append(self.translator.templates.known(raw, mode))
            if i.is_invalid:
                break
        record = self.translator.known_blocks.add(mode, self.translator._compose(mode, parts), findable=False)
        self.state.code_end = self.code.first
        at = self._copy(ctypes.addressof(self.state), record, rip, self.host + physical)
        return ctypes.string_at(self.code.written_at + at, self.state.code_end - at)


def check(machine: Machine, at_least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vcpu = machine.vcpu
    assert isinstance(vcpu, SoftVcpu)
    plain, memory, wrong, seen = Plain(vcpu, monkeypatch), vcpu.translator.known_blocks._view, [], 0
    for rip, physical, mode, code, at in placed(vcpu):
        record = Record(memory, at)
        data = vcpu.ram.read(physical, len(record.guest))
        place = f"RIP {rip:#x}, mode {mode:#x}, code size {mode & s.MODE_CODE}: {data.hex()}"
        if not record.fits(data):
            wrong.append(f"stale: {place}")
            continue
        found = ctypes.string_at(vcpu.code.written_at + code, record.code_length)
        if record.unchained(found) != record.unchained(plain.block(rip, physical, mode, len(data))):
            wrong.append(f"other code: {place}")
        seen += 1
    assert not wrong, f"{len(wrong)} of {seen}:\n" + "\n".join(wrong[:10])
    assert seen >= at_least


@pytest.mark.skipif(bool(build.missing_tools()), reason=f"not installed: {build.missing_tools()}")
@pytest.mark.parametrize("name", ["long_user", "long_selfmod", "long_compat", "protected_segments", "real_mode"])
def test_a_program(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = next(one for one in build.programs() if one.name == name)
    machine = make_machine(MachineConfig(memory=64 << 20, cpu=program.cpu), "soft")
    load_guest(machine, str(build.assemble(program, tmp_path)))
    try:
        machine.run()
        check(machine, 50, monkeypatch)
    finally:
        machine.close()


@pytest.mark.linux
@pytest.mark.timeout(900)
def test_a_kernel_with_the_blocks_of_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels share many blocks but for the addresses in them; each boot has addresses of its own."""
    known = b""
    for series in ("6.1", "backports", "6.1"):
        files, text = guest(series), bytearray()
        machine = make_machine(MachineConfig(memory=512 << 20, serial=text.extend), "soft")
        vcpu = machine.vcpu
        assert isinstance(vcpu, SoftVcpu)
        if known:
            vcpu.translator.known_blocks.unpack(known)
        load_guest(machine, str(files.kernel), "console=ttyS0 trapgate.run=true", str(files.initramfs))
        try:
            machine.run()
            assert b"trapgate: exit status 0" in text, text[-500:].decode(errors="replace")
            with monkeypatch.context() as plainly:
                check(machine, 20_000, plainly)
            known = vcpu.translator.known_blocks.pack()
        finally:
            machine.close()
