"""Real gdb and lldb on guests that are not 64-bit: a 32-bit kernel, a boot sector, and one that goes through all modes."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kvm.guest import KVM
from system.gdb_images import Built, guest32, sector
from system.gdb_session import GuestUnderGdb
from trapgate.gdb.address import TcpAddress
from trapgate.gdb.architecture import Architecture
from trapgate.gdb.client import Client
from trapgate.gdb.target import BreakKind

pytestmark = pytest.mark.skipif(shutil.which("gdb") is None or shutil.which("gcc") is None, reason="needs gdb and gcc")

BOTH_ENGINES = pytest.mark.parametrize("engine", ["soft", pytest.param("kvm", marks=KVM)])
HOOK = """
define hook-stop
  if ($cr0 & 1) == 0
    set architecture i8086
  else
    if ($efer & 0x400)
      set architecture i386:x86-64
    else
      set architecture i386
    end
  end
  x/i $pc
end
"""


@pytest.fixture(scope="module")
def modes() -> Built:
    return sector()


def under_gdb(built: Built, engine: str = "soft", architecture: Architecture | None = None) -> GuestUnderGdb:
    return GuestUnderGdb(path=built.image, file=built.file, engine=engine, architecture=architecture)


@BOTH_ENGINES
def test_a_32_bit_kernel_has_a_backtrace_with_arguments(engine: str) -> None:
    with under_gdb(guest32(), engine) as guest:
        text = guest.gdb(
            "x/i $pc", "break inner", "continue", "backtrace", "p $pc", "delete", "finish", "p $eax = 0x12345678", "p/x $ax",
            "p middle(1)", "watch value", "set $pc = middle", "stepi", "x/i $pc", "info registers ip", "p/x $cr0", "kill",
        )  # fmt: skip
    assert "architecture" not in text, text  # nor a warning
    assert re.search(r"=> 0x10000c <_start>:\s+mov +\$0x\w+,%esp", text)
    assert re.search(
        r"#0  inner \(a=6, b=7\) .*\n#1  0x\w+ in middle .*\n#2  0x\w+ in kernel_main .*\n#3  0x\w+ in _start", text
    ), text
    assert re.search(r"\$1 = \(void \(\*\)\(\)\) 0x\w+ <inner\+?\d*>", text)
    assert "Value returned is $2 = 43" in text
    assert "= 0x5678" in text
    assert re.search(r"\$\d+ = 4\n", text)  # 1 * 2 + 1 + 1
    assert re.search(r"=> 0x\w+ <middle\+1>:", text)
    assert "= 0x11" in text


def test_whatever_file_gdb_has_there_is_a_session(modes: Built) -> None:
    """A boot sector may load any kernel: gdb takes its architecture from its file, and finds the registers of that."""
    ask = ("show architecture", "p/x $pc", "p/x $cs_base", "p/x $ip")
    with under_gdb(modes) as guest:
        none = guest.gdb(*ask, "x/2i $pc", "detach", symbols=False)
    assert 'currently "i8086"' in none
    assert "$1 = 0x7c00" in none
    assert re.search(r"0x7c00:\s+cli\s+0x7c01:\s+xor +%ax,%ax", none)
    with under_gdb(modes) as guest:
        narrow = guest.gdb(*ask, "kill")
    assert 'currently "i386"' in narrow
    assert "$1 = 0x7c00" in narrow
    with GuestUnderGdb(path=modes.image) as guest:  # the file is the ELF64 guest
        wide = guest.gdb(*ask, "p/x $rdx", "kill")
    assert 'currently "i386:x86-64"' in wide
    assert "$1 = 0x7c00" in wide
    assert "$4 = 0x80" in wide


@BOTH_ENGINES
def test_where_cs_has_a_base_the_program_counter_is_linear(modes: Built, engine: str) -> None:
    at = modes.symbols["in_segment"]
    with under_gdb(modes, engine) as guest:
        text = guest.gdb(
            f"break *{at:#x}", "continue", "p/x $pc", "p/x $ip", "p/x $cs_base", "display/i $pc", "stepi", "p/x $ip",
            f"set $pc = {at:#x}", "p/x $ip", "set $pc = 0x100", "p/x $pc", "nexti", f"tbreak *{at + 7:#x}", "continue", "p/x $ip",
            "kill", symbols=False,
        )  # fmt: skip
    hits = re.findall(r"reakpoint (\d), 0x(\w+) in", text)
    assert [(number, int(where, 16)) for number, where in hits] == [("1", at), ("1", at), ("2", at + 7)], (
        text
    )  # where gdb puts the PC, it breaks
    values = [int(value, 16) for value in re.findall(r"^\$\d+ = (0x\w+)$", text, re.MULTILINE)]
    assert values == [at, at - 0x7C00, 0x7C00, at - 0x7C00 + 2, at - 0x7C00, at, at + 7]
    assert re.search(rf"=> {at:#x}:\s+mov +%cs,%bx", text)
    assert re.search(rf"=> {at + 2:#x}:\s+ljmp +\$0x0,\$0x{at + 7:x}", text)
    assert 'Could not write register "eip"' in text


@BOTH_ENGINES
def test_breakpoints_conditions_and_symbols_where_cs_has_a_base(modes: Built, engine: str) -> None:
    with under_gdb(modes, engine) as guest:
        text = guest.gdb(
            "set architecture i8086", "break in_segment if $cs == 0x7c0", "continue", "p/x $cs", "break compat", "continue",
            "stepi", "set architecture i386:x86-64", "stepi", "p/x $rax", "kill",
        )  # fmt: skip
    assert re.search(r"Breakpoint 1, in_segment \(\)", text), text
    assert "= 0x7c0\n" in text
    assert re.search(r"Breakpoint 2, compat \(\)", text)
    assert "= 0x1122334455667788" in text


def test_a_false_condition_where_cs_has_a_base_does_not_stop(modes: Built) -> None:
    with under_gdb(modes) as guest:
        text = guest.gdb("break in_segment if $cs == 0", "break prot", "continue", "kill")
    assert "Breakpoint 2, prot" in text, text


@BOTH_ENGINES
@pytest.mark.parametrize("architecture", [None, Architecture.ANY])
def test_a_hook_follows_the_guest_from_real_mode_to_long_mode(
    modes: Built, engine: str, architecture: Architecture | None, tmp_path: Path
) -> None:
    """The hook of many a gdbinit; where the user said that gdb may choose, not even with a warning."""
    script = tmp_path / "hook"
    script.write_text(HOOK)
    at = modes.symbols
    with under_gdb(modes, engine, architecture) as guest:
        text = guest.gdb(
            f"source {script}", "stepi", f"hbreak *{at['prot']:#x}", "continue", "stepi", f"break *{at['long']:#x}", "continue",
            "stepi", "stepi", "p/x $rax", "p/x $pc", "p/x $efer & 0x500", "kill", symbols=False,
        )  # fmt: skip
    chosen = re.findall(r"architecture is set to \"(.*)\"", text)
    assert chosen == ["i8086", "i386", "i386", "i386:x86-64", "i386:x86-64", "i386:x86-64"], text
    assert re.search(rf"=> {at['start'] + 1:#x}:\s+xor +%ax,%ax", text)
    assert re.search(rf"=> {at['prot']:#x}:\s+mov +\$0x10,%eax", text)
    assert re.search(rf"=> {at['long']:#x}:\s+movabs +\$0x1122334455667788,%rax", text)
    assert "= 0x1122334455667788" in text
    assert "= 0x500" in text
    assert ("not compatible" in text) == (architecture is None)


def test_a_step_within_a_range_where_cs_has_a_base(modes: Built) -> None:
    at = modes.symbols["in_segment"]
    with GuestUnderGdb(path=modes.image) as guest, Client(guest.host.address) as client:
        client.insert(BreakKind.HARDWARE, at)
        client.go()
        assert client.registers()["rip"] == at
        client.go(f"r{at:x},{at + 7:x}")
        assert client.registers()["rip"] == at + 7
        client.kill()


def test_a_description_read_anew_fits_the_mode_of_then(modes: Built) -> None:
    at = modes.symbols
    with under_gdb(modes) as guest:
        text = guest.gdb(
            f"tbreak *{at['in_segment']:#x}", "continue", f"tbreak *{at['in_segment'] + 2:#x}", f"jump *{at['in_segment']:#x}",
            f"until *{at['in_segment'] + 7:#x}", "p/x $pc", f"tbreak *{at['finished']:#x}", "continue", "unset tdesc filename",
            "show architecture", "x/i $pc", "p $pc", "p/x $rsp", "stepi", "p/x $ip", "kill", symbols=False,
        )  # fmt: skip
    assert f"$1 = {at['in_segment'] + 7:#x}" in text, text
    assert 'currently "i386:x86-64"' in text
    assert f"$2 = (void (*)()) {at['finished']:#x}" in text
    assert "$3 = 0x6ff8" in text
    assert f"$4 = {at['finished'] + 5:#x}" in text


def test_the_32_bit_entry_of_a_64_bit_kernel() -> None:
    """gdb's file is ELF64: without a word it is x86-64 throughout; who wants to read the entry says that gdb may choose."""
    with GuestUnderGdb() as guest:
        assert 'currently "i386:x86-64"' in guest.gdb("show architecture", "kill")
    with GuestUnderGdb(architecture=Architecture.ANY) as guest:
        text = guest.gdb(
            "set architecture i386", "x/2i $pc", "p/x $eip", "p/x $cs_attributes", "set architecture auto", "break add", "continue",
            "backtrace", "delete", "set $rax = 0x1122334455667788", "p add(20, 22)", "p/x $rax", "kill",
        )  # fmt: skip
    assert "warning" not in text.lower(), text
    assert "$1 = 0x100000" in text
    assert "Breakpoint 1, add (a=0, b=0)" in text
    assert re.search(r"#3 .* guest_main", text)
    assert "$3 = 42" in text
    assert "$4 = 0x1122334455667788" in text  # EAX, restored after the call, leaves the upper half alone


def test_a_description_of_the_users_own(modes: Built, tmp_path: Path) -> None:
    """`set tdesc filename`, as told in many a place for real mode: gdb's i386 core, and i8086."""
    words = "eax ecx edx ebx esp ebp esi edi eip eflags cs ss ds es fs gs".split()
    registers = [f'<reg name="{name}" bitsize="32" type="int32"/>' for name in words]
    registers += [f'<reg name="st{n}" bitsize="80" type="i387_ext"/>' for n in range(8)]
    registers += [
        f'<reg name="{name}" bitsize="32" type="int"/>' for name in "fctrl fstat ftag fiseg fioff foseg fooff fop".split()
    ]
    path = tmp_path / "target.xml"
    path.write_text(
        '<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target><architecture>i8086</architecture>'
        f'<feature name="org.gnu.gdb.i386.core">{"".join(registers)}</feature></target>'
    )
    at = modes.symbols["in_segment"]
    with under_gdb(modes) as guest:
        text = guest.gdb(
            f"break *{at:#x}", "continue", "x/i $pc", "p/x $cs", "p/x $dx", "stepi", "p/x $bx", "kill", symbols=False,
            first=[f"set tdesc filename {path}"],
        )  # fmt: skip
    assert "Breakpoint 1, 0x00007c11" in text, text
    assert "mov    %cs,%bx" in text
    assert "= 0x80\n" in text
    assert text.count("= 0x7c0\n") == 2


@pytest.fixture(scope="module")
def lldb() -> str:
    if shutil.which("lldb") is None:
        pytest.skip("lldb is not installed")
    return "lldb"


def test_lldb_on_a_32_bit_kernel_and_on_a_boot_sector(lldb: str, modes: Built) -> None:
    def ask(guest: GuestUnderGdb, *commands: str, file: tuple[str, ...] = ()) -> str:
        assert isinstance(guest.host.address, TcpAddress)
        lines = [f"gdb-remote 127.0.0.1:{guest.host.address.port}", *commands, "detach"]
        arguments = [part for line in lines for part in ("-o", line)]
        done = subprocess.run(
            [lldb, "--batch", "-x", *arguments, *file], capture_output=True, text=True, timeout=60, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return done.stdout + done.stderr

    built = guest32()
    with GuestUnderGdb(path=built.image) as guest:
        text = ask(guest, "b inner", "c", "bt", "register read eip", "si", "disassemble -p -c 1", "finish", file=(built.file,))
    assert "inner(a=6, b=7)" in text, text
    assert re.search(r"frame #1: 0x\w+ .*middle", text)
    assert re.search(r"frame #2: 0x\w+ .*kernel_main", text)
    assert re.search(r"eip = 0x0010\w+", text)
    assert "Return value: (int) $0 = 43" in text
    at = modes.symbols["in_segment"]
    with GuestUnderGdb(path=modes.image) as guest:
        text = ask(guest, f"b -a {at:#x}", "c", "register read eip cs", "si", "register read eip")
    assert re.search(rf"eip = 0x{at:08x}\s+cs = 0x000007c0", text), text
    assert f"eip = 0x{at + 2:08x}" in text
