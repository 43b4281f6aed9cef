"""Holds a translated instruction, not yet placed: machine code whose remaining holes depend on where it runs.

The `Builder` strings micro-ops (stencils) together for one instruction; `finish` lays them out, fills every hole that is known
already, and gives the `Template` that is copied for each occurrence of the same bytes in the same mode.
"""

from typing import NamedTuple

from iced_x86 import Instruction, MemorySizeExt, OpKind, Register

from trapgate.arch.alignment import alignment
from trapgate.arch.xstate import ALIGNMENT
from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.isa.native.mode import FLAT_SEGMENTS
from trapgate.isa.state import LAYOUT
from trapgate.soft.decode.layout import Layout, Layouts
from trapgate.soft.state.registers import GENERAL, SEGMENT_NAME

_ACCESSES = ("load.", "store.", "modify.", "lock.", "ref.")
TLB = LAYOUT["tlb"].offset


class Rip(NamedTuple):
    """A hole value relative to the instruction's own RIP."""

    by: int


class Exit(NamedTuple):
    """A way out of the block: a 32-bit branch at `at`, to RIP + `by`."""

    at: int
    by: int


Parameters = tuple[tuple[int, int, int, int], ...]
"""(offset in the guest bytes, kind, offset in the code, addend) of each; `isa.native.placing` says what they are."""


class Template(NamedTuple):
    """Code and what is left to fill when it is copied."""

    code: bytes
    rips: tuple[tuple[int, int], ...]  # 8-byte holes: (offset, addend to RIP)
    colds: tuple[tuple[int, str, int], ...]  # 4-byte branches: (offset, native function, offset to resume at)
    natives: tuple[tuple[int, str], ...]  # 4-byte branches straight to a native function
    exits: tuple[Exit, ...]
    ends: bool  # nothing behind it runs in this block
    python: tuple[int, ...] = ()  # offsets of the 4-byte numbers of Python-executed instructions
    reads_flags: bool = True  # the flags before it matter
    sets_flags: bool = False  # no flag from before it survives, but those it reads
    parameters: Parameters = ()  # constants that a copy takes from the guest's bytes

    @property
    def leaves(self) -> bool:
        """Whether native or Python code may see the state in its middle, and the flags from before it."""
        return bool(self.colds or self.natives or self.python)


class Builder:
    """Collects the micro-ops of one instruction."""

    def __init__(self, layouts: Layouts, mode: int, length: int, amd: bool = True, counting: bool = False) -> None:
        self.layouts, self.mode, self.length, self.amd = layouts, mode & ~modes.FLOATING, length, amd
        self._floating, self.asks_floating = mode & modes.FLOATING, False
        self.counting = counting  # instruction clock: repeated string instructions count their iterations
        self.code_size = modes.code_bits(mode)
        self.long = self.code_size == 64
        self.flat = self.long or bool(mode & modes.FLAT)
        self.stack_width = 64 if self.long else 32 if mode & modes.STACK32 else 16
        self.cpl = (mode & modes.CPL) >> modes.CPL_SHIFT
        self.step = bool(mode & modes.STEP)
        self.must_align = self.cpl == 3 and bool(mode & modes.AC)
        self.ops: list[tuple[str, dict[str, int | Rip | str]]] = []
        self.labels: dict[str, int] = {}
        self.ends = False
        self.fields: list[tuple[int, int, int]] = []  # constants in the code finished last: (offset, bytes, value)
        self.laid_out: Layout | None = None  # its layout
        self.direct_exits: list[int] = []  # RIP offsets of plain jumps out, in order, emitted behind everything
        table = s.TLB_USER if self.cpl == 3 else s.TLB_KERNEL_AC if mode & modes.AC else s.TLB_KERNEL
        base = TLB + table * s.TLB_BYTES
        self.common: dict[str, int | Rip | str] = {"RTLBR": base, "RTLBW": base + 8, "RTLBA": base + 24, "Qnext": Rip(length)}

    @property
    def floating(self) -> int:
        """The bits of the mode that say whether packed and floating instructions may run. Whoever asks depends on them."""
        self.asks_floating = True
        return self._floating

    # --- micro-ops

    def op(self, name: str, **holes: int | Rip | str) -> None:
        """Append a stencil with its holes. `TAKEN="label"` binds a branch to a label of this instruction."""
        assert name in self.layouts.library.stencils, f"no stencil {name}"
        if self.must_align and name.startswith(_ACCESSES):
            self._align(name)
        self.ops.append((name, holes))

    def _align(self, name: str) -> None:
        """#AC for the access that follows."""
        kind, _, last = name.rpartition(".")
        self.align(alignment(int(last) if kind.startswith("ref") else int(last) // 8, self.amd))

    def align(self, wanted: int) -> None:
        """#AC where alignment is checked and EA is not aligned to so many bytes."""
        if self.must_align and wanted > 1:
            self.ops.append((f"alignment.{wanted}", {}))

    def label(self, name: str) -> None:
        """A place that a micro-op of this instruction may branch to."""
        self.labels[name] = len(self.ops)

    def reg(self, register: int) -> int:
        """The state offset of a general register."""
        return GENERAL[register][0]

    # --- memory operands

    def address(self, i: Instruction, add: int = 0) -> None:
        """EA = the offset of the memory operand, without a segment: what LEA computes. `add` moves it (POP [RSP+n])."""
        self._address(i, segment=0, add=add)

    def address_without_index(self, i: Instruction) -> int:
        """EA = base and displacement of a memory operand whose index is a vector; the address size."""
        scalar = i.copy()
        scalar.memory_index = Register.NONE
        self.address(scalar)
        base = int(i.memory_base)
        return GENERAL[base][1] if base != Register.NONE else 8 * i.memory_displ_size

    def _address(self, i: Instruction, segment: int, add: int = 0) -> None:
        displacement = i.memory_displacement + add
        holes: dict[str, int | Rip | str] = {}
        based, end = ({"Rseg": segment}, ".seg") if segment else ({}, "")
        if i.is_ip_rel_memory_operand:
            self.op(f"ea.const{end}", Qaddress=Rip(displacement), **based)
            if int(i.memory_base) == Register.EIP:
                self.op("EA=cut32")
            return
        base, index = int(i.memory_base), int(i.memory_index)
        register = base if base != Register.NONE else index
        if register == Register.NONE:
            # iced-x86 has cut or sign-extended the displacement to the address size already
            self.op(f"ea.const{end}", Qaddress=displacement & ((1 << 64) - 1 if self.long else 0xFFFFFFFF), **based)
            return
        width = GENERAL[register][1]
        holes["Sdisp"] = _signed32(displacement, width)
        name = "ea"
        if base != Register.NONE:
            name += ".b"
            holes["R0"] = self.reg(base)
        if index != Register.NONE:
            name += f".i{i.memory_index_scale}"
            holes["R1"] = self.reg(index)
        if segment:
            self.with_base(name, str(width), width, segment, **holes)
        else:
            self.op(f"{name}.{width}", **holes)

    def with_base(self, form: str, end: str, width: int, base: int, **holes: int | Rip | str) -> None:
        """EA by a form for offsets of `width` bits, and a base of FS or GS added; AMD's CPUs look at the offset itself as well."""
        if self.amd and width == 64:
            self.op(f"{form}.{end}", **holes)
            self.op("based", Rseg=base)
        else:
            self.op(f"{form}.seg.{end}", Rseg=base, **holes)

    def memory(self, i: Instruction, size: int, write: bool = False, add: int = 0) -> None:
        """EA = the linear address of the memory operand of `size` bytes; outside flat segments limit and rights are checked."""
        segment = i.memory_segment
        if self.long:
            based = segment in (Register.FS, Register.GS)
            self._address(i, LAYOUT[f"{SEGMENT_NAME[segment]}_base"].offset if based else 0, add)
            return
        self._address(i, 0, add)
        self.segment(SEGMENT_NAME[segment], size, write)

    def area(self, i: Instruction, write: bool) -> None:
        """HOST = host address of an XSAVE area, as far as it is asked for."""
        self.memory(i, 0, write)
        self.aligned(ALIGNMENT)
        self.op(f"area.{'rw' if write else 'r'}")

    def unchecked(self, name: str, write: bool) -> bool:
        """Whether an offset into the segment is linear, or checked by nothing but the page walk."""
        return self.long or (self.flat and name not in ("fs", "gs") and not (write and name == "cs"))  # code is never written

    def segment(self, name: str, size: int, write: bool) -> None:
        """Legacy modes: EA, an offset into a segment, becomes linear. Nothing to do in 64-bit mode. `size` 0: an XSAVE area."""
        if self.unchecked(name, write):
            return
        base = LAYOUT[f"{name}_base"].offset
        check = s.SEGMENTS.index(name) | max(size - 1, 0) << 8 | write << 20
        self.op(
            f"segment.{'w' if write else 'r'}" if size else f"area.segment.{'rw' if write else 'r'}",
            Rseg=base, Rseglimit=LAYOUT[f"{name}_limit"].offset, Rsegattr=LAYOUT[f"{name}_attributes"].offset,
            Usize=max(size - 1, 0), Ucheck=check,
        )  # fmt: skip

    def linear(self, i: Instruction) -> None:
        """EA = the linear address of the memory operand, without any check."""
        name = SEGMENT_NAME[i.memory_segment]
        self._address(i, 0 if self.long and name not in ("fs", "gs") else LAYOUT[f"{name}_base"].offset)
        if not self.long:
            self.op("EA=cut32")

    def load(self, width: int) -> None:
        """T0 = memory at EA."""
        self.op(f"load.{width}")

    def store(self, width: int) -> None:
        """Memory at EA = T0."""
        self.op(f"store.{width}")

    def load_operand(self, i: Instruction, width: int) -> None:
        """T0 = the memory operand."""
        self.memory(i, width // 8)
        self.load(width)

    def selector(self, i: Instruction, n: int) -> None:
        """T0 = the low 16 bits of operand n, a register of any width or a word in memory."""
        if i.op_kind(n) == OpKind.REGISTER:
            self.op("mov.TR.16", R1=self.reg(i.op_register(n)))
        else:
            self.memory(i, 2)
            self.load(16)

    def ref(self, size: int, access: str, anywhere: bool = False) -> None:
        """HOST = host address of `size` bytes at EA; access `r`, `w`, `rw`, or `mmx`: a store into MMX state even if it faults.

        `anywhere`: where alignment is checked as well.
        """
        name = f"ref.{access}.{size}"
        if anywhere:
            self.ops.append((name, {}))
        else:
            self.op(name)

    def commit_ref(self) -> None:
        """Behind a form that wrote through HOST."""
        self.op("commit.ref")

    def aligned(self, size: int = 16) -> None:
        """#GP(0) unless EA is aligned."""
        self.op(f"aligned.{size}")

    # --- the stack

    def push(self, size: int) -> None:
        """Push T0."""
        self.store_pushed(size)
        self.move_stack(-size)

    def store_pushed(self, size: int) -> None:
        """Store T0 where a push would, the pointer does not move yet."""
        self.op(f"push_ea.{size}.{self.stack_width}")
        self.segment("ss", size, True)
        self.store(8 * size)

    def pop(self, size: int) -> None:
        """T0 = the top of the stack; the pointer does not move yet."""
        self.op(f"pop_ea.{self.stack_width}")
        self.segment("ss", size, False)
        self.load(8 * size)

    def move_stack(self, by: int) -> None:
        """RSP += by."""
        self.op(f"rsp_add.{self.stack_width}", Sby=by)

    # --- ends

    def python(self, i: Instruction | None = None) -> None:
        """Python executes this instruction."""
        self.op("python", Uop="python")
        self.ends = True

    def native(self, function: str) -> None:
        """A native function executes (the rest of) this instruction."""
        self.op(f"native.{function}")
        self.ends = True

    def numbered(self, function: str) -> None:
        """A native function executes the instruction and goes on behind this, or has Python execute all of it."""
        self.op(f"system.{function}", Uop="python")

    def load_segment(self, name: str) -> None:
        """A segment register = T0, by a native function or by Python. `segment_loaded` follows when the instruction is complete."""
        self.op("load_segment", Uop="python", Usegment=LAYOUT[f"{name}_base"].offset - LAYOUT["es_base"].offset)

    def segment_loaded(self, name: str, shadow: bool = False) -> None:
        """In 32- and 16-bit protected mode blocks know of segments: the mode is worked out anew. `shadow`: a load of SS has one."""
        if shadow and name == "ss":
            self.op("shadow.ss")
        if not self.long and not self.mode & modes.REAL and name in FLAT_SEGMENTS:
            self.native("segment_changed")
        else:
            self.end_if_counted()

    def end_if_counted(self) -> None:
        """Under the instruction clock the block ends here: Python may go on behind, where nothing must have been counted yet."""
        if self.counting:
            self.jump(self.length)

    def raises(self, function: str) -> None:
        """This instruction faults whenever it is reached."""
        self.op(function)
        self.ends = True

    def jump(self, by: int) -> None:
        """On at RIP + by."""
        self.direct_exits.append(by)
        self.ends = True

    def jump_indirect(self, transient: str, width: int) -> None:
        """On at a transient, cut to the operand size, after the checks of near branches."""
        self.op(f"{'canonical' if self.long else 'limit'}.{transient}")
        self.go(transient, width)

    def go(self, transient: str, width: int) -> None:
        """On at a transient that has been checked."""
        unknown = self.step or (self.code_size == 16 and width == 32)  # to the jump cache, which has 16 bits of such a target
        self.op(f"{'rip' if unknown else 'goto'}.{transient}.{width}")
        self.ends = True

    # --- layout

    def layout(self, dead: bool = False) -> Layout:
        """The micro-ops so far; `dead`: in the variants that store no flags, where there are any."""
        return self.layouts.of(tuple([name for name, _ in self.ops]), bool(self.labels), dead)

    def finish(self, dead: bool = False) -> Template:
        """Fill what is known already."""
        layout, ops, common = self.layout(dead), self.ops, self.common
        self.laid_out = layout
        code = bytearray(layout.code)
        rips: list[tuple[int, int]] = []
        exits: list[Exit] = []
        numbers: list[int] = []
        fields = self.fields = []
        for at, size, name, addend, number in layout.values:
            value = ops[number][1].get(name)
            if value is None:
                value = common[name]
            if isinstance(value, int):
                held = value + addend & (1 << 8 * size) - 1
                code[at : at + size] = held.to_bytes(size, "little")
                fields.append((at, size, held))
            elif isinstance(value, Rip):
                rips.append((at, value.by + addend))
            else:
                assert not addend
                numbers.append(at)
        for at, number in layout.branches:
            target = ops[number][1]["TAKEN"]
            if isinstance(target, Rip):
                exits.append(Exit(at, target.by))
            else:
                assert isinstance(target, str)
                code[at : at + 4] = (layout.starts[self.labels[target]] - at - 4).to_bytes(4, "little", signed=True)
        for by in self.direct_exits:
            exits.append(Exit(len(code) + 1, by))
            code += b"\xe9\0\0\0\0"
        return Template(
            bytes(code), tuple(rips), layout.colds, layout.natives, tuple(exits), self.ends, tuple(numbers),
            layout.reads_flags, layout.sets_flags,
        )  # fmt: skip


def _signed32(value: int, width: int) -> int:
    value &= (1 << width) - 1 if width < 64 else (1 << 64) - 1
    if width == 64:
        value = value - (1 << 64) if value >> 63 else value
    elif value >> 31:
        value -= 1 << 32
    assert -(1 << 31) <= value < 1 << 31, f"displacement {value:#x}"
    return value


def operand_width(i: Instruction, n: int) -> int:
    """Bits of operand n: of the register, of the memory operand, or of operand 0 for immediates."""
    kind = i.op_kind(n)
    if kind == OpKind.REGISTER:
        return GENERAL[i.op_register(n)][1]
    if kind == OpKind.MEMORY:
        return 8 * MemorySizeExt.size(i.memory_size)
    return operand_width(i, 0)
