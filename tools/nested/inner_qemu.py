"""The QEMU that runs in the nested machine, on its KVM: the one of `emulator`, with no more than a bare guest takes."""

import re
from pathlib import Path

from tools.guests.sources import GuestError, output_of
from tools.nested import emulator
from tools.nested.host_files import Files
from trapgate.boot import cpio

PLACE = "nested/qemu"
PROGRAM = "qemu-system-x86_64-microvm"
FIRMWARE = ("bios-microvm.bin", "pvh.bin", "linuxboot_dma.bin")
START = (
    f"/{PLACE}/ld.so --library-path /{PLACE}/lib /{PLACE}/{PROGRAM} -L /{PLACE}/share -accel kvm -cpu host -M microvm,rtc=on "
    "-nodefaults -no-user-config -display none"
)
COMMAND = f"{START} -m 16 -S -gdb tcp:127.0.0.1:{{port}} -kernel {{image}}"


def archive(folder: Path, lists: Path) -> bytes:
    """The archive with program, libraries and firmware. `folder`: where QEMU is unpacked. GuestError when it cannot be had."""
    loader, _, libraries, *_ = emulator.unpacked(folder, lists)
    root = folder / f"qemu-{emulator.SOURCE.suite}"
    program = root / "usr/bin" / PROGRAM
    files = Files()
    files.put(cpio.program(f"{PLACE}/{PROGRAM}", program.read_bytes()))
    files.put(cpio.program(f"{PLACE}/ld.so", Path(loader).read_bytes()))
    for name, path in re.findall(r"(\S+) => (\S+) \(0x", output_of(loader, "--library-path", libraries, "--list", str(program))):
        files.put(cpio.program(f"{PLACE}/lib/{Path(name).name}", Path(path).read_bytes()))
    for name in FIRMWARE:
        found = [path for place in emulator.DATA if (path := root / place / name).is_file()]
        if not found:
            raise GuestError(f"{root} has no {name}: delete it and try again")
        files.put(cpio.file(f"{PLACE}/share/{name}", found[0].read_bytes()))
    return cpio.archive(files.nodes())
