"""Every stencil that is no host instruction of its own: compiled and run natively, against the evaluator, to the last bit.

A stencil runs between two pieces of native code: `resume` fetches the transients from the state and jumps to it, and whatever it
jumps to is a stub that notes which exit it is and leaves through `leave_instruction`, which saves the transients.
"""

import ctypes
import mmap
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import pytest

from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.isa.evaluate import Ending, Host, evaluate
from trapgate.isa.facts import COMPUTED, Facts, every_operation, facts
from trapgate.isa.families import arith, bits, branch, memory, move, shift, stack, string, system
from trapgate.isa.forms import Form
from trapgate.isa.state import GENERAL, LAYOUT, STATE_BYTES, offset
from trapgate.isa.vocabulary import TRANSIENTS, Trace
from trapgate.soft.decode.layout import Layouts
from trapgate.soft.decode.template import Builder, Rip
from trapgate.soft.state.codebuffer import CodeBuffer
from trapgate.stencil.cache import Cache
from trapgate.stencil.library import load_library

QUICK, LONG = 24, 300
FAMILIES = (arith, bits, branch, memory, move, shift, stack, string, system)
FRONT = offset("tlb_flags")  # what is compared after every case; the tables behind it after every form
PAGES = 0x7F0012345000, 0xFFFF8000_00ABC000  # guest-virtual pages in the TLB, in different slots
EDGES = [0, 1, 2, 0xFF, 0xFFFF, 0xFFFFFFFF, *((1 << bit) + by for bit in (7, 15, 31, 63) for by in (-1, 0, 1))]
OPERANDS = {"Rseg": "fs_base", "Rseglimit": "ds_limit", "Rsegattr": "ds_attributes"}
MASKS = {"request": 1, "pending_debug": 1, "irq_waiting": 1, "flag_aux": 0xFF0F}
SMALL = {"Ucount": 63, "Usize": 511}  # LLVM adds them as signed 32 bits, whatever their range says; they never get near
MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Outcome:
    """What one run leaves behind besides the state and memory."""

    ending: Ending
    transients: dict[str, int]


class Bench:
    """Two of everything, at the same addresses: what the stencil works on, and the copies for the evaluator."""

    def __init__(self) -> None:
        self.code = CodeBuffer(load_library(Cache()), 64 << 20)
        self.first = self.code.first
        self.native = mmap.mmap(-1, STATE_BYTES + 4095 & ~4095)
        self.ram = mmap.mmap(-1, 2 * 4096)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.native))
        self.ram_address = ctypes.addressof(ctypes.c_char.from_buffer(self.ram))
        self.enter = self.code.enter()
        self.exits: list[str] = []
        self.stubs: dict[str, int] = {}
        self._put("guest_mxcsr", 0x1F80)
        self._put("mode", modes.CODE64)
        tables = offset("tlb"), offset("tlb") + 3 * s.TLB_BYTES
        self.native[slice(*tables)] = b"\xff" * (3 * s.TLB_BYTES)  # TLB_INVALID
        for n, name in enumerate(GENERAL):  # what a form writes in part
            self._put(name, 0x0123456789ABCDEF * (n + 3) & MASK)
        for n, page in enumerate(PAGES):
            entry = offset("tlb") + (page >> 12) % s.TLB_ENTRIES * s.TLB_ENTRY_BYTES
            for at, tag in ((0, page), (8, page), (24, self.ram_address + 4096 * n - page & MASK)):
                self.native[entry + at : entry + at + 8] = tag.to_bytes(8, "little")
        self._put("saved_RESUME", self.stub("NEXT"))
        self.enter(self.address, self.code.entries["resume"])  # the host's own MXCSR is in the state from here on
        self.host = Host(bytearray(self.native), self.address, [(self.ram_address, bytearray(self.ram))])

    def _put(self, name: str, value: int) -> None:
        field = LAYOUT[name]
        self.native[field.offset : field.offset + field.size] = value.to_bytes(field.size, "little")

    def _get(self, name: str) -> int:
        field = LAYOUT[name]
        return int.from_bytes(self.native[field.offset : field.offset + field.size], "little")

    def put(self, at: int, size: int, value: int) -> None:
        """Bytes of both states."""
        self.native[at : at + size] = self.host.state[at : at + size] = value.to_bytes(size, "little")

    def stub(self, exit_name: str) -> int:
        """The address of code that notes this exit and leaves."""
        if exit_name not in self.stubs:
            number = len(self.exits)
            self.exits.append(exit_name)
            note = offset("scratch").to_bytes(4, "little") + number.to_bytes(4, "little")
            code = b"\x41\xc7\x84\x24" + note  # mov dword [r12 + scratch], number: R12 holds the CPU state at every seam
            behind = self.code.base + self.code.first + len(code) + 5
            code += b"\xe9" + self._distance(behind, self.code.entries["leave_instruction"])
            self.stubs[exit_name] = self.code.append(code)
        return self.stubs[exit_name]

    @staticmethod
    def _distance(source: int, target: int) -> bytes:
        return (target - source).to_bytes(4, "little", signed=True)

    def place(self, name: str, holes: dict[str, int]) -> int:
        """The address of a copy of a stencil, its holes filled and its exits bound to stubs."""
        builder = Builder(Layouts(self.code.library), modes.CODE64, 1)
        builder.op(name, TAKEN=Rip(0), **holes)
        template = builder.finish()
        code = bytearray(template.code) + b"\xe9\0\0\0\0"
        ways = [(at, f"COLD_{function}") for at, function, _ in template.colds] + list(template.natives)
        ways += [(way.at, "TAKEN") for way in template.exits] + [(len(code) - 4, "NEXT")]
        targets = [(at, self.stub(way)) for at, way in ways]
        base = self.code.base + self.code.first
        for at, target in targets:
            code[at : at + 4] = self._distance(base + at + 4, target)
        assert not template.rips
        return self.code.append(code)

    def run(self, at: int, transients: dict[str, int]) -> Outcome:
        """Run placed code."""
        for name, value in transients.items():
            self._put(f"saved_{name}", value)
        self.enter(self.address, self.code.entries["resume"])
        way = self.exits[self._get("scratch") & 0xFFFFFFFF]
        saved = {name: self._get(f"saved_{name}") for name in TRANSIENTS}
        for name in ("exit_reason", "scratch", *(f"saved_{name}" for name in TRANSIENTS)):  # what the bench itself has changed
            field = LAYOUT[name]
            self.native[field.offset : field.offset + field.size] = self.host.state[field.offset : field.offset + field.size]
        ending = Ending("jump_to", value=self.stubs["computed"]) if way == "computed" else Ending("jump", way)
        return Outcome(ending, saved)


@pytest.fixture(scope="module")
def bench() -> Bench:
    """One bench for all forms."""
    return Bench()


def number(rng: random.Random) -> int:
    """A 64-bit operand: an edge, near an edge, small, random, or an address in a mapped page."""
    match rng.randrange(6):
        case 0:
            return rng.choice(EDGES)
        case 1:
            return -rng.choice(EDGES) & MASK
        case 2:
            return rng.randrange(80)
        case 3:
            return guest_address(rng)
        case _:
            return rng.getrandbits(64)


def guest_address(rng: random.Random) -> int:
    """An address in a mapped page, often at its end."""
    return rng.choice(PAGES) + (4096 - rng.randrange(1, 20) if rng.random() < 0.3 else rng.randrange(4096))


LIKELY: dict[str, Callable[[random.Random], int]] = {
    "rdx": lambda rng: rng.choice((0, 1, MASK)),  # or else hardly any quotient fits
    "rcx": lambda rng: rng.choice((0, 1, rng.randrange(80))),
    "flag_result": lambda rng: 0,
    "rsi": guest_address,
    "rdi": guest_address,
    "rflags": lambda rng: 2,
}


def narrow_operands(trace: Trace) -> set[str]:
    """The register holes of a trace that stand for bytes only: AH, CH, DH and BH fit them, too."""
    widest: dict[str, int] = {}
    for value in every_operation(trace):
        if value.op in ("get", "put"):
            width = value.width or value.args[0].width
            widest[value.attr] = max(width, widest.get(value.attr, 0))
    return {name for name, width in widest.items() if width == 8}


def choose_holes(trace: Trace, rng: random.Random) -> dict[str, int]:
    """A value for every hole."""
    holes: dict[str, int] = {"RTLBR": offset("tlb"), "RTLBW": offset("tlb") + 8, "RTLBA": offset("tlb") + 24}
    bytes_only = narrow_operands(trace)
    for value in every_operation(trace):
        name = value.attr
        if value.op not in ("hole", "get", "put", "get_at", "put_at", "address_of") or name in LAYOUT or name in holes:
            continue
        plain = number(rng)
        if name[0] == "R":
            register = rng.choice(GENERAL)
            high = name in bytes_only and register in ("rax", "rcx", "rdx", "rbx") and rng.random() < 0.5
            holes[name] = offset(OPERANDS.get(name, register)) + high
        elif name[0] == "S":
            holes[name] = (plain & 0xFFFFFFFF) - (1 << 32) * (plain >> 31 & 1)
        else:
            holes[name] = plain & SMALL.get(name, {"B": 0xFF, "U": 0xFFFFFFFF, "Q": MASK}[name[0]])
    return holes


def inputs(seen: Facts, holes: dict[str, int]) -> list[tuple[str, int, int]]:
    """(name, offset, size) of what a form reads in the CPU state and a case may choose."""
    fixed = ("mode", "jumps", "guest_mxcsr", "RTLBR", "RTLBW", "RTLBA")
    found = [(name, holes[name] & ~7, 8) for name in seen.reads & holes.keys()]
    found += [(name, LAYOUT[name].offset, LAYOUT[name].size) for name in seen.reads & LAYOUT.keys()]
    return sorted(one for one in found if one[0] not in fixed)


def prepare(bench: Bench, seen: Facts, holes: dict[str, int], rng: random.Random) -> dict[str, int]:
    """Fill what a form reads, on both sides; the transients to enter with."""
    one = number(rng) if rng.random() < 0.15 else None  # equal operands
    for name, at, size in inputs(seen, holes):
        value = number(rng) if one is None else one
        if name in LIKELY and rng.random() < 0.5:
            value = LIKELY[name](rng)
        bench.put(at, size, value & (1 << 8 * size) - 1 & MASKS.get(name, MASK))
    transients = {name: number(rng) for name in TRANSIENTS}
    if rng.random() < 0.7:
        transients["EA"] = guest_address(rng)
    bounce = rng.random() < 0.3
    transients["HOST"] = bench.address + offset("bounce") if bounce else bench.ram_address + rng.randrange(2 * 4096 - 16)
    if COMPUTED in seen.jumps:  # half of the jump cache knows the target
        target = rng.choice([transients["T0"], transients["T2"], holes.get("Qtarget", 0)]) & (1 << rng.choice((16, 32, 48))) - 1
        tag = target | modes.CODE64 << 48
        known = [tag.to_bytes(8, "little"), bytes(8)]
        stub = bench.stub("computed").to_bytes(8, "little")
        jumps = b"".join(rng.choice(known) + stub for _ in range(2 * s.JUMP_ENTRIES))
        for memory_ in (bench.native, bench.host.state):
            memory_[offset("jumps") : offset("jumps") + len(jumps)] = jumps
    return transients


def differences(bench: Bench, native: Outcome, plain: Outcome) -> Iterator[str]:
    """What a stencil did otherwise than the evaluator."""
    if native.ending != plain.ending:
        yield f"ended at {native.ending}, not {plain.ending}"
    for name in TRANSIENTS:
        if native.transients[name] != plain.transients[name]:
            yield f"{name} = {native.transients[name]:#x}, not {plain.transients[name]:#x}"
    if bench.native[:FRONT] != bench.host.state[:FRONT]:
        for field in LAYOUT.values():
            at, end = field.offset, field.offset + field.size
            if bench.native[at:end] != bench.host.state[at:end]:
                yield f"{field.name} = {bench.native[at:end].hex()}, not {bench.host.state[at:end].hex()} (little-endian)"
    if bench.ram[:] != bench.host.regions[0][1]:
        yield "guest memory"


def compare(bench: Bench, form: Form, count: int) -> set[str]:
    """Run a form `count` times both ways; where it ended."""
    endings: set[str] = set()
    rng = random.Random(f"{form.name} {count}")
    trace = form.trace()
    seen = facts(trace)
    for _ in range(count):
        holes = choose_holes(trace, rng)
        transients = prepare(bench, seen, holes, rng)
        transients["RESUME"] = at = bench.place(form.name, holes)
        before = {name: hex(bench.host.load(bench.address + at, size)) for name, at, size in inputs(seen, holes)}
        native = bench.run(at, transients)
        after = dict(transients)
        plain = Outcome(evaluate(trace, bench.host, after, holes), after)
        found = list(differences(bench, native, plain))
        endings.add(plain.ending.target or COMPUTED)
        assert not found, f"{form.name} {holes} {transients} {before}: {'; '.join(found)}"
    assert bench.native[:STATE_BYTES] == bench.host.state[:STATE_BYTES], f"{form.name} changed a table"
    bench.code.first = bench.first
    bench.stubs.clear()
    bench.exits.clear()
    return endings


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__.rpartition(".")[2])
@pytest.mark.parametrize("count", [QUICK, pytest.param(LONG, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
def test_stencils_do_what_the_evaluator_does(bench: Bench, family: ModuleType, count: int) -> None:
    reached, possible = set[str](), set[str]()
    for form in family.forms():
        endings = compare(bench, form, count)
        jumps = facts(form.trace()).jumps
        assert endings <= jumps
        reached |= endings
        possible |= jumps
    assert reached == possible


def test_the_families_of_integers_are_compared_whole() -> None:
    assert not [form.name for family in FAMILIES for form in family.forms() if facts(form.trace()).opaque]
