"""The system calls of a run, each by its number, with the arguments that matter."""

import os
import re
from pathlib import Path

import pytest

from trapgate.sandbox.bpf import Action
from trapgate.sandbox.calls import NEWEST, NUMBERS
from trapgate.sandbox.policy import CHANGES, CLIENTS, HOSTILE, SHARES, Needs, filter_program, rules
from unit.sandbox.judge import judged

HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
PLAIN, ALL = filter_program(Needs()), filter_program(Needs(debugger=True, kvm=True))
HERE, READ, WRITE, RUN, ANONYMOUS = os.getpid(), 1, 2, 4, 0x22
SHOWN = (  # call, arguments, what becomes of it without a stub and KVM, and with both
    ("mmap", (0, 4096, READ | WRITE, ANONYMOUS), Action.ALLOW, Action.ALLOW),
    ("mmap", (0, 4096, READ | RUN, 2, 3), Action.ALLOW, Action.ALLOW),
    ("mmap", (0, 4096, READ | RUN, ANONYMOUS), Action.REFUSED, Action.REFUSED),
    ("mmap", (0, 4096, WRITE | RUN, 2, 3), Action.REFUSED, Action.REFUSED),
    ("mprotect", (0, 4096, READ | WRITE), Action.ALLOW, Action.ALLOW),
    ("mprotect", (0, 4096, READ | RUN), Action.REFUSED, Action.REFUSED),
    ("clone", (0x3D0F00,), Action.ALLOW, Action.ALLOW),
    ("clone", (17,), Action.REFUSED, Action.REFUSED),
    ("kill", (HERE, 15), Action.ALLOW, Action.ALLOW),
    ("kill", (HERE + 1, 15), Action.REFUSED, Action.REFUSED),
    ("kill", (0xFFFFFFFF, 15), Action.REFUSED, Action.REFUSED),
    ("tgkill", (HERE, 9, 10), Action.ALLOW, Action.ALLOW),
    ("tgkill", (1, 1, 10), Action.REFUSED, Action.REFUSED),
    ("rt_sigaction", (2, 4096, 0, 8), Action.ALLOW, Action.ALLOW),
    ("rt_sigaction", (31, 4096, 0, 8), Action.REFUSED, Action.REFUSED),  # SIGSYS
    ("rt_sigaction", (1 << 32 | 31, 4096, 0, 8), Action.REFUSED, Action.REFUSED),
    ("prlimit64", (0, 7, 0, 4096), Action.ALLOW, Action.ALLOW),
    ("prlimit64", (0, 7, 4096, 0), Action.REFUSED, Action.REFUSED),
    ("prlimit64", (0, 7, 1 << 32, 0), Action.REFUSED, Action.REFUSED),
    ("ioctl", (0, 0x5401), Action.ALLOW, Action.ALLOW),  # TCGETS
    ("ioctl", (0, 0x5412), Action.REFUSED, Action.REFUSED),  # TIOCSTI
    ("ioctl", (9, 0xAE80), Action.REFUSED, Action.ALLOW),  # KVM_RUN
    ("ioctl", (9, 0xAE41), Action.REFUSED, Action.ALLOW),  # KVM_CREATE_VCPU
    ("fcntl", (0, 4, 0x800), Action.ALLOW, Action.ALLOW),  # F_SETFL
    ("fcntl", (0, 8, 1), Action.REFUSED, Action.REFUSED),  # F_SETOWN
    ("prctl", (15,), Action.ALLOW, Action.ALLOW),  # PR_SET_NAME
    ("prctl", (22,), Action.REFUSED, Action.REFUSED),  # PR_SET_SECCOMP
    ("accept4", (5,), Action.REFUSED, Action.ALLOW),
    ("setsockopt", (5, 6, 1), Action.REFUSED, Action.ALLOW),
    ("setsockopt", (5, 0, 64), Action.REFUSED, Action.REFUSED),  # SOL_IP
)
NEVER = {  # Linux's names and numbers: none of these is a run's
    "socket": 41, "connect": 42, "sendmsg": 46, "recvmsg": 47, "bind": 49, "listen": 50, "socketpair": 53, "fork": 57, "vfork": 58,
    "truncate": 76, "fchmod": 91, "chmod": 90, "chown": 92, "link": 86, "symlink": 88, "mknod": 133, "utime": 132, "setxattr": 188,
    "tkill": 200, "pkey_mprotect": 329, "setrlimit": 160, "shmget": 29, "timer_create": 222,
}  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "plain", "all_"), SHOWN)
def test_what_the_arguments_decide(name: str, arguments: tuple[int, ...], plain: Action, all_: Action) -> None:
    assert judged(PLAIN, NUMBERS[name], arguments) == plain
    assert judged(ALL, NUMBERS[name], arguments) == all_


@pytest.mark.parametrize("made", [PLAIN, ALL])
def test_every_number_that_there_is(made: bytes) -> None:
    named = {NUMBERS[name]: name for name in rules(Needs(debugger=True, kvm=True))}
    for number in range(1000):
        if number not in named:
            assert judged(made, number) == (Action.REFUSED if number <= NEWEST else Action.MISSING), number
    for name in HOSTILE.split():
        assert judged(made, NUMBERS[name]) == Action.ENDED, name
    assert not any(judged(made, number) == Action.ALLOW for number in NEVER.values())


def test_a_vm_is_made_again_for_a_debugger_only() -> None:
    made = filter_program(Needs(kvm=True))
    assert judged(made, NUMBERS["ioctl"], (9, 0xAE80)) == Action.ALLOW  # KVM_RUN
    assert {judged(made, NUMBERS["ioctl"], (9, request)) for request in (0xAE01, 0xAE41)} == {Action.REFUSED}


def test_a_run_without_a_stub_has_no_sockets() -> None:
    assert {judged(PLAIN, NUMBERS[name]) for name in CLIENTS.split()} == {Action.REFUSED}
    assert {judged(ALL, NUMBERS[name]) for name in CLIENTS.split()} == {Action.ALLOW}


def test_a_share_takes_its_calls_and_one_that_is_written_more() -> None:
    read, written = filter_program(Needs(shares=True)), filter_program(Needs(shares=True, writes=True))
    assert {judged(PLAIN, NUMBERS[name]) for name in SHARES.split()} == {Action.REFUSED}
    assert {judged(read, NUMBERS[name]) for name in SHARES.split()} == {Action.ALLOW}
    rows = (*((name, ()) for name in CHANGES.split()), ("mknodat", (3, 4096, 0o100644)), ("chmod", (4096, 0o2755)))
    for name, arguments in rows:
        assert judged(read, NUMBERS[name], arguments) == Action.REFUSED
        assert judged(written, NUMBERS[name], arguments) == Action.ALLOW
    for name, arguments in (("mknodat", (3, 4096, 0o020644)), ("mknodat", (3, 4096, 0o060644)), ("chmod", (4096, 0o4755))):
        assert judged(written, NUMBERS[name], arguments) == Action.REFUSED


@pytest.mark.skipif(not HEADER.exists(), reason="the kernel's headers are not installed")
def test_numbers_are_the_kernels() -> None:
    known = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", HEADER.read_text())}
    assert known.items() >= NUMBERS.items()
    assert known.items() >= NEVER.items()
