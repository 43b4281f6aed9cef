"""Guests that are not plain Linux: memtest86+, Xen with Debian as its first domain, a Debian user space with systemd."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.guests import grub, rootfs
from tools.guests.console import Console, ConsoleError
from tools.guests.scenarios import DONE, Check, lines

Files = Mapping[str, Path]
LAST_WORKING_TEST = "#10"  # memtest86+: test 10 waits for minutes to see whether bits fade; 0 to 9 have been done when it begins
ESCAPE = "\x1b"
BRACKETED = re.compile(r"\x1b\[\?2004[hl]")  # the shell's way to tell that pasted text is no typing
LOGIN_PATIENCE = 600.0  # seconds until the login prompt, on a busy host


def memtest(files: Files, cpu: str, name: str = "memtest86+x64") -> list[Check]:
    """memtest86+ on its serial console: tests 0 to 9 over all of a small RAM find no error, and Escape ends it by a reset."""
    arguments = [str(files[name]), "--append", "console=ttyS0,115200", "--memory", "16M", "--cpu", cpu]
    checks = []
    try:
        with Console(arguments) as console:
            console.wait_for("Memtest86+")
            checks.append(Check("draws its screen on ttyS0", True, "Memtest86+"))
            console.wait_for(LAST_WORKING_TEST, 900)
            errors = set(re.findall(r"Errors: (\d+)", console.output))
            checks.append(Check("tests 0 to 9: no error", errors == {"0"}, f"Errors: {', '.join(sorted(errors))}"))
            console.send(ESCAPE)
            checks.append(Check("Escape resets the machine", console.finish() == 0, console.errors))
    except ConsoleError as error:
        checks.append(Check("the guest answers", False, str(error)))
    return checks


def xen(files: Files, cpu: str) -> list[Check]:
    """The hypervisor by multiboot, Debian's kernel as its paravirtual first domain, to its shell script and to power-off."""
    arguments = [
        *(str(files["xen"]), "--append", "com1=115200,8n1 console=com1 loglvl=all noreboot"),
        *("--module", f"{files['vmlinuz-6.1-amd64']} console=hvc0 earlyprintk=xen trapgate.run=uname,-a"),
        *("--module", str(files["initramfs"]), "--memory", "1G", "--cpu", cpu),
    ]
    with Console(arguments) as console:
        try:
            status = console.finish(600)
        except ConsoleError as error:
            return [Check("the guest answers", False, str(error))]
        output = console.output
    return [
        Check("Xen starts", "(XEN) Xen version" in output, lines(output, "(XEN) Xen version")),
        Check("dom0 is built", "*** Building a PV Dom0 ***" in output, lines(output, "Dom0 kernel:")),
        Check(
            "dom0 runs user space",
            re.search(r"^Linux .* x86_64 GNU/Linux$", output, re.MULTILINE) is not None,
            lines(output, "GNU/"),
        ),
        Check("its program ends well", f"{DONE}0" in output, lines(output, DONE)),
        Check("powers off, exit status 0", status == 0 and "Entering ACPI S5" in output, lines(output, "ACPI S5")),
    ]


def _systemd(files: Files, cpu: str) -> list[str]:
    """Debian's root file system in memory."""
    return [
        *(str(files["6.1"]), "--initrd", str(files[rootfs.NAME]), "--append", "console=ttyS0 rdinit=/sbin/init quiet norandmaps"),
        *("--memory", "1G", "--cpu", cpu),
    ]


def systemd(files: Files, cpu: str) -> list[Check]:
    """Debian with systemd from memory: all units start, root logs in on the serial console, `systemctl poweroff` ends the run."""
    checks = []
    try:
        with Console(_systemd(files, cpu)) as console:
            console.wait_for("login: ", LOGIN_PATIENCE)
            checks.append(Check("a login prompt on ttyS0", True, lines(console.output, "Debian GNU/Linux")))
            console.send("root\n")
            console.wait_for("# ", LOGIN_PATIENCE)
            console.send("echo; systemctl --failed --plain --no-legend; echo state=$(systemctl is-system-running --wait)\n")
            console.wait_for("\nstate=", LOGIN_PATIENCE)
            state = console.wait_for("\n").strip()
            checks.append(Check("all units started, none failed", state == "running", state))
            console.send("systemctl poweroff\n")
            checks.append(Check("systemctl poweroff, exit status 0", console.finish(LOGIN_PATIENCE) == 0, console.tail(2)))
    except ConsoleError as error:
        checks.append(Check("the guest answers", False, str(error)))
    return checks


def several_cpus(files: Files, cpu: str) -> list[Check]:
    """Debian with four CPUs: all of them work, one goes and comes back, nobody burns the host while nothing is to be done."""
    checks: list[Check] = []
    with Console([*_systemd(files, cpu), "--cpus", "4"]) as console:
        try:
            console.wait_for("login: ", LOGIN_PATIENCE)
            console.send("root\n")
            console.wait_for("# ", LOGIN_PATIENCE)

            def says(claim: str, command: str, pattern: str) -> None:
                console.send(f"{command}; echo end=$?\n")
                seen = BRACKETED.sub("\n", console.wait_for("\nend=", LOGIN_PATIENCE))
                console.wait_for("# ", LOGIN_PATIENCE)
                checks.append(Check(claim, re.search(pattern, seen) is not None, seen.strip()))

            online = "/sys/devices/system/cpu"
            says("four CPUs", "nproc; grep -c 'model name' /proc/cpuinfo", r"\n4\n4\n")
            says("stress-ng on all of them", "stress-ng --cpu 4 --verify --timeout 20s", r"successful run completed")
            says("one goes", f"echo 0 > {online}/cpu2/online; cat {online}/online", r"\n0-1,3\n")
            says("and comes back", f"echo 1 > {online}/cpu2/online; cat {online}/online", r"\n0-3\n")
            says("a program on it", "taskset -c 2 nproc", r"\n1\n")
            says(
                "locks, signals, shared memory",
                "stress-ng --futex 4 --sem 4 --fork 4 --shm 4 --timeout 10s",
                r"successful run completed",
            )
            begin = _used(console.pid)
            console.listen(10)
            used = (_used(console.pid) - begin) / 10
            checks.append(Check("idle: a tenth of a CPU of the host at most", used < 0.1, f"{used:.1%}"))
            trouble = [word for word in ("BUG:", "WARNING:", "Oops", "Call Trace", "stall", "lockup") if word in console.output]
            checks.append(Check("no warning in the log", not trouble, "\n".join(lines(console.output, word) for word in trouble)))
            console.send("systemctl poweroff\n")
            checks.append(Check("systemctl poweroff, exit status 0", console.finish(LOGIN_PATIENCE) == 0, console.tail(2)))
        except ConsoleError as error:
            checks.append(Check("the guest answers", False, str(error)))
    return checks


def _used(process: int) -> float:
    """Seconds of CPU that a process has used."""
    times = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


def grub_script(files: Files, cpu: str) -> list[Check]:
    """GRUB's core image, which switches between protected and real mode for each service of the BIOS; its script ends by a halt."""
    output, status = _alone([str(files[grub.NAME]), "--memory", "64M", "--cpu", cpu])
    return [
        Check("its script runs on the serial line", "hello from grub" in output, lines(output, "hello")),
        Check("it has a memory map from the boot protocol", "base_addr = 0x100000" in output, lines(output, "base_addr")),
        Check("halt, exit status 0", status == 0, str(status)),
    ]


def mach(files: Files, cpu: str) -> list[Check]:
    """GNU Mach as a multiboot kernel, to where it lacks modules of the Hurd: it panics and resets."""
    output, status = _alone([str(files["gnumach"]), "--append", "console=com0", "--memory", "64M", "--cpu", cpu])
    return [
        Check("its messages come on the serial line", "GNU Mach 1.8" in output, lines(output, "GNU Mach")),
        Check("it finds all memory", "0000000004000000, available" in output, lines(output, "available")),
        Check("it wants its modules", "No bootstrap code loaded with the kernel" in output, lines(output, "panic")),
        Check("resets, exit status 0", status == 0, str(status)),
    ]


def installer(files: Files, cpu: str) -> list[Check]:
    """Debian's installer for networks, to its first menus on the serial line."""
    arguments = [
        *(str(files["installer-kernel"]), "--initrd", str(files["installer-initrd"]), "--append", "console=ttyS0 panic=-1"),
        *("--memory", "1G", "--cpu", cpu),
    ]
    checks = []
    try:
        with Console(arguments) as console:
            for claim, words in (("asks for the language", "Select a language"), ("asks for the location", "Select your location")):
                console.wait_for(words, LOGIN_PATIENCE)
                checks.append(Check(claim, True, words))
                console.send("\r")
    except ConsoleError as error:
        checks.append(Check("the guest answers", False, str(error)))
    return checks


def _alone(arguments: list[str]) -> tuple[str, int]:
    """What a guest that needs no typing prints, and the exit status, -1 where it does not end."""
    with Console(arguments) as console:
        try:
            status = console.finish(LOGIN_PATIENCE)
        except ConsoleError:
            status = -1
        return console.output, status


@dataclass(frozen=True, slots=True)
class OtherGuest:
    """A guest by the names of its files, the CPU model it runs on, and what it should do."""

    title: str
    cpu: str
    needs: tuple[str, ...]
    run: Callable[[Files, str], list[Check]]


def memtest32(files: Files, cpu: str) -> list[Check]:
    """The same, as 32-bit code with PAE."""
    return memtest(files, cpu, "memtest86+ia32")


OTHER_GUESTS = {
    "memtest86+": OtherGuest("memtest86+, 64-bit", "EPYC-Turin", ("memtest86+x64",), memtest),
    "memtest86+ia32": OtherGuest("memtest86+, 32-bit", "SapphireRapids", ("memtest86+ia32",), memtest32),
    "grub": OtherGuest("GRUB", "SapphireRapids", (grub.NAME,), grub_script),
    "gnumach": OtherGuest("GNU Mach", "EPYC-Turin", ("gnumach",), mach),
    "installer": OtherGuest("Debian's installer", "EPYC-Turin", ("installer-kernel", "installer-initrd"), installer),
    "xen": OtherGuest("Xen with Debian as dom0", "EPYC-Turin", ("xen", "vmlinuz-6.1-amd64", "initramfs"), xen),
    "systemd": OtherGuest("Debian with systemd", "SapphireRapids", ("6.1", rootfs.NAME), systemd),
    "several": OtherGuest("Debian with four CPUs", "EPYC-Turin", ("6.1", rootfs.NAME), several_cpus),
}
