"""Tells why an address leads where it does: the walk with its rights, or where it ends. `monitor pages`, and reasons of errors."""

from collections.abc import Iterator

from trapgate.arch.control import CR0_WP, CR4_SMAP, CR4_SMEP, EFER_NXE
from trapgate.arch.paging import NX, PCD, PWT, RW, US, A, D, G, Mode
from trapgate.arch.walk import Entry, Walk, walk
from trapgate.gdb.target import Target, TargetError

_BITS = (
    (RW, "writable"), (US, "user"), (NX, "no execute"), (PWT, "write-through"), (PCD, "uncached"), (A, "accessed"), (D, "dirty"),
    (G, "global"),
)  # fmt: skip
_LEAF_ONLY = D | G


def walked(target: Target, thread: int, address: int) -> Walk:
    """The walk of an address, by the registers of a thread."""

    def read(at: int, size: int) -> int | None:
        try:
            data = target.read_physical(at, size)
        except TargetError:
            return None
        return int.from_bytes(data, "little") if len(data) == size else None

    cr0, cr3, cr4, efer = (target.get_register(thread, name) or 0 for name in ("cr0", "cr3", "cr4", "efer"))
    return walk(read, address, cr0=cr0, cr3=cr3, cr4=cr4, efer=efer)


def reason(target: Target, thread: int, address: int) -> str:
    """Why nothing can be read at an address: one line."""
    found = walked(target, thread, address)
    if found.physical is None:
        return f"{address:#x} is not mapped: {found.why}"
    return f"{address:#x} is guest-physical {found.physical:#x}, where no RAM is"


def told(target: Target, thread: int, address: int) -> Iterator[str]:
    """The walk, an entry a line, and what may be done with the page, or why nothing."""
    found = walked(target, thread, address)
    if found.mode is Mode.NONE:
        yield f"paging is off: {address:#x} is guest-physical {found.physical:#x}"
        return
    yield f"CR3 {target.get_register(thread, 'cr3') or 0:x}"
    for entry in found.entries:
        yield _line(entry, leaf=found.physical is not None and entry is found.entries[-1])
    if found.physical is None:
        yield f"{address:#x} is not mapped: {found.why}"
        return
    yield f"{address:#x} is guest-physical {found.physical:#x}: {_rights(found)}"
    yield from _faults(target, thread, found)


def _line(entry: Entry, leaf: bool) -> str:
    if entry.value is None:
        return f"{entry.name:<6} at {entry.address:#x}: no RAM is there"
    value = entry.value
    words = [name for bit, name in _BITS if value & bit and (leaf or not bit & _LEAF_ONLY)]
    if leaf and entry.level > 1:
        words.append(f"a page of {'4 MiB or 2 MiB' if entry.level == 2 else '1 GiB'}")
    return f"{entry.name:<6} at {entry.address:#x}: {value:016x} " + (", ".join(words) if value & 1 else "not present")


def _granted(found: Walk) -> tuple[bool, bool, bool]:
    """(user, writable, executable) by all levels together; a PAE PDPTE has no rights."""
    values = [
        entry.value for entry in found.entries if entry.value is not None and not (found.mode is Mode.PAE and entry.level == 3)
    ]
    return all(v & US for v in values), all(v & RW for v in values), not any(v & NX for v in values)


def _rights(found: Walk) -> str:
    user, writable, executable = _granted(found)
    return ", ".join(("user" if user else "supervisor", "read and write" if writable else "read only",
                      "execute" if executable else "no execute"))  # fmt: skip


def _faults(target: Target, thread: int, found: Walk) -> Iterator[str]:
    """Which accesses raise #PF, and why (SDM vol. 3, 4.6)."""
    user, writable, executable = _granted(found)
    cr0, cr4, efer = (target.get_register(thread, name) or 0 for name in ("cr0", "cr4", "efer"))
    if not user:
        yield "at CPL 3 every access faults: an entry lacks U/S"
    if not writable:
        yield "stores fault: an entry lacks R/W" + ("" if cr0 & CR0_WP else "; at CPL 0 to 2 they do not, as CR0.WP is 0")
    if not executable:
        yield "fetches fault: an entry has XD" + ("" if efer & EFER_NXE else ", which is reserved while EFER.NXE is 0")
    if user and cr4 & CR4_SMEP:
        yield "at CPL 0 to 2 fetches fault: it is a user page, and CR4.SMEP is 1"
    if user and cr4 & CR4_SMAP:
        yield "at CPL 0 to 2 loads and stores fault while RFLAGS.AC is 0: it is a user page, and CR4.SMAP is 1"
