"""Takes what people and scripts type to QEMU's monitor: our command does it, or the answer is the word to use instead."""

import re

SAME = {
    "?": "help",
    "q": "quit",
    "system_reset": "reset",
    "system_powerdown": "power-button",
    "gva2gpa": "translate",
    "info cpus": "info vcpus",
    "info pic": "info irq",
    "info registers -a": "info registers",
}
"""QEMU's words, and the command of `monitor` that does the same; what follows is the same, too."""

_GDB = "gdb has it"
_SEE = "is not shown"
_FIXED = "the machine is what it was started with"
_ONE_STATE = "one state is kept, in the file of --save: 'monitor snapshot save' and 'monitor snapshot load'"
_NO_DISPLAY = "there is no display; 'monitor screen' shows text at b8000"
_NO_FILES = "no file of the host is read or written here"

OTHERS = {
    "info tlb": "'monitor info mem' shows what is mapped, 'monitor translate ADDRESS' where one address leads",
    "info pit": f"the state of devices {_SEE}",
    **dict.fromkeys(
        ("info mtree", "info qtree", "info qom-tree", "info pci", "info block", "info network", "info usb", "info chardev"),
        f"the devices are fixed: COM1 at 3f8, a debug console at e9, exit ports at f4 and 501, timers and APICs; {_FIXED}",
    ),
    "info version": "this is trapgate; 'trapgate --version' in a shell tells which",
    "info kvm": "--engine says which CPU it is, when trapgate is started",
    "info status": f"it stands while you can ask; {_GDB}: info threads",
    "info name": _FIXED,
    "info snapshots": _ONE_STATE,
    "info profile": "--profile, when trapgate is started",
    "info jit": "--profile, when trapgate is started",
    "info via": f"the state of devices {_SEE}",
    "info history": f"{_GDB}: show commands",
    "x": f"{_GDB}: x/FMT ADDRESS; physical memory: 'monitor physical ADDRESS LENGTH'",
    **dict.fromkeys(("p", "print"), f"{_GDB}: print/FMT EXPRESSION"),
    **dict.fromkeys(("s", "stop"), f"{_GDB}: Ctrl-C"),
    **dict.fromkeys(("c", "cont"), f"{_GDB}: continue"),
    "gpa2hva": "addresses of the host are not told; 'monitor physical ADDRESS' shows what is there",
    "gpa2hpa": "addresses of the host are not told; 'monitor physical ADDRESS' shows what is there",
    **dict.fromkeys(("i", "o", "inb", "outb"), "ports are the guest's: let it execute IN or OUT"),
    **dict.fromkeys(("memsave", "pmemsave"), f"{_NO_FILES}; gdb's: dump binary memory FILE START END"),
    "dump-guest-memory": f"{_NO_FILES}; gdb's: dump binary memory FILE START END",
    **dict.fromkeys(("savevm", "loadvm", "delvm", "migrate", "snapshot_blkdev"), _ONE_STATE),
    **dict.fromkeys(("screendump", "change", "vnc"), _NO_DISPLAY),
    **dict.fromkeys(("sendkey", "mouse_move", "mouse_button"), "there is no keyboard or mouse; COM1 is the guest's console"),
    **dict.fromkeys(("device_add", "device_del", "drive_add", "netdev_add", "object_add", "cpu", "balloon", "set"), _FIXED),
    **dict.fromkeys(("log", "logfile", "trace-event"), "--profile and --bus-locks report, when trapgate is started"),
    **dict.fromkeys(("singlestep", "one-insn-per-tb"), f"{_GDB}: stepi"),
    "gdbserver": "this is it",
    **dict.fromkeys(("nmi", "mce"), "no interrupt can be made from here"),
    "system_wakeup": "the machine does not sleep",
}
"""QEMU's other words, and what to do instead."""

_UNITS = {"b": 1, "h": 2, "w": 4, "g": 8}
_XP = re.compile(r"xp(?: ?/(?P<count>\d{0,4})(?P<form>[a-z]*))?(?: (?P<address>.*))?")


def ours(words: list[str]) -> list[str]:
    """A command line with QEMU's word in it as the command of here; any other as it is."""
    for theirs, word in SAME.items():
        own = theirs.split()
        if words[: len(own)] == own:
            return [*word.split(), *words[len(own) :]]
    match = _XP.fullmatch(" ".join(words))
    return words if match is None else _physical(**match.groupdict())


def _physical(count: str | None, form: str | None, address: str | None) -> list[str]:
    """xp /COUNT FORMAT UNIT ADDRESS: so many bytes."""
    if address is None or form is None:
        return ["physical", *(address or "").split()]
    unit = next((size for letter, size in _UNITS.items() if letter in form), 4)
    return ["physical", *address.split(), f"{int(count or 1) * unit:x}"]


def answer(words: list[str]) -> str | None:
    """What to say to a word of QEMU's that is none here; None to any other."""
    for count in (2, 1):
        said = " ".join(words[:count]).partition("/")[0]
        if said in OTHERS:
            return f"'{said}' is QEMU's: {OTHERS[said]}"
    return None
