"""Linux's own tests of x86 and of its debug registers, built from Debian's source package, in a guest: each ends well."""

import io
import re
import subprocess
import sys
import tarfile
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the tools are no part of the package

from cases import kit
from system.linux_programs import guest_with
from tools import linux_guest
from tools.guests.packages import extract
from tools.guests.recipes import Recipe
from tools.guests.scenarios import program_output
from tools.guests.sources import GuestError

pytestmark = [pytest.mark.linux, pytest.mark.timeout(1800), pytest.mark.skipif(bool(kit.LACKING), reason=kit.LACKING)]
SOURCE = Recipe("linux-source-6.1", (), r"usr/src/linux-source-.*\.tar\.xz")
WANTED = re.compile(r"[^/]+/(tools/testing/selftests/(x86/.*|breakpoints/.*|kselftest.*)|arch/x86/include/asm/.*)")
X86 = (
    "check_initial_reg_state corrupt_xstate_header fsgsbase fsgsbase_restore ioperm iopl ldt_gdt mov_ss_trap ptrace_syscall "
    "sigaltstack sigreturn sigtrap_loop single_step_syscall syscall_arg_fault syscall_nt syscall_numbering sysret_rip "
    "sysret_ss_attrs test_mremap_vdso test_vsyscall"
).split()
FLAGS = "-O2 -std=gnu99 -pthread -static -no-pie -w -DCAN_BUILD_64".split()
MORE = {"check_initial_reg_state": ["-Wl,-ereal_start"], "breakpoint_test": ["-O0"]}  # the latter as its Makefile has it


@cache
def programs() -> dict[str, Path]:
    """The tests as static programs; the test is skipped where the package cannot be had."""
    try:
        packed = extract(linux_guest.package(SOURCE), SOURCE.file)
    except (GuestError, OSError) as error:
        pytest.skip(f"no sources of Linux: {error}")
    folder = Path(mkdtemp(prefix="trapgate-test-"))
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:xz") as tar:
        for member in tar:
            if WANTED.fullmatch(member.name) and (member.isfile() or member.isdir()):
                tar.extract(member, folder, filter="data")
    tests = next(folder.iterdir()) / "tools/testing/selftests"
    sources = {name: tests / "x86" / f"{name}.c" for name in X86}
    sources["breakpoint_test"] = tests / "breakpoints/breakpoint_test.c"
    for name, source in sources.items():
        parts = ["-o", str(folder / name), str(source), str(tests / "x86/thunks.S")]
        command = ["gcc", *FLAGS, *MORE.get(name, ()), f"-I{tests}", *parts]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
    return {name: folder / name for name in sources}


@pytest.mark.parametrize("cpu", ["SapphireRapids", "EPYC-Turin"])
def test_as_on_silicon(cpu: str) -> None:
    names = sorted(programs())
    loop = f"for t in {' '.join(names)};do timeout 300 $t>/tmp/$t 2>&1;echo ended $t $?;done;grep Totals /tmp/breakpoint_test"
    with guest_with("6.1", programs()).boot(cpu, f"trapgate.run={loop.replace(' ', ',')}", "--memory", "1G") as console:
        status = console.finish(1500)
        output = console.output
    found = dict(re.findall(r"^ended (\w+) (\d+)$", program_output(output), re.MULTILINE))
    assert found == dict.fromkeys(names, "0"), output[-3000:]
    assert "pass:110 fail:0" in output
    assert status == 0
