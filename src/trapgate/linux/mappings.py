"""Says what a process of a Linux guest has mapped at an address: which file, or its heap or stack; out of the guest's memory alone.

Since 6.1 the mappings of a process are a maple tree (Linux, include/linux/maple_tree.h): a node has pivots, the last address of
each of its slots but the last, and the low bits of what leads to a node say of which kind it is.
"""

import os
import struct

from trapgate.linux.kernel import Kernel, Memory
from trapgate.values import dataclass

FMODE_BACKING = 1 << 25  # include/linux/fs.h: a file of an overlay, which holds the path that the process used as well
VM_EXEC = 4  # include/linux/mm.h
MOST_VDSO = 1 << 20  # bytes: it has two pages
DEEPEST = 16  # nodes one below the other
MOST_PARTS = 512  # of a path
LONGEST_PART = 256
LONGEST_TYPE = 32
_NODE_BYTES = 256
_LEAF, _RANGE, _ALLOCATION = 1, 2, 3  # enum maple_type
_SLOTS = {_LEAF: 16, _RANGE: 16, _ALLOCATION: 10}  # MAPLE_RANGE64_SLOTS, MAPLE_ARANGE64_SLOTS
_KERNEL = 1 << 63  # pointers of the kernel's have this bit


@dataclass(frozen=True, slots=True)
class Mapping:
    """Addresses [start, end) of a process: a file's bytes from `offset` on, or "[heap]", "[stack]", "[vdso]", "[anonymous]" memory.

    `path` is the file's as the process sees it, in any characters, `filesystem` the type of that which holds its bytes, "" where
    there is no file. `executable`: code may run there.
    """

    start: int
    end: int
    offset: int
    path: str
    filesystem: str
    executable: bool = False


class Mappings:
    """The mappings of a kernel's processes. TypesError when this kernel has none of what is wanted."""

    def __init__(self, kernel: Kernel, memory: Memory) -> None:
        types = kernel.types
        self._memory = memory
        self._root = types.offset("mm_struct", "mm_mt.ma_root")
        wide, allocation = "mr64", "ma64"
        self._nodes = {
            kind: (types.offset("maple_node", f"{shape}.pivot"), types.offset("maple_node", f"{shape}.slot"), _SLOTS[kind])
            for kind, shape in ((_LEAF, wide), (_RANGE, wide), (_ALLOCATION, allocation))
        }
        self._at = {(structure, path): types.offset(structure, path) for structure, path in _MEMBERS}

    def at(self, mm: int, address: int) -> Mapping | None:
        """What a process has at an address, by its mm_struct; None: nothing."""
        area = self._area(mm, address)
        start, end = (self._get(area, "vm_area_struct", name) for name in ("vm_start", "vm_end")) if area else (None, None)
        if start is None or end is None or not start <= address < end:
            return None
        file = self._get(area, "vm_area_struct", "vm_file")
        executable = bool((self._get(area, "vm_area_struct", "vm_flags") or 0) & VM_EXEC)
        if not file:
            return Mapping(start, end, 0, self._unnamed(mm, start, end), "", executable)
        offset = (self._get(area, "vm_area_struct", "vm_pgoff") or 0) << 12
        return Mapping(start, end, offset, self._path(file), self._filesystem(file), executable)

    def vdso(self, mm: int) -> bytes:
        """The ELF image of the kernel's code in a process, whole, as the kernel keeps it; nothing where there is none."""
        image = self._get(mm, "mm_struct", "context.vdso_image")
        data, size = (self._get(image, "vdso_image", name) for name in ("data", "size")) if image else (None, None)
        return self._memory.read(data, min(size, MOST_VDSO)) if data and size else b""

    def _get(self, address: int, structure: str, path: str) -> int | None:
        return self._memory.word(address + self._at[structure, path])

    def _area(self, mm: int, address: int) -> int:
        """The vm_area_struct that an address may be in; 0: none."""
        entry = self._memory.word(mm + self._root) or 0
        if entry & 3 != 2:
            return 0  # not a node: a tree of one entry, or none
        for _ in range(DEEPEST):
            kind = entry >> 3 & 0xF
            data = self._memory.read(entry & -_NODE_BYTES, _NODE_BYTES)
            if kind not in self._nodes or len(data) < _NODE_BYTES:
                return 0
            pivots_at, slots_at, slots = self._nodes[kind]
            pivots = struct.unpack_from(f"<{slots - 1}Q", data, pivots_at)
            slot = next((n for n, last in enumerate(pivots) if address <= last or (n and not last)), slots - 1)
            entry = int.from_bytes(data[slots_at + 8 * slot :][:8], "little")
            if kind == _LEAF:
                return entry if entry >= _KERNEL else 0
        return 0

    def _unnamed(self, mm: int, start: int, end: int) -> str:
        brk, last = self._get(mm, "mm_struct", "start_brk") or 0, self._get(mm, "mm_struct", "brk") or 0
        if start < last and brk < end:
            return "[heap]"
        if start == self._get(mm, "mm_struct", "context.vdso"):
            return "[vdso]"
        return "[stack]" if start <= (self._get(mm, "mm_struct", "start_stack") or 0) < end else "[anonymous]"

    def _filesystem(self, file: int) -> str:
        """Of the file that holds the bytes: below an overlay, that which it is in there."""
        at: int | None = file
        for structure, path in _TO_NAME:
            at = self._get(at, structure, path) if at else None
        return self._memory.text(at, LONGEST_TYPE) if at else ""

    def _path(self, file: int) -> str:
        """From the file up to the root of the process's, over the places where filesystems are mounted."""
        place = file + self._at["file", "f_path"]
        if (self._memory.number(file + self._at["file", "f_mode"], 4) or 0) & FMODE_BACKING:
            place = file + self._at["backing_file", "user_path"]
        dentry, mounted = self._get(place, "path", "dentry"), self._get(place, "path", "mnt")
        parts: list[str] = []
        while dentry and mounted and len(parts) < MOST_PARTS:
            if dentry == self._get(mounted, "vfsmount", "mnt_root"):
                mount = mounted - self._at["mount", "mnt"]
                parent = self._get(mount, "mount", "mnt_parent")
                if not parent or parent == mount:
                    break
                dentry, mounted = self._get(mount, "mount", "mnt_mountpoint"), parent + self._at["mount", "mnt"]
                parts.append("")  # so that a circle of mounts ends, too
                continue
            above = self._get(dentry, "dentry", "d_parent")
            if above == dentry:
                break
            name = self._get(dentry, "dentry", "d_name.name")
            parts.append(os.fsdecode(self._memory.read(name, LONGEST_PART).partition(b"\0")[0]) if name else "")
            dentry = above
        return "/" + "/".join(part for part in reversed(parts) if part)


_MEMBERS = (
    *(("mm_struct", name) for name in ("start_brk", "brk", "start_stack", "context.vdso", "context.vdso_image")),
    *(("vm_area_struct", name) for name in ("vm_start", "vm_end", "vm_pgoff", "vm_file", "vm_flags")),
    *(("vdso_image", name) for name in ("data", "size")),
    *(("file", name) for name in ("f_path", "f_path.dentry", "f_mode")),
    ("backing_file", "user_path"),
    ("path", "dentry"),
    ("path", "mnt"),
    *(("dentry", name) for name in ("d_parent", "d_name.name", "d_sb")),
    ("super_block", "s_type"),
    ("file_system_type", "name"),
    ("vfsmount", "mnt_root"),
    *(("mount", name) for name in ("mnt_parent", "mnt_mountpoint", "mnt")),
)
_TO_NAME = (("file", "f_path.dentry"), ("dentry", "d_sb"), ("super_block", "s_type"), ("file_system_type", "name"))
