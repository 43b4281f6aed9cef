"""`trapgate demo` runs the bundled guest alone and under a real debugger, compares both with the manual, shows who got what."""

import os
import subprocess
import tempfile
import time
from pathlib import Path

from trapgate.check.guest import DemoGuest, Results
from trapgate.cli import demo_debugger, errors
from trapgate.cli.demo_guest import GuestProcess
from trapgate.cli.demo_table import Row, main_table, others_table, own_db, rows
from trapgate.cli.screen import Screen
from trapgate.gdb.address import UnixAddress
from trapgate.stops import MachineExit

NARROWEST, USUAL = 80, 100  # columns of text: what the tables need, and what they get where the output is no terminal
ALL_RIGHT = 1  # exit port: 0 * 2 + 1


def run_alone(guest: DemoGuest) -> tuple[Results, MachineExit]:
    """One run without a debugger."""
    with GuestProcess(guest) as process:
        return process.results()


def run_debugged(
    guest: DemoGuest, steps: list[demo_debugger.Step], gdb: str | None, engine: str = "soft"
) -> tuple[Results, demo_debugger.Session]:
    """One run under the debugger: a real gdb by its path, or our own client."""
    with tempfile.TemporaryDirectory(prefix="trapgate-") as folder:
        address = UnixAddress(str(Path(folder) / "gdb"))
        with GuestProcess(guest, address.path, engine) as process:
            if gdb is None:
                session = demo_debugger.run_client(steps, address)
            else:
                session = demo_debugger.run_gdb(steps, address, gdb)
            return process.results()[0], session


def run(quiet: bool) -> int:
    """Run both, print the tables; 0 when every row is right, else 1."""
    guest = DemoGuest()
    gdb = demo_debugger.find_gdb()
    start = time.monotonic()
    alone, end = run_alone(guest)
    between = time.monotonic()
    steps = demo_debugger.plan(guest)
    debugged, session = run_debugged(guest, steps, gdb)
    finish = time.monotonic()

    wrong = [f"the guest alone ended by {end.kind.value} with status {end.status}"] if end.status != ALL_RIGHT else []
    wrong += [f"the guest under the debugger: {session.trouble}"] if session.trouble else []
    if not session.trouble and session.status != ALL_RIGHT:
        wrong.append(f"the guest under the debugger ended with status {session.status}")
    table = rows(guest.cases, alone, steps, session, debugged)
    wrong += [f"{row.case.name}: {text}" for row in table for text in row.wrong]
    if not quiet:
        show(table, guest)
    console = Screen(highlight=False, soft_wrap=True)
    for text in wrong:
        console.print(f"wrong: {text}", style="red", markup=False)
    if not quiet:
        console.print(summary(table, session, _name(gdb)), markup=False)
        console.print(f"Alone the guest took {between - start:.1f} s, under the debugger {finish - between:.1f} s.", style="dim")
    return errors.GUEST_FAILURE if wrong else errors.OK


def show(table: list[Row], guest: DemoGuest) -> None:
    """Both tables, as wide as the terminal lets them."""
    console = Screen(highlight=False)
    width = max(console.width, NARROWEST) if console.is_terminal or "COLUMNS" in os.environ else USUAL
    console = Screen(highlight=False, width=width)
    console.print(main_table(table, width))
    right = {row.case.number for row in table if not row.wrong}
    console.print(others_table(guest.cases, sum(case.number in right for case in own_db(guest.cases))))


def summary(table: list[Row], session: demo_debugger.Session, debugger: str) -> str:
    """What the run has shown, in a sentence or two."""
    right = sum(not row.wrong for row in table)
    if right < len(table):
        return f"{right} of {len(table)} rows are right. The debugger, {debugger}, stopped the guest {len(session.stops)} times."
    return (
        f"{right} of {len(table)} rows are right: {debugger} got all of its {len(session.stops)} stops,\n"
        "and the guest got every exception of its own, bus locks included, with the same\n"
        "DR6, DR7, RIP and RFLAGS as on a machine without a debugger."
    )


def _name(gdb: str | None) -> str:
    if gdb is None:
        return "trapgate's own client (no gdb was found)"
    done = subprocess.run([gdb, "--version"], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    return (done.stdout.splitlines() or ["gdb"])[0]
