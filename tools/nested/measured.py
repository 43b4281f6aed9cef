"""The speed of the KVM engine in the nested machine, beside the inner QEMU's on the same KVM (`make test-kvm KVM=--bench`).

Its seconds are instructions that the emulated CPU has executed: how busy the host is has no part in the ratios.
"""

import shlex
from pathlib import Path

from bench.build import EMPTY, IMAGES, PORT_WRITES, build
from bench.report import write_section
from tools import linux_guest
from tools.guests.sources import GuestError
from tools.nested import emulator, inner_qemu, machine
from tools.nested.host_files import Files
from tools.nested.image import FOLDER, PLACE, Job, image, linux_guest_nodes
from trapgate.boot import cpio

SECTION = "kvm"
PAGE = PLACE / "docs" / "performance.md"
LONGEST = 1800  # s
MARK = f"<!-- bench: {SECTION} -->"
_TRAPGATE = f"{PLACE / '.venv/bin/trapgate'} run --engine kvm --memory"
_QEMU = f"{inner_qemu.START} -no-reboot -serial stdio -m"
_LINUX = "{kernel} --initrd {initrd} --append {append}"


def job(runs: int) -> Job:
    """Measure, and print the page's section."""
    options = {
        "--section": SECTION, "--runs": str(runs), "--markdown": "/tmp/page.md", "--trapgate-clear": "",
        "--trapgate": f"{_TRAPGATE} {{memory}} {{image}}", "--trapgate-linux": f"{_TRAPGATE} 256M {_LINUX}",
        "--qemu": f"{_QEMU} 64 -kernel {{image}}",
        "--qemu-linux": f"{_QEMU} 256 -kernel {{kernel}} -initrd {{initrd}} -append {{append}}",
    }  # fmt: skip
    words = [str(PLACE / ".venv/bin/python"), "bench/run.py", *(word for pair in options.items() for word in pair)]
    return Job("bench", ("/usr/bin/busybox", "sh", "-c", f"{shlex.join(words)} && /usr/bin/busybox cat /tmp/page.md"), LONGEST)


def measure(series: str, runs: int) -> str:
    """Measure and write the section into the page; the table. GuestError when it cannot be done."""
    lists, console = linux_guest.CACHE / "apt", FOLDER / "console-bench.log"
    qemu = emulator.qemu(FOLDER, lists)
    for guest in (EMPTY, PORT_WRITES):
        build(guest)
    kernel, initrd = image(series, [job(runs)], _extra(), "initrd-bench")
    initrd.write_bytes(initrd.read_bytes() + inner_qemu.archive(FOLDER, lists))
    text = ""
    words = machine.command(qemu, kernel, initrd, console)
    for record in machine.records(words, console, LONGEST + 600, LONGEST + 60):
        if "end" in record:
            text = str(record["output"])
    if MARK not in text:
        raise GuestError(f"nothing was measured: {(text.strip().splitlines() or ['it said nothing'])[-1]}")
    section = text.partition(MARK)[2].partition("<!--")[0].strip()
    write_section(PAGE, SECTION, section)
    return section


def _extra() -> list[cpio.Node]:
    """The harness with its guests, and Linux."""
    files = Files()
    files.tree(PLACE / "bench")
    files.tree(Path(IMAGES))
    return [*files.nodes(), *linux_guest_nodes()]
