"""Guests that are not plain Linux: memtest86+, Xen with Debian as its first domain, a Debian user space with systemd."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.guests import rootfs
from tools.guests.console import Console, ConsoleError
from tools.guests.scenarios import DONE, Check, lines

Files = Mapping[str, Path]
LAST_WORKING_TEST = "#10"  # memtest86+: test 10 waits for minutes to see whether bits fade; 0 to 9 have been done when it begins
ESCAPE = "\x1b"
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


def systemd(files: Files, cpu: str) -> list[Check]:
    """Debian with systemd from memory: all units start, root logs in on the serial console, `systemctl poweroff` ends the run."""
    arguments = [
        *(str(files["6.1"]), "--initrd", str(files[rootfs.NAME]), "--append", "console=ttyS0 rdinit=/sbin/init quiet norandmaps"),
        *("--memory", "1G", "--cpu", cpu),
    ]
    checks = []
    try:
        with Console(arguments) as console:
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
    "xen": OtherGuest("Xen with Debian as dom0", "EPYC-Turin", ("xen", "vmlinuz-6.1-amd64", "initramfs"), xen),
    "systemd": OtherGuest("Debian with systemd", "SapphireRapids", ("6.1", rootfs.NAME), systemd),
}
