"""What Debian's Linux kernels should do on our CPU: each scenario boots one of them with `trapgate run` and checks what it says."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.guests.console import PROMPT, Console, ConsoleError
from tools.guests.recipes import KERNELS

DETECTION = "x86/split lock detection: "
LOCK_LENGTH = 4  # bytes of `lock addl $1, (%rax)`: the kernel prints the address behind it
AMD_BUS_LOCKS = ("backports",)  # Linux arms AMD's Bus Lock Trap from 6.13 on; earlier kernels know only Intel's
DONE = "trapgate: exit status "


@dataclass(frozen=True, slots=True)
class Check:
    """A claim, whether it held, and the lines that show it."""

    claim: str
    passed: bool
    shown: str = ""


@dataclass(frozen=True, slots=True)
class Guest:
    """The files of a guest, and options that every run of it gets."""

    kernel: Path
    initramfs: Path
    options: tuple[str, ...] = ()

    def boot(self, cpu: str, append: str = "", *options: str) -> Console:
        """A running guest."""
        line = f"console=ttyS0 panic=-1 {append}".strip()
        return Console([str(self.kernel), "--initrd", str(self.initramfs), "--append", line, "--cpu", cpu, *self.options, *options])

    def output(self, cpu: str, append: str, *options: str) -> tuple[str, int]:
        """What a guest that needs no typing prints, and the exit status."""
        with self.boot(cpu, append, *options) as console:
            status = console.finish()
            return console.output, status


def lines(output: str, word: str) -> str:
    """The lines with a word, without the kernel's time stamps."""
    return "\n".join(re.sub(r"^\[ *\d+\.\d+\] ", "", line) for line in output.splitlines() if word in line)


def program_output(output: str) -> str:
    """What programs printed: newer kernels print from a thread of their own, amid a program's line."""
    return re.sub(r"\[ *\d+\.\d+\] .*\n", "", output)


def _ended(status: int, output: str) -> Check:
    return Check("powers off, exit status 0", status == 0, lines(output, "reboot: Power down"))


def shell(guest: Guest, cpu: str) -> list[Check]:
    """Boots to a shell on the serial console; programs compute what they should; Ctrl-C and idle behave; power-off."""
    checks: list[Check] = []

    def says(claim: str, command: str, expected: str) -> None:
        seen = console.command(command).strip()
        checks.append(Check(claim, re.fullmatch(expected, seen) is not None, f"{command}\n{seen}"))

    with guest.boot(cpu) as console:
        try:
            console.wait_for(PROMPT)
            checks.append(Check("boots to a shell on ttyS0", True, lines(console.output, "Linux version")[:60]))
            says("ls", "ls -d /bin /proc", "/bin\\s+/proc")
            says("one CPU with its name", "grep -c 'model name' /proc/cpuinfo", "1")
            says(
                "sha256sum of 4 MiB", "dd if=/dev/zero bs=1M count=4 2>/dev/null | sha256sum", "bb9f8df61474d25e71fa00722318cd38.*"
            )
            says("gzip and back", "gzip -c /bin/busybox | gunzip | cmp - /bin/busybox && echo same", "same")
            says("floating point", "awk 'BEGIN { printf \"%.15f %g\", 1/3, 1e300*1e10 }'", r"0\.333333333333333 inf")
            says("the TSC keeps time", "cat /sys/devices/system/clocksource/*/current_clocksource", "tsc")
            begin, seen = time.monotonic(), console.command("time sleep 1")
            took = time.monotonic() - begin
            measured = re.search(r"real\s+0m (\d+\.\d+)s", seen)
            checks.append(Check("sleep 1 takes a second", measured is not None and 0.9 < float(measured[1]) < 1.5, seen.strip()))
            checks.append(Check("of the host, too", took > 0.9, f"{took:.2f} s"))
            now = console.command("date -u +%s").strip()
            checks.append(Check("the clock is right", now.isdigit() and abs(int(now) - time.time()) < 30, now))
            console.send("sleep 100\n")
            time.sleep(0.5)
            console.send("\x03")
            console.wait_for(PROMPT, 20)
            checks.append(Check("Ctrl-C interrupts", True, "^C"))
            console.send("exit\n")
            status = console.finish()
        except ConsoleError as error:
            return [*checks, Check("the guest answers", False, str(error))]
        trouble = [
            word for word in ("BUG:", "WARNING:", "Oops", "Call Trace", "unchecked MSR", "unstable") if word in console.output
        ]
        checks.append(Check("no warning in the log", not trouble, "\n".join(lines(console.output, word) for word in trouble)))
        return [*checks, _ended(status, console.output)]


def _trap_lines(output: str) -> tuple[list[str], str]:
    """The addresses in the kernel's bus-lock lines on `splitlock`, and the one that they should give."""
    found = re.search(r"splitlock: instruction at 0x([0-9a-f]+)", output)
    expected = f"0x{int(found[1], 16) + LOCK_LENGTH:x}" if found else "no address"
    return re.findall(DETECTION + r"#DB: splitlock/\d+ took a bus_lock trap at address: (0x[0-9a-f]+)", output), expected


def warned(guest: Guest, cpu: str) -> list[Check]:
    """The kernel arms the trap and tells each of five split locks, with the address behind the instruction."""
    output, status = guest.output(cpu, "trapgate.run=splitlock")
    traps, expected = _trap_lines(output)
    return [
        Check(
            "armed at boot", f"{DETECTION}#DB: warning on user-space bus_locks" in output, lines(output, DETECTION + "#DB: warning")
        ),
        Check("five split locks, five traps, right address", traps == [expected] * 5, lines(output, "took a bus_lock trap")),
        Check(
            "the program goes on",
            "splitlock: 5 split locks done, counter 5" in program_output(output) and f"{DONE}0" in output,
            lines(output, "counter"),
        ),
        _ended(status, output),
    ]


def fatal(guest: Guest, cpu: str) -> list[Check]:
    """With split_lock_detect=fatal the program gets SIGBUS at its first split lock, and the kernel says nothing."""
    output, status = guest.output(cpu, "split_lock_detect=fatal trapgate.run=splitlock")
    return [
        Check("armed at boot", f"{DETECTION}#DB: sending SIGBUS on user-space bus_locks" in output, lines(output, DETECTION)),
        Check(
            "SIGBUS at the first",
            "splitlock: SIGBUS after 0 split locks" in output and f"{DONE}1" in output,
            lines(output, "SIGBUS after"),
        ),
        Check("no trap line", not _trap_lines(output)[0]),
        _ended(status, output),
    ]


def absent(guest: Guest, cpu: str) -> list[Check]:
    """Without the CPU feature nothing is armed and nothing is said."""
    output, status = guest.output(cpu, "trapgate.run=splitlock")
    return [
        Check("nothing armed, nothing said", DETECTION not in output, lines(output, DETECTION)),
        Check("the program runs through", "splitlock: 5 split locks done, counter 5" in output, lines(output, "counter")),
        _ended(status, output),
    ]


def repeats(guest: Guest, cpu: str) -> list[Check]:
    """By the instruction clock two runs print the same bytes."""
    first, second = (
        guest.output(cpu, "trapgate.run=splitlock;cat,/proc/interrupts,/proc/uptime", "--clock", "instructions") for _ in "12"
    )
    return [
        Check("two runs, the same bytes", first == second and DONE in first[0], f"{len(first[0])} characters"),
        _ended(first[1], first[0]),
    ]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A CPU model and what a kernel does on it; `kernels` when only some do."""

    name: str
    cpu: str
    run: Callable[[Guest, str], list[Check]]
    kernels: tuple[str, ...] = tuple(KERNELS)


SCENARIOS = (
    Scenario("shell", "EPYC-Turin", shell),
    Scenario("shell", "SapphireRapids", shell),
    Scenario("bus locks: warn", "SapphireRapids", warned),
    Scenario("bus locks: warn", "EPYC-Turin", warned, AMD_BUS_LOCKS),
    Scenario("bus locks: fatal", "SapphireRapids", fatal),
    Scenario("bus locks: fatal", "EPYC-Turin", fatal, AMD_BUS_LOCKS),
    Scenario("bus locks: no feature", "SapphireRapids,-bus-lock-detect", absent),
    Scenario("instruction clock", "SapphireRapids", repeats),
)
