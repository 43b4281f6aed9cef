"""From rows to one bootable image: a multiboot ELF32 for QEMU's -kernel and its like, and a disk with a boot sector of its own."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from behaviour.row import Row

HERE = Path(__file__).parent
TOOLS = ("as", "ld", "objcopy")
SEEN = (
    *"vector error rip cs rflags rsp ss cr2 handler_rsp handler_rflags handler_cs handler_ss count cr0".split(),
    *"rax rcx rdx rbx rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15 ds es fs gs extra".split(),
)  # fmt: skip
ROW = "NAME CODE SETUP AFTER CHECKS RSP RFLAGS NEEDS CHECK_COUNT MODE PAGING CS SS".split()
FEATURES = {  # name: CPUID leaf, subleaf, register (0-3), bit; AMD and Intel come before them
    "mwait": (1, 0, 2, 3), "pcid": (1, 0, 2, 17), "x2apic": (1, 0, 2, 21), "deadline": (1, 0, 2, 24), "xsave": (1, 0, 2, 26),
    "de": (1, 0, 3, 2), "vme": (1, 0, 3, 1), "sep": (1, 0, 3, 11), "fsgsbase": (7, 0, 1, 0), "smep": (7, 0, 1, 7),
    "invpcid": (7, 0, 1, 10), "smap": (7, 0, 1, 20), "umip": (7, 0, 2, 2), "pku": (7, 0, 2, 3), "la57": (7, 0, 2, 16),
    "rdpid": (7, 0, 2, 22), "1gb": (0x80000001, 0, 3, 26), "rdtscp": (0x80000001, 0, 3, 27), "nx": (0x80000001, 0, 3, 20),
    "bld": (7, 0, 2, 24), "avx": (1, 0, 2, 28), "cx16": (1, 0, 2, 13), "svm": (0x80000001, 0, 2, 2), "vmx": (1, 0, 2, 5),
    "misalignsse": (0x80000001, 0, 2, 7), "rdrand": (1, 0, 2, 30), "ffxsr": (0x80000001, 0, 3, 25),
}  # fmt: skip
_NEEDS = ("amd", "intel", *FEATURES)
_SEGMENTS = {  # kind: CS and SS at each CPL
    "long": (("K64", "KDATA"), ("C1_64", "D1"), ("C2_64", "D2"), ("U64", "UDATA")),
    "compat": (("K32", "KDATA"), ("C1_32", "D1"), ("C2_32", "D2"), ("U32", "UDATA")),
    "prot": (("K32", "KDATA"), ("C1_32", "D1"), ("C2_32", "D2"), ("U32", "UDATA")),
}
_MODES = {"long": 0, "compat": 0, "prot": 1, "v86": 2, "real": 3}
_BITS = {"long": 64, "compat": 32, "prot": 32, "v86": 16, "real": 16}


def missing_tools() -> str:
    """Which of the assembler's programs are not there, or ''."""
    return ", ".join(tool for tool in TOOLS if shutil.which(tool) is None)


def _fields() -> str:
    lines = [f"        .set    ROW_{name}, {8 * n}" for n, name in enumerate(ROW)]
    lines += [f"        .set    ROW_SIZE, {8 * len(ROW)}", f"        .set    SEEN_FIELDS, {len(SEEN)}"]
    lines += [f"        .set    FEATURE_COUNT, {len(_NEEDS)}", ".macro declare_seen"]
    lines += [f"seen_{name}: .quad 0" for name in SEEN]
    return "\n".join([*lines, ".endm\n"])


class _Writer:
    """The assembler source of the rows."""

    def __init__(self) -> None:
        self.code: list[str] = []
        self.table: list[str] = ["        .data", "        .balign 8", "rows:"]
        self.checks: list[str] = ["        .data", "        .balign 8"]
        self.strings: dict[str, str] = {}

    def string(self, text: str) -> str:
        return self.strings.setdefault(text, f"text_{len(self.strings)}")

    def add(self, n: int, row: Row) -> None:
        bits = _BITS[row.kind]
        section = ".section .low.text" if bits == 16 else ".section .user" if row.cpl == 3 else ".text"
        lines = row.code.strip("\n").split("\n")
        self._snippet(f"code_{n}", section, bits, [*lines[:-1], f"at_{n}:", lines[-1], f"behind_{n}:", "ud2"], n)
        kernel_bits = 32 if row.kind in ("prot", "v86", "real") else 64
        if row.setup:
            self._snippet(f"setup_{n}", ".text", kernel_bits, [row.setup, "ret"], n)
        if row.after:
            self._snippet(f"after_{n}", ".text", 64, [row.after, "ret"], n)
        values = row.expected.values()
        self.checks.append(f"checks_{n}:")
        for key, value in values.items():
            self._check(n, key, value)
        cs, ss = ("0", "0") if bits == 16 else _SEGMENTS[row.kind][row.cpl]
        stack = row.rsp or ("0xF000" if bits == 16 else "ustack" if row.cpl == 3 else "stack0")
        flags = f"({row.flags})|2" + ("|VM" if row.kind == "v86" else "")
        needs = sum(1 << _NEEDS.index(one) for one in row.needs)
        fields = (
            self.string(row.name), f"code_{n}", f"setup_{n}" if row.setup else 0, f"after_{n}" if row.after else 0, f"checks_{n}",
            stack, flags, needs, len(values), _MODES[row.kind], row.paging, cs, ss,
        )  # fmt: skip
        self.table.append("        .quad   " + ", ".join(map(str, fields)))

    def _snippet(self, label: str, section: str, bits: int, lines: list[str], n: int) -> None:
        self.code += [f"        {section}", f"        .code{bits}", f"        .set    BITS, {bits}", f"{label}:"]
        self.code += [_local(line, n) for line in lines]

    def _check(self, n: int, key: str, value: int | str) -> None:
        place, _, mask = key.partition("&")
        at = place[1:-1] if place.startswith("[") else f"seen_{place}"
        assert place.startswith("[") or place in SEEN, key
        what = _local(str(value), n)
        self.checks.append(f"        .quad   {_local(at, n)}, {mask or -1}, {what}, {self.string(key)}")

    def text(self, count: int) -> str:
        features = ["        .data", "        .balign 8", "feature_table:"]
        features += [f"        .long   {', '.join(map(str, one))}" for one in FEATURES.values()]
        strings = [f'{label}: .asciz "{text}"' for text, label in self.strings.items()]
        parts = [f"        .set    ROWS, {count}", *features, *self.table, *self.checks, *strings, *self.code]
        return "\n".join(parts) + "\n        .text\n        .code64\n"


def _local(text: str, n: int) -> str:
    return re.sub(r"@(at|behind|code|setup|here\w*)", rf"\1_{n}", text)


def source(rows: Sequence[Row]) -> str:
    """The rows in assembler."""
    writer = _Writer()
    for n, row in enumerate(rows):
        writer.add(n, row)
    return writer.text(len(rows))


def build(rows: Sequence[Row], folder: Path) -> Path:
    """The image of these rows, a multiboot ELF32; AssertionError with the assembler's message when a row is wrong."""
    (folder / "fields.inc").write_text(_fields())
    (folder / "rows.inc").write_text(source(rows))
    object_, wide, image = folder / "behaviour.o", folder / "behaviour.elf64", folder / "behaviour.elf"
    _tool("as", "--64", "-I", str(folder), "-I", str(HERE), "-o", str(object_), str(HERE / "kernel.S"))
    layout = ("-z", "max-page-size=4096", "--no-warn-rwx-segments", "-T", str(HERE / "behaviour.ld"))
    _tool("ld", "-m", "elf_x86_64", *layout, "-o", str(wide), str(object_))
    _tool("objcopy", "-S", "-O", "elf32-i386", str(wide), str(image))
    return image


def _tool(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stderr[:3000]}"


def only(image: Path, first: int, last: int, target: Path) -> Path:
    """The same image, told to run rows `first` up to `last`."""
    data = bytearray(image.read_bytes())
    at = data.index(b"\x02\xb0\xad\x1b") + 12
    assert data[at : at + 4] == b"ROWS"
    data[at + 4 : at + 12] = first.to_bytes(4, "little") + last.to_bytes(4, "little")
    target.write_bytes(data)
    return target


def disk(image: Path, target: Path) -> Path:
    """A hard disk that boots the image, for machines that cannot load it (10 MiB: 20 cylinders, 16 heads, 63 sectors)."""
    flat, sector = target.with_suffix(".flat"), target.with_suffix(".boot")
    _tool("objcopy", "-O", "binary", str(image), str(flat))
    data = flat.read_bytes()
    entry = int.from_bytes(image.read_bytes()[24:28], "little")
    symbols = (f"SECTORS={len(data) // 512 + 1}", f"ENTRY={entry}")
    definitions = [word for symbol in symbols for word in ("--defsym", symbol)]
    _tool("as", "--32", *definitions, "-o", str(sector) + ".o", str(HERE / "bootsector.S"))
    _tool("ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-o", str(sector), str(sector) + ".o")
    target.write_bytes((sector.read_bytes() + data).ljust(20 * 16 * 63 * 512, b"\0"))
    return target
