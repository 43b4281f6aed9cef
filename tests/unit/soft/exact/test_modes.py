"""A guest that walks from real mode through protected mode into long mode, takes an exception and comes back from it."""

from trapgate.exits import Halted, PortWrite
from trapgate.soft.exact.segments import put_segment
from trapgate.soft.reset import reset
from unit.soft.bench import GDT, IDT, K64, Bench

REAL = """
    0f01160006      # lgdt [600h]
    66b820000000    # mov eax, 20h
    0f22e0          # mov cr4, eax
    66b800001000    # mov eax, 100000h
    0f22d8          # mov cr3, eax
    66b9800000c0    # mov ecx, C0000080h
    66b801090000    # mov eax, 901h
    6631d2          # xor edx, edx
    0f30            # wrmsr
    66b811000080    # mov eax, 80000011h
    0f22c0          # mov cr0, eax
    66ea004001000800  # jmp far 8:14000h
"""
LONG = """
    b818000000      # mov eax, 18h
    8ed0            # mov ss, eax
    bc00800000      # mov esp, 8000h
    0f011c2500070000  # lidt [700h]
    cc              # int3
    0f0b            # ud2
    b042            # mov al, 42h
    e6e9            # out E9h, al
    f4              # hlt
"""
BREAKPOINT = "e6e9 48cf"  # out E9h, al; iretq
UNDEFINED = "4883042402 e6ea 48cf"  # add qword [rsp], 2; out EAh, al; iretq


def assembled(text: str) -> bytes:
    """Bytes of a listing."""
    return bytes.fromhex("".join(line.split("#")[0] for line in text.splitlines()))


def test_from_reset_to_long_mode() -> None:
    bench = Bench("64")
    ram, cpu = bench.ram, bench.cpu
    bench.gate(3, K64, 0x15000)
    bench.gate(6, K64, 0x15100)
    reset(cpu)
    ram.write(0x1040, assembled(REAL))
    ram.write(0x14000, assembled(LONG))
    ram.write(0x15000, bytes.fromhex(BREAKPOINT))
    ram.write(0x15100, bytes.fromhex(UNDEFINED))
    ram.write(0x600, (0xFF).to_bytes(2, "little") + GDT.to_bytes(4, "little"))
    ram.write(0x700, (0xFFF).to_bytes(2, "little") + IDT.to_bytes(8, "little"))
    put_segment(cpu, "cs", 0x103, 0x1000, 0xFFFF, 0x9B)  # a paragraph with low bits set: no privilege level
    bench.st.rip = 0x40
    cpu.update_mode()
    exits = [cpu.run() for _ in range(4)]
    assert exits == [PortWrite(0xE9, 1, 0x18), PortWrite(0xEA, 1, 0x18), PortWrite(0xE9, 1, 0x42), Halted()]
    assert bench.st.efer == 0xD01  # LMA has followed
    assert bench.st.rsp == 0x8000
