"""`trapgate check` of the monitors that can be had here, one line each (`make check-others`).

On this host trapgate's software CPU and QEMU's TCG; in the nested machine of `make test-kvm`, on Linux's kvm_amd, QEMU/KVM and
trapgate's KVM engine. What each row got stays in build/check as JSON. Exit status 1 when a monitor could not be run, or when
the software CPU is wrong.
"""

import json
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import click
from rich import box
from rich.console import Console
from rich.table import Table

from tools import linux_guest
from tools.guests.packages import keep
from tools.guests.sources import GuestError
from tools.nested import emulator, inner_qemu, machine
from tools.nested.image import FOLDER, PLACE, Job, image
from trapgate.check.guest import NEEDS_BUS_LOCK, DemoGuest
from trapgate.check.manners import BY_NAME, MANNERS, Manner

RESULTS = PLACE / "build" / "check"
TRAPGATE = str(PLACE / ".venv" / "bin" / "trapgate")
SERIES = "6.1"
LONGEST = 1500  # s for a manner in the nested machine
PATIENCE = 60  # s for a case there
JSON = '{\n "monitor"'  # how it begins
TCG = " -accel tcg -cpu max -m 16 -nodefaults -display none -S -gdb tcp:127.0.0.1:{port} -kernel {image}"
OURS = f"{TRAPGATE} run {{image}} --gdb :{{port}} --wait"


@dataclass(slots=True)
class Outcome:
    """What `trapgate check` found of a monitor: its rows, or why there are none."""

    name: str
    ours: bool = False
    rows: list[dict[str, object]] = field(default_factory=list)
    trouble: str = ""

    def read(self, text: str) -> None:
        """Take the rows of a check's JSON, which may have the table before it."""
        try:
            self.rows += json.loads(text[max(text.find(JSON), 0) :])["rows"]
        except (ValueError, KeyError):
            self.trouble = (text.strip().splitlines() or ["it said nothing"])[-1]

    def keep(self, slug: str) -> None:
        """Leave the rows in a file."""
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{slug}.json").write_text(json.dumps({"monitor": self.name, "rows": self.rows}, indent=1) + "\n")

    def count(self, manner: str) -> Counter[str]:
        """States of the rows in a manner."""
        return Counter(str(row["state"]) for row in self.rows if row["manner"] == manner)


def here(name: str, slug: str, command: str, *, ours: bool = False) -> Outcome:
    """Check a monitor on this host."""
    outcome = Outcome(name, ours)
    words = [TRAPGATE, "check", "--spawn", command, "--json", "/dev/stderr"]
    done = subprocess.run(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL, check=False
    )
    outcome.read(done.stderr)
    outcome.keep(slug)
    return outcome


def tcg(qemu: list[str]) -> Outcome:
    """Check a QEMU's TCG, by the words that start it."""
    version = ".".join(map(str, emulator.version(qemu)))
    return here(f"QEMU {version}, TCG", f"qemu-{version}-tcg", shlex.join(qemu) + TCG)


def nested(manners: Sequence[Manner] = MANNERS) -> list[Outcome]:
    """Check the monitors on kvm_amd, manner by manner: what one of them costs, the others do not lose."""
    engine = f"{TRAPGATE} run {{image}} --engine kvm --gdb :{{port}} --wait"
    monitors = {"qemu-kvm": inner_qemu.COMMAND, "trapgate-kvm": engine}
    judged = (case for case in DemoGuest().cases if case.needs != NEEDS_BUS_LOCK)  # QEMU's CPU has no such trap
    cases = [word for case in judged for word in ("--case", case.name)]
    jobs = []
    for manner in manners:
        for name, command in monitors.items():
            words = [TRAPGATE, "check", "--spawn", command, "--manner", manner.name, *cases, "--patience", str(PATIENCE)]
            shell = f"{shlex.join(words)} --json /tmp/rows; /usr/bin/busybox cat /tmp/rows; /usr/bin/busybox rm -f /tmp/rows"
            jobs.append(Job(f"{name} {manner.name}", ("/usr/bin/busybox", "sh", "-c", shell), LONGEST))
    outcomes = {"qemu-kvm": Outcome("QEMU/KVM"), "trapgate-kvm": Outcome("trapgate, KVM engine")}
    lists, console = linux_guest.CACHE / "apt", FOLDER / "console-check.log"
    try:
        qemu = emulator.qemu(FOLDER, lists)
        kernel, initrd = image(SERIES, jobs, name="initrd-check")
        whole = keep(initrd, initrd.read_bytes() + inner_qemu.archive(FOLDER, lists))
        version = ".".join(map(str, emulator.version(emulator.unpacked(FOLDER, lists))))
        words = machine.command(qemu, kernel, whole, console)
        for record in machine.records(words, console, len(jobs) * LONGEST + 300, LONGEST + 60):
            if "kernel" in record:
                outcomes["qemu-kvm"].name = f"QEMU {version}, KVM of Linux {record['kernel']}"
                outcomes["trapgate-kvm"].name = f"trapgate, KVM of Linux {record['kernel']}"
            elif "end" in record:
                slug = record["end"].split()[0]
                outcomes[slug].read(str(record["output"]))
                outcomes[slug].keep(slug)
    except (GuestError, machine.NestedError, OSError) as error:
        for one in outcomes.values():
            one.trouble = str(error)
    return list(outcomes.values())


def table(outcomes: list[Outcome]) -> Table:
    """Right of judged rows, by monitor and manner."""
    found = Table(title="Rows that are right, of those that could be judged", title_justify="left", box=box.SIMPLE_HEAD)
    found.add_column("", no_wrap=True)
    for manner in MANNERS:
        first, _, second = manner.title.partition(" ")
        found.add_column(f"{first}\n{second}", justify="right", no_wrap=True)
    for one in outcomes:
        counts = [one.count(manner.name) for manner in MANNERS]
        cells = [f"{each['right']} of {each['right'] + each['wrong'] + each['not run']}" for each in counts]
        found.add_row(one.name, *(cell if count else "-" for cell, count in zip(cells, counts, strict=True)))
    return found


@click.command()
@click.option("--no-kvm", is_flag=True, help="Only what runs on this host: no nested machine.")
@click.option("--manner", "names", multiple=True, type=click.Choice(list(BY_NAME)), help="On KVM only these (repeatable).")
def main(no_kvm: bool, names: tuple[str, ...]) -> None:
    """Check every monitor that can be had here."""
    outcomes = [here("trapgate, software CPU", "trapgate-soft", OURS, ours=True)]
    installed = shutil.which(emulator.NAME)
    if installed is not None:
        outcomes.append(tcg([installed]))
    if not no_kvm:
        outcomes += nested([one for one in MANNERS if not names or one.name in names])
        if (FOLDER / f"qemu-{emulator.SOURCE.suite}").is_dir():
            outcomes.append(tcg(emulator.unpacked(FOLDER, linux_guest.CACHE / "apt")))
    console = Console(width=None if sys.stdout.isatty() else 132)
    console.print(table(outcomes))
    for one in outcomes:
        if one.trouble:
            console.print(f"{one.name}: {one.trouble}", style="red", markup=False, soft_wrap=True)
    console.print(f"what each row got is in {RESULTS}", style="dim", markup=False, soft_wrap=True)
    wrong = [one for one in outcomes if one.trouble or (one.ours and any(row["state"] in ("wrong", "not run") for row in one.rows))]
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
