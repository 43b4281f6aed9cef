"""The whole state of a guest on either engine, to be compared or copied: registers, hidden parts of segments, RAM by pages."""

from hashlib import blake2b

from trapgate.arch.flags import AF
from trapgate.kvm import convert
from trapgate.kvm.cpu import KvmVcpu
from trapgate.kvm.registers import SELECTORS as NAMES
from trapgate.memory import PAGE_SIZE, Ram
from trapgate.soft.cpu import SoftVcpu

GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)), "rip", "rflags")
CONTROL = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "xcr0")
TABLES = ("gdt_base", "gdt_limit", "idt_base", "idt_limit")
DEBUG = ("dr0", "dr1", "dr2", "dr3", "dr6", "dr7")
MSRS = ("star", "lstar", "cstar", "sfmask", "k_gs_base")
SEGMENTS = tuple(NAMES)
ATTRIBUTES, UNUSABLE = 0xF0FF, 1 << 16
Hidden = tuple[int, int, int, int]  # selector, base, limit in bytes, attributes


def segment(vcpu: SoftVcpu | KvmVcpu, name: str) -> Hidden:
    """A segment register as the CPU holds it. Of an unusable one base and limit say nothing."""
    if isinstance(vcpu, KvmVcpu):
        one = getattr(vcpu.registers.system, NAMES[name])
        found = one.selector, one.base, one.limit, convert.attributes(one)
    else:
        st = vcpu.state
        words = (getattr(st, f"{name}_{part}") for part in ("selector", "base", "limit", "attributes"))
        selector, base, limit, attributes = words
        found = selector, base, limit, attributes & (ATTRIBUTES | UNUSABLE)
    return (found[0], 0, 0, UNUSABLE) if found[3] & UNUSABLE else found


def registers(vcpu: SoftVcpu | KvmVcpu) -> dict[str, int | Hidden]:
    """Every register but x87 and SSE, by name."""
    found: dict[str, int | Hidden] = {name: vcpu.get(name) for name in (*GENERAL, *CONTROL, *TABLES, *DEBUG, *MSRS)}
    return found | {name: segment(vcpu, name) for name in SEGMENTS}


def floating(vcpu: SoftVcpu | KvmVcpu) -> dict[str, int]:
    """x87 and SSE."""
    names = (*(f"st{n}" for n in range(8)), "fctrl", "fstat", "ftag", *(f"xmm{n}" for n in range(16)), "mxcsr")
    return {name: vcpu.get(name) for name in names}


def pages(ram: Ram) -> dict[int, bytes]:
    """A digest of every page that is not zero, by address: two RAMs are equal when these are."""
    empty = bytes(PAGE_SIZE)
    found = {}
    for start, end in ram.regions():
        for at in range(start, end, PAGE_SIZE):
            data = ram.read(at, PAGE_SIZE)
            if data != empty:
                found[at] = blake2b(data, digest_size=16).digest()
    return found


def differences(one: Ram, other: Ram) -> list[tuple[int, int, int]]:
    """(address, here, there) of every doubleword that differs."""
    here, there = pages(one), pages(other)
    found = []
    for page in sorted(here.keys() | there.keys()):
        if here.get(page) != there.get(page):
            words = ((at, one.read_int(at, 4), other.read_int(at, 4)) for at in range(page, page + PAGE_SIZE, 4))
            found += [word for word in words if word[1] != word[2]]
    return found


def left_open(here: int, there: int, stack: bool) -> bool:
    """Whether a doubleword may be either: AF left undefined, or the upper half of a pushed selector (SDM vol. 2, PUSH)."""
    return here ^ there == AF or (stack and (here ^ there) & 0xFFFF == 0)


def copy(source: SoftVcpu, target: KvmVcpu) -> None:
    """Give a vCPU on KVM the registers of one on the software CPU, which has not run yet; RAM is the caller's."""
    to = target.registers
    with to.together():
        for name in (*TABLES, "cr2", "cr3", "cr4", "efer", "cr0"):
            to.set(name, source.get(name))
        for name in SEGMENTS:
            st = source.state
            words = (int(getattr(st, f"{name}_{part}")) for part in ("selector", "base", "limit", "attributes"))
            selector, base, limit, attributes = words
            to.put_segment(name, selector, base, limit, attributes & (ATTRIBUTES | UNUSABLE))
    for name in (*GENERAL, *MSRS, *DEBUG):
        target.set(name, source.get(name))
