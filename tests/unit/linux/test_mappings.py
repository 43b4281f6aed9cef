"""Mappings of processes out of a pretend kernel's memory, whole and broken."""

import struct
from types import SimpleNamespace
from typing import Any, cast

import pytest

from trapgate.linux.btf import Types
from trapgate.linux.mappings import FMODE_BACKING, Mapping, Mappings
from unit.linux.types import Btf

BASE = 0xFFFF_8880_0000_0000
MM, ROOT, LEAF, AREAS, FILES, DENTRIES, MOUNTS, SUPER, TYPE, NAMES = (BASE + 0x1000 * n for n in range(1, 11))
LAYOUT = {
    "vm_area_struct": {"vm_start": 0, "vm_end": 8, "vm_pgoff": 16, "vm_file": 24, "vm_flags": 32},
    "super_block": {"s_type": 8},
    "file_system_type": {"name": 16},
    "vdso_image": {"data": 0, "size": 8},
}
PAGE = 0x1000


class Ram:
    """The kernel's memory: what was put there, zeros elsewhere, nothing below `BASE`."""

    def __init__(self) -> None:
        self.data = bytearray(0x10000)

    def put(self, at: int, value: int, size: int = 8) -> None:
        self.data[at - BASE : at - BASE + size] = value.to_bytes(size, "little")

    def read(self, at: int, length: int) -> bytes:
        return bytes(self.data[at - BASE : at - BASE + length]) if BASE <= at < BASE + len(self.data) else b""

    def number(self, at: int, size: int) -> int | None:
        data = self.read(at, size)
        return int.from_bytes(data, "little") if len(data) == size else None

    def word(self, at: int) -> int | None:
        return self.number(at, 8)

    def text(self, at: int, most: int) -> str:
        return self.read(at, most).partition(b"\0")[0].decode()


def types() -> Types:
    btf = Btf()
    word = btf.integer("long", 8)
    for name, members in LAYOUT.items():
        btf.structure(name, [(member, word, 8 * at) for member, at in members.items()])
    tree = btf.structure("maple_tree", [("ma_root", word, 8 * 8)])
    ends = [("start_brk", word, 0), ("brk", word, 8 * 8), ("start_stack", word, 8 * 16)]
    context = btf.structure("mm_context", [("vdso", word, 0), ("vdso_image", word, 8 * 8)])
    btf.structure("mm_struct", [*ends, ("context", context, 8 * 40), ("mm_mt", tree, 8 * 64)])
    wide = btf.structure("maple_range_64", [("pivot", word, 8 * 8), ("slot", word, 8 * 128)])
    allocation = btf.structure("maple_arange_64", [("pivot", word, 8 * 8), ("slot", word, 8 * 80)])
    btf.structure("maple_node", [("mr64", wide, 0), ("ma64", allocation, 0)])
    path = btf.structure("path", [("mnt", word, 0), ("dentry", word, 8 * 8)])
    file = btf.structure("file", [("f_mode", word, 0), ("f_path", path, 8 * 8)])
    btf.structure("backing_file", [("file", file, 0), ("user_path", path, 8 * 32)])
    text = btf.structure("qstr", [("name", word, 8 * 8)])
    btf.structure("dentry", [("d_parent", word, 0), ("d_name", text, 8 * 8), ("d_sb", word, 8 * 24)])
    inner = btf.structure("vfsmount", [("mnt_root", word, 8 * 8)])
    btf.structure("mount", [("mnt_parent", word, 0), ("mnt_mountpoint", word, 8 * 8), ("mnt", inner, 8 * 16)])
    return Types(btf.data())


class Process:
    """A process with areas of (start, end, file), in a tree of one leaf below an allocation node."""

    def __init__(self, areas: list[tuple[int, int, int]]) -> None:
        self.ram = Ram()
        put = self.ram.put
        put(MM + 72, ROOT | 3 << 3 | 4 | 2)
        put(ROOT + 8, (1 << 64) - 1)
        put(ROOT + 80, LEAF | 1 << 3 | 4)
        pivots, slots, last = [], [], 0
        for number, (start, end, file) in enumerate(areas):
            at = AREAS + 64 * number
            self.ram.data[at - BASE : at - BASE + 32] = struct.pack("<4Q", start, end, number, file)
            if start > last:
                pivots.append(start - 1)
                slots.append(0)
            pivots.append(end - 1)
            slots.append(at)
            last = end
        for number, (pivot, slot) in enumerate(zip(pivots, slots, strict=True)):
            put(LEAF + 8 + 8 * number, pivot)
            put(LEAF + 128 + 8 * number, slot)

    def dentry(self, number: int, name: str, parent: int, filesystem: str = "") -> int:
        at = DENTRIES + 64 * number
        text = NAMES + 32 * number
        self.ram.data[text - BASE : text - BASE + len(name)] = name.encode()
        for offset, value in ((0, parent or at), (16, text), (24, SUPER + 64 * number)):
            self.ram.put(at + offset, value)
        if filesystem:
            kind, place = TYPE + 64 * number, NAMES + 0x800 + 32 * number
            self.ram.data[place - BASE : place - BASE + len(filesystem)] = filesystem.encode()
            self.ram.put(SUPER + 64 * number + 8, kind)
            self.ram.put(kind + 16, place)
        return at

    def mount(self, number: int, root: int, parent: int = 0, place: int = 0) -> int:
        """The address of its vfsmount."""
        at = MOUNTS + 64 * number
        for offset, value in ((0, parent - 16 if parent else at), (8, place), (24, root)):
            self.ram.put(at + offset, value)
        return at + 16

    def file(self, number: int, dentry: int, mounted: int, used: tuple[int, int] | None = None) -> int:
        at = FILES + 64 * number
        self.ram.put(at, FMODE_BACKING if used else 0)
        self.ram.data[at + 8 - BASE : at + 24 - BASE] = struct.pack("<2Q", mounted, dentry)
        if used:
            self.ram.data[at + 32 - BASE : at + 48 - BASE] = struct.pack("<2Q", used[1], used[0])
        return at

    def at(self, address: int) -> Mapping | None:
        return Mappings(cast(Any, SimpleNamespace(types=types())), cast(Any, self.ram)).at(MM, address)


def test_a_file_by_the_path_that_the_process_uses() -> None:
    process = Process([(0x40_0000, 0x40_2000, FILES), (0x40_2000, 0x40_3000, FILES + 64)])
    root = process.dentry(0, "", 0)
    mounted = process.mount(0, root)
    tmp = process.dentry(1, "tmp", root)
    inner = process.dentry(2, "/", 0, "tmpfs")
    below = process.mount(1, inner, mounted, tmp)
    process.file(0, process.dentry(3, "locker", inner, "tmpfs"), below)
    real = process.dentry(4, "real", 0, "virtiofs")
    process.file(1, real, process.mount(2, 0), (process.dentry(5, "seen", tmp), mounted))
    assert process.at(0x40_1FFF) == Mapping(0x40_0000, 0x40_2000, 0, "/tmp/locker", "tmpfs")
    assert process.at(0x40_2000) == Mapping(0x40_2000, 0x40_3000, PAGE, "/tmp/seen", "virtiofs")


def test_memory_without_a_file() -> None:
    process = Process([(0x1000, 0x3000, 0), (0x5000, 0x6000, 0), (0x8000, 0x9000, 0)])
    for offset, value in ((0, 0x1000), (8, 0x2800), (16, 0x8FF0)):
        process.ram.put(MM + offset, value)
    names = [None if (found := process.at(address)) is None else found.path for address in (0x2000, 0x3000, 0x5000, 0x8000, 0x9000)]
    assert names == ["[heap]", None, "[anonymous]", "[stack]", None]


@pytest.mark.parametrize("root", [0, 2, AREAS, ROOT | 9 << 3 | 2, 0x1000 | 1 << 3 | 2])
def test_trees_that_are_none(root: int) -> None:
    process = Process([(0x1000, 0x2000, 0)])
    process.ram.put(MM + 72, root)
    assert process.at(0x1000) is None


def test_a_tree_that_leads_to_itself_ends() -> None:
    process = Process([(0x1000, 0x2000, 0)])
    process.ram.put(ROOT + 80, ROOT | 3 << 3 | 4)
    assert process.at(0x1000) is None


def test_a_circle_of_directories_ends() -> None:
    process = Process([(0x1000, 0x2000, FILES)])
    first = process.dentry(0, "a", DENTRIES + 64)
    process.file(0, process.dentry(1, "b", first), process.mount(0, 0))
    found = process.at(0x1000)
    assert found is not None
    assert found.path.startswith("/")
